"""The names of backbones. No network library is loaded to check a study file, unless a name is one of timm's."""

from __future__ import annotations

from importlib import import_module, util

from casewise.errors import StudyError, nearest

ALL29 = [
    *["alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"],
    *["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"],
    *["wide_resnet50_2", "wide_resnet101_2", "squeezenet1_0", "squeezenet1_1", "densenet121", "densenet169"],
    *["googlenet", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "mobilenet_v2", "mobilenet_v3_large"],
    *["mobilenet_v3_small", "mnasnet0_5", "mnasnet1_0"],
]
# All that torchvision builds here: what another study needs beside the 29.
TORCHVISION = [*ALL29, "densenet201", *[f"efficientnet_b{i}" for i in range(8)]]
# Built here; no weights of them are published, so that they begin with random ones (`casewise.models.plain_cnn`).
UNTRAINED = ["cnn", "unet_encoder"]


def check_backbones(names: list[str], source: str = "backbones") -> list[str]:
    """Return `names` if every one is built here, by torchvision, or by timm (`timm:NAME` where both have it).

    What stands behind an `@`, the fusion of a study of volumes, is not checked.

    Raises:
        StudyError: naming the unknown backbone and the nearest known one.
    """
    for stated in names:
        name = stated.partition("@")[0]
        if name in TORCHVISION or name in UNTRAINED:
            continue
        known = timm_names()
        if str(name).removeprefix("timm:") not in known:
            hint = nearest(name, [*TORCHVISION, *UNTRAINED]) or nearest(name, known)
            raise StudyError(f"{source}: there is no backbone {name!r}.{hint} See `casewise backbones`.")
    return names


def timm_names() -> list[str]:
    """Names of the networks that timm offers, if it is installed."""
    if util.find_spec("timm") is None:
        return []
    return list(import_module("timm").list_models())
