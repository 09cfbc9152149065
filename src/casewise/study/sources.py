"""Sources of backbones: libraries with networks and their published weights. One file with a `BackboneSource` adds one.

Names, files and origins are asked without loading a network library; a source imports its library inside its methods.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from casewise.errors import StudyError, cut, nearest
from casewise.plugin import KEYS, register_additions

if TYPE_CHECKING:
    from torch import Tensor, nn

# The sources of casewise: `SOURCES` of each module.
FOLDER = "casewise.models.sources"
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SYMMETRIC = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

Kind = Literal["random", "published", "bundle", "file", "unrecorded"]


@dataclass(frozen=True)
class Origin:
    """Where the first weights of one network come from.

    Attributes:
        name: of the published weights, the bundle or the file; without folders.
        sha256: of the file, or of its tensors (`tensors_sha256`) if it is in safetensors; empty without a file.
        images: what published weights were trained on, if that is known.
        fingerprints: whether a bundle has fingerprints of its training images, which are compared with the cohort.
        licence: of published weights, as hubs write it, if it is known.
    """

    kind: Kind
    name: str = ""
    sha256: str = ""
    images: str = ""
    fingerprints: bool = False
    licence: str = ""

    @property
    def is_apart(self) -> bool:
        """Whether it is known that no case of the study is among the images behind the weights."""
        return self.kind == "random" or bool(self.images) or self.fingerprints


@dataclass(frozen=True)
class Body:
    """A library's network without its last layer, the width of its features, and its input's mean and deviation.

    `read_map` is the module whose map is read instead of the output; empty for the output. `head`: how the names of the
    library's last layer and of auxiliary heads begin in its weights. `blocks`: of a transformer without timm's
    `forward_intermediates`, the modules whose tokens are maps.
    """

    module: nn.Module
    width: int
    normal: tuple[tuple[float, ...], tuple[float, ...]] = (MEAN, STD)
    read_map: str = ""
    head: tuple[str, ...] = ("head.", "classifier.", "fc.", "head_dist.", "last_linear.")
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True)
class KnownEncoder:
    """A network whose frozen features are known to be good.

    Attributes:
        name: as a study states it.
        images: what it was trained on.
        seconds: of one core of a processor for a megapixel, see `docs/explanation-plan.md`.
        rank: the better, the smaller.
        family: only the best of a family at hand is used.
        access: empty if its weights are open, otherwise what its owners ask.
        licence: of the weights, as hubs write it.
    """

    name: str
    images: str
    seconds: float
    rank: int
    family: str = ""
    access: str = ""
    licence: str = "apache-2.0"


class BackboneSource:
    """A library of networks; a subclass overrides what its library has.

    The argument `name` of its methods is the name as the study states it, with the prefix if it was written.

    Attributes:
        name: the library in messages.
        package: its package, whose version runs record; empty for casewise itself.
        prefix: how names may begin, with a colon; it is left out of the names of files.
        groups: names that stand for several networks in a study file.
        is_pretrained: whether there are published weights.
        has_config: whether a config.json beside the weights describes the network; then `read_config` reads it.
        is_convolutional: whether all its networks take panels of any side and have no tokens.
        reads_volumes: whether its networks read the slices of a panel as a volume; then they are no encoders.
        takes_other_names: whether it has names that `names` does not list; it is asked after all other sources.
        quick: networks for the embedding of every image, in order of preference.
        encoders: those from which a planned study takes the encoders of its baselines.
        with_map: networks with a map of their own, which masks train; their bodies have `features_and_map` and
            `mask_loss`, and explanations show their `map_of`, as in `casewise.plugins.published.unet`.
        published: by `tensors_sha256` the name, images and licence of files of weights, as in `Origin`.
        chains: by package and class of a body, such as `torchvision.ResNet`, the order in which its forward pass runs
            its children, and the operations between them (`casewise.models.freezing`).
    """

    name: ClassVar[str]
    package: ClassVar[str] = ""
    prefix: ClassVar[str] = ""
    groups: ClassVar[Mapping[str, Sequence[str]]] = {}
    is_pretrained: ClassVar[bool] = True
    has_config: ClassVar[bool] = False
    is_convolutional: ClassVar[bool] = False
    reads_volumes: ClassVar[bool] = False
    takes_other_names: ClassVar[bool] = False
    quick: ClassVar[Sequence[str]] = ()
    encoders: ClassVar[Sequence[KnownEncoder]] = ()
    with_map: ClassVar[Sequence[str]] = ()
    published: ClassVar[Mapping[str, tuple[str, str, str]]] = {}
    chains: ClassVar[Mapping[str, str]] = {}

    def names(self) -> Sequence[str]:
        """Names of its networks, without the prefix."""
        return ()

    def has(self, name: str) -> bool:
        """Whether a name means one of its networks, as far as its spelling tells."""
        return bool(self.prefix and name.startswith(self.prefix)) or name in self.names()

    def check(self, name: str, key: str) -> None:
        """Check a name that it has, of the key of the study file.

        Raises:
            StudyError: there is no such network, or there are no such weights of it.
        """

    def flat(self, name: str) -> str:
        """The network that reads single images with the weights of this one."""
        return name

    def cached_files(self, name: str) -> list[Path]:
        """Files of weights that the library has downloaded for a network earlier."""
        return []

    def is_cached(self, name: str) -> bool:
        """Whether the library has downloaded a network earlier."""
        return bool(self.cached_files(name))

    def origin(self, name: str) -> Origin:
        """The origin of the weights that the library downloads, or has downloaded.

        Raises:
            WeightsError: the file in the library's cache is not the one that was downloaded.
        """
        return Origin("published", f"{self.name} {name}")

    def recognised(self, file: Path, digest: str) -> Origin | None:
        """The origin of a file that it has published, by the digest of its tensors, or of its bytes."""
        if digest not in self.published:
            return None
        name, images, licence = self.published[digest]
        return Origin("published", name, digest, images, licence=licence)

    def read_config(self, name: str, path: Path, config: Any) -> Mapping[str, Any]:
        """`architecture` and `arguments` of a network from its config.json, for `build`; they are stored with it.

        Raises:
            WeightsError: the library cannot build the network.
        """
        raise NotImplementedError

    def side(self, name: str, side: int, config: Mapping[str, Any]) -> int | None:
        """The side for which an encoder is built, near the `side` of the panels; None if it reads any side."""
        return None

    def build(
        self, name: str, *, side: int | None, channels: int, scaling: str, is_fused: bool, config: Mapping[str, Any]
    ) -> Body:
        """A network with random weights: panels (B, channels, side, side) to features (B, width).

        Args:
            side: None for the side of its published weights.
            scaling: `library` or `symmetric`; see `casewise.models.backbones.NetworkOptions`.
            is_fused: whether panels are sequences, not colours.
            config: `architecture` and `arguments` as from `read_config`, if it has a config.json.

        Raises:
            StudyError: the network cannot be built for panels of this size.
        """
        raise NotImplementedError

    def download(self, name: str) -> tuple[str, dict[str, Tensor]]:
        """The published weights and a clause on their origin, from the library's cache or by download into it."""
        raise NotImplementedError

    def download_config(self, name: str) -> Path:
        """The config.json of a network, from the library's cache or by download into it."""
        raise NotImplementedError

    def fitted(self, body: nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        """Published weights as a body for another size of panel needs them, and a clause on what was changed."""
        return tensors, ""


_REGISTERED: list[BackboneSource] = []


def register_source(source: BackboneSource) -> None:
    """Let studies name the networks of a source; a source of the same name is replaced."""
    _REGISTERED[:] = [other for other in _REGISTERED if other.name != source.name] + [source]


def added_sources() -> list[BackboneSource]:
    """The registered sources, which another process has to register again."""
    return list(_REGISTERED)


@cache
def _own_sources() -> list[BackboneSource]:
    folder = import_module(FOLDER).__path__
    modules = [import_module(f"{FOLDER}.{module.name}") for module in pkgutil.iter_modules(folder)]
    return [source for module in modules for source in getattr(module, "SOURCES", ())]


def sources() -> list[BackboneSource]:
    """All sources: those that others registered, casewise's, and last the one that takes all other names."""
    register_additions()
    return sorted([*_REGISTERED, *_own_sources()], key=lambda source: source.takes_other_names)


def known_encoders() -> list[KnownEncoder]:
    """The encoders of all sources, the best first."""
    return sorted((known for source in sources() for known in source.encoders), key=lambda known: known.rank)


def source_of(name: str) -> BackboneSource:
    """The source of a network."""
    *listed, last = sources()
    return next((source for source in listed if source.has(name)), last)


def listed_names(*, pretrained: bool = False) -> list[str]:
    """The names of all networks, except in the source that takes any name."""
    listed = [source for source in sources()[:-1] if source.is_pretrained or not pretrained]
    return [name for source in listed for name in source.names()]


def with_map() -> list[str]:
    """Networks with a map of their own, which masks train."""
    return [name for source in sources() for name in source.with_map]


def libraries() -> list[str]:
    """The packages of all sources."""
    return list(dict.fromkeys(source.package for source in sources() if source.package))


def check_networks(names: list[str], key: str = "backbones", *, encoders: bool = False) -> list[str]:
    """Return `names` if there is a network of each of them; `timm:NAME` if torchvision has the name as well.

    timm's names may state the weights after a dot, and repositories of its hub are `hf-hub:owner/name`. The fusion of a
    backbone after an `@` is not checked.

    Args:
        encoders: whether they are encoders, which need published weights.

    Raises:
        StudyError: names the unknown network and the nearest existing one.
    """
    for stated in names:
        name, where = (stated, f"{key}: encoders") if encoders else (stated.partition("@")[0], key)
        source = source_of(name)
        if encoders and not source.is_pretrained:
            raise StudyError(
                f"{where}: {name} has no published weights, and the weights of an encoder are not trained."
            )
        if not source.has(name):
            stem = name.partition(".")[0]
            prefix = source.prefix if name.startswith(source.prefix) else ""
            own, others = listed_names(pretrained=encoders), [prefix + other for other in source.names()]
            hint = nearest(stem, own) or nearest(stem, others)
            noun = "network" if encoders else "backbone"
            if plugin := KEYS.get(f"backbones.{name}"):
                raise StudyError(
                    f"{where}: {name} belongs to the plugin {plugin!r} of casewise, which is not installed."
                )
            raise StudyError(f"{where}: there is no {noun} {cut(name)}.{hint} See `casewise backbones`.")
        source.check(name, where)
    return names
