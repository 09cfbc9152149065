"""The names of backbones. Only names of timm load a network library when a study file is checked."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib import import_module, metadata, util

from casewise.errors import RunError, StudyError, nearest
from casewise.files import cache_folder, write_json

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
        of_timm = timm_names(str(name).removeprefix("timm:"))
        if str(name).removeprefix("timm:") not in of_timm:
            hint = nearest(name, [*TORCHVISION, *UNTRAINED]) or nearest(name, of_timm)
            raise StudyError(f"{source}: there is no backbone {name!r}.{hint} See `casewise backbones`.")
    return names


def timm_names(expected: str = "") -> list[str]:
    """Names of the networks that timm offers, if it is installed.

    Loading timm takes seconds, so its names are kept in the cache folder; if `expected` is none of them, it is loaded.
    """
    if util.find_spec("timm") is None:
        return []
    stored = cache_folder() / f"timm-{metadata.version('timm')}.json"
    with suppress(OSError, ValueError):
        names = json.loads(stored.read_text(encoding="utf-8"))
        if expected in names:
            return list(map(str, names))
    names = list(import_module("timm").list_models())
    with suppress(OSError, RunError):
        stored.parent.mkdir(parents=True, exist_ok=True)
        write_json(stored, names, durable=False)
    return names
