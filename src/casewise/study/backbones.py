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
# all backbones of torchvision: the 29, and those of another preset
TORCHVISION = [*ALL29, "densenet201", *[f"efficientnet_b{i}" for i in range(8)]]
# networks of casewise, without published weights (`casewise.models.plain_cnn`)
UNTRAINED = ["cnn", "unet_encoder"]
# a model function of timm: the line of its decorator, and perhaps others, before its name
_REGISTERED = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)\(", re.MULTILINE)


def check_backbones(names: list[str], source: str = "backbones") -> list[str]:
    """Return `names` if casewise, torchvision or timm has each of them (`timm:NAME` if both libraries do).

    The fusion after an `@` is not checked.

    Raises:
        StudyError: names the unknown backbone and the nearest existing one.
    """
    for stated in names:
        name = stated.partition("@")[0]
        if name in TORCHVISION or name in UNTRAINED:
            continue
        of_timm = timm_names()
        if str(name).removeprefix("timm:") not in of_timm:
            hint = nearest(name, [*TORCHVISION, *UNTRAINED]) or nearest(name, of_timm)
            raise StudyError(f"{source}: there is no backbone {cut(name)}.{hint} See `casewise backbones`.")
    return names


@cache
def timm_names() -> list[str]:
    """Names of the networks that timm offers, if it is installed; read from its source, since to load it takes long."""
    spec = util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return []
    names: set[str] = set()
    for file in Path(spec.submodule_search_locations[0], "models").glob("*.py"):
        names |= set(_REGISTERED.findall(file.read_text(encoding="utf-8")))
    return sorted(names)
