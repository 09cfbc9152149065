"""The names of backbones. No network library is loaded when a study file is checked."""

from __future__ import annotations

import re
from functools import cache
from importlib import util
from pathlib import Path

from casewise.errors import StudyError, cut, nearest

ALL29 = [
    *["alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"],
    *["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"],
    *["wide_resnet50_2", "wide_resnet101_2", "squeezenet1_0", "squeezenet1_1", "densenet121", "densenet169"],
    *["googlenet", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "mobilenet_v2", "mobilenet_v3_large"],
    *["mobilenet_v3_small", "mnasnet0_5", "mnasnet1_0"],
]
# all backbones of torchvision: the 29, and the backbones of another preset
TORCHVISION = [*ALL29, "densenet201", *[f"efficientnet_b{i}" for i in range(8)]]
# networks of casewise, without published weights (`casewise.models.layers`)
UNTRAINED = ["cnn", "unet_encoder", "unet", "unet_unpadded"]
# those with a map of their own, which masks train
WITH_MAP = ["unet", "unet_unpadded"]
# a repository of timm's hub, perhaps with a revision
_HUB = re.compile(r"^hf-hub:[\w.-]+/[\w.-]+(?:@[\w.-]+)?$")
# a model function of timm: the line of its decorator, and perhaps others, before its name
_REGISTERED = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)\(", re.MULTILINE)


def check_backbones(names: list[str], source: str = "backbones") -> list[str]:
    """Return `names` if casewise, torchvision or timm has each of them (`timm:NAME` if both libraries do).

    timm's names may state the weights after a dot, and repositories of its hub are `hf-hub:owner/name`, as for
    encoders. The fusion after an `@` is not checked.

    Raises:
        StudyError: names the unknown backbone and the nearest existing one.
    """
    for name in names:
        _check_network(name.partition("@")[0], source, "backbone", [*TORCHVISION, *UNTRAINED])
    return names


def _check_network(name: str, source: str, noun: str, own: list[str]) -> None:
    """Check that a name is among `own`, or is one of timm's with the weights that it states, or one of its hub."""
    if name in own or _is_hub(name, source):
        return
    architecture, _, tag = name.removeprefix("timm:").partition(".")
    if architecture not in timm_names():
        timm = [f"timm:{other}" if name.startswith("timm:") else other for other in timm_names()]
        hint = nearest(name.partition(".")[0], own) or nearest(name.partition(".")[0], timm)
        raise StudyError(f"{source}: there is no {noun} {cut(name)}.{hint} See `casewise backbones`.")
    if tag and tag not in (tags := timm_tags(architecture)):
        full = [f"{name.partition('.')[0]}.{other}" for other in tags]
        hint = nearest(name, full) or (f" There are {', '.join(tags[:5])}." if tags else "")
        raise StudyError(f"{source}: {architecture} has no weights {cut(tag)}.{hint}")


def _is_hub(name: str, source: str) -> bool:
    """Whether a name means a hub repository; it is not looked up."""
    if not name.startswith("hf-hub:") and "/" not in name:
        return False
    if not _HUB.match(name):
        hint = nearest(name, [f"hf-hub:{name}"]) if _HUB.match(f"hf-hub:{name}") else ""
        raise StudyError(f"{source}: {cut(name)} is not written as `hf-hub:owner/name`.{hint}")
    return True


def check_encoders(names: list[str], source: str = "encoders") -> list[str]:
    """Return `names` if each is a network of torchvision or timm, or written as one of timm's hub.

    timm's names may state the weights after a dot: `timm:vit_small_patch14_dinov2.lvd142m`.

    Raises:
        StudyError: names the unknown encoder and the nearest existing one.
    """
    for name in names:
        if name in UNTRAINED:
            raise StudyError(
                f"{source}: encoders: {name} has no published weights, and the weights of an encoder are not trained."
            )
        _check_network(name, f"{source}: encoders", "network", TORCHVISION)
    return names


@cache
def timm_names() -> list[str]:
    """Names of the networks that timm offers, if it is installed; read from its source, since to load it takes long."""
    return sorted({name for text in _timm_sources() for name in _REGISTERED.findall(text)})


def timm_tags(architecture: str) -> list[str]:
    """The names of the published weights of one of timm's networks.

    >>> "lvd142m" in timm_tags("vit_small_patch14_dinov2")
    True
    """
    stated = re.compile(rf"[\"']{re.escape(architecture)}\.([\w-]+)[\"']\s*:")
    return sorted({tag for text in _timm_sources() for tag in stated.findall(text)})


def _timm_sources() -> list[str]:
    spec = util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return []
    files = Path(spec.submodule_search_locations[0], "models").glob("*.py")
    return [file.read_text(encoding="utf-8") for file in files]
