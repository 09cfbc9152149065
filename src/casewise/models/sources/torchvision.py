"""Networks of torchvision: its convolutional classifiers, with weights trained on ImageNet."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from casewise.errors import WeightsError
from casewise.files import checksum
from casewise.study.sources import SYMMETRIC, BackboneSource, Body, KnownEncoder, Origin
from casewise.study.weight_files import remembered_checksum

if TYPE_CHECKING:
    from torch import Tensor

ALL29 = [
    *["alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"],
    *["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"],
    *["wide_resnet50_2", "wide_resnet101_2", "squeezenet1_0", "squeezenet1_1", "densenet121", "densenet169"],
    *["googlenet", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "mobilenet_v2", "mobilenet_v3_large"],
    *["mobilenet_v3_small", "mnasnet0_5", "mnasnet1_0"],
]
# the 29, and the backbones of another preset
_NAMES = [*ALL29, "densenet201", *[f"efficientnet_b{i}" for i in range(8)]]
# The first digits of the SHA-256 of torchvision's files for these networks, as their names state them.
_DIGITS = (
    "7be5be79 8a719046 19584684 397923af 88682ab5 dcbb9e9d 6002323d abd245e5 6c64b313 c79401a0 f37072fd b627a593 "
    "0676ba61 11ad3fa6 63fe2227 cd907fc2 394f9c45 f82ba261 7cdf4587 1a0047aa 95faca4d 9ba9bcbe 32ee1156 d733dc28 "
    "b66bff10 b8a52dc0 a639ec97 b2777c0a 1378be20 f707e7126e 5666bf0f80 b0353104 7ebf99e0 8738ca79 5c1a4163 047dcff4 "
    "3ffadce67e f206786ef8 c1103571 7f5810bc bac287d4 c27df63c c35c1473 b3899882 23ab8bcd 1a07897c 24a108a5 c5b4e57e"
)
_IMAGES, _LICENCE, _ZOO = "ImageNet", "bsd-3-clause", ("ImageNet", "apache-2.0")
_ENDS_POOLED = "features avgpool Flatten classifier"


class _Torchvision(BackboneSource):
    name = package = "torchvision"
    groups: ClassVar = {"all29": ALL29}
    is_convolutional = True
    # Fast networks first, because an embedding is computed for every image of the cohort.
    quick = ("squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "resnet18", "resnet34")
    encoders = (
        KnownEncoder("mobilenet_v2", _IMAGES, 0.6, 60, licence=_LICENCE),
        KnownEncoder("resnet34", _IMAGES, 2.1, 50, licence=_LICENCE),
        KnownEncoder("shufflenet_v2_x1_0", _IMAGES, 0.2, 61, licence=_LICENCE),
        KnownEncoder("squeezenet1_1", _IMAGES, 0.2, 70, licence=_LICENCE),
    )
    published: ClassVar = {
        "d3fa7f6d95b73842963960e0f50946e0a2761eb4075816a6df230570df79ce35": ("MobileNetV2 of google-coral", *_ZOO),
        "390f6b663f2d7e9b30b942c3d9e5ffbded8d44ddeb4ce01adae914b3bd8f467a": ("SqueezeNet 1.1 of the model zoo", *_ZOO),
    }
    chains: ClassVar = {
        **{f"torchvision.{name}": _ENDS_POOLED for name in ("AlexNet", "VGG", "EfficientNet", "MobileNetV3")},
        "torchvision.MobileNetV2": "features Pool Flatten classifier",
        "torchvision.DenseNet": "features ReLU Pool Flatten classifier",
        "torchvision.SqueezeNet": "features classifier Flatten",
        "casewise.MNASNet": "layers Mean classifier",
        "torchvision.ShuffleNetV2": "conv1 maxpool stage2 stage3 stage4 conv5 Mean fc",
        "torchvision.ResNet": "conv1 bn1 relu maxpool layer1 layer2 layer3 layer4 avgpool Flatten fc",
    }

    def names(self) -> Sequence[str]:
        return _NAMES

    def cached_files(self, name: str) -> list[Path]:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        checkpoints = Path(os.environ.get("TORCH_HOME", cache / "torch")) / "hub" / "checkpoints"
        stems = {path: path.stem.partition("-")[0] for path in sorted(checkpoints.glob("*.pth"))}
        plain = {path: _plain(re.sub(r"_rwightman$|_top1.*$", "", stem)) for path, stem in stems.items()}
        return [path for path, stem in plain.items() if stem == _plain(name)]

    def origin(self, name: str) -> Origin:
        for file in self.cached_files(name):
            if file.stem.rpartition("-")[2] in _DIGITS.split():  # others are not used
                _check_digits(file, remembered_checksum(file))
        return Origin("published", f"torchvision {name}", images=_IMAGES, licence=_LICENCE)

    def recognised(self, file: Path, digest: str) -> Origin | None:
        if file.suffix != ".safetensors" and digest.startswith(tuple(_DIGITS.split())):
            return Origin("published", f"torchvision {file.stem}", digest, _IMAGES, licence=_LICENCE)
        return super().recognised(file, digest)

    def build(self, name: str, *, scaling: str, is_fused: bool, **options: Any) -> Body:
        from torch import nn
        from torchvision import models

        from casewise.models.layers import MNASNet, ShuffleBlock

        normal = Body.normal
        if name == "googlenet":
            # The auxiliary heads train on extra losses that are not used here; its published weights expect inputs in
            # [−1, 1], into which transform_input converts the usual normalisation of colours.
            converted = scaling == "library" and not is_fused
            normal = normal if converted else SYMMETRIC
            body = models.googlenet(weights=None, aux_logits=False, init_weights=True, transform_input=converted)
        else:
            body = models.get_model(name, weights=None)
        if name.startswith("shufflenet"):
            for stage in ("stage2", "stage3", "stage4"):
                setattr(body, stage, nn.Sequential(*map(ShuffleBlock, getattr(body, stage))))
        if name.startswith("mnasnet"):
            body = MNASNet(body)
        if name.startswith("squeezenet"):
            # Its classifier ends in a ReLU: a regression could not predict below zero, and would have no gradient there
            body.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1))
            return Body(body, 512, head=("classifier.",))
        attribute = "classifier" if hasattr(body, "classifier") else "fc"
        last: Any = getattr(body, attribute)
        if isinstance(last, nn.Sequential):
            attribute = f"{attribute}.{len(last) - 1}"
        linear: Any = body.get_submodule(attribute)
        outer, _, child = attribute.rpartition(".")
        setattr(body.get_submodule(outer), child, nn.Identity())
        return Body(body, int(linear.in_features), normal, head=(f"{attribute}.", "aux1.", "aux2."))

    def download(self, name: str) -> tuple[str, dict[str, Tensor]]:
        from torchvision.models import get_model_weights

        from casewise.models.weights import read_tensors

        choice = get_model_weights(name)["IMAGENET1K_V1"]
        return f"torchvision {choice}", read_tensors(downloaded_file(choice.url))


def downloaded_file(url: str) -> Path:
    """A file of weights in PyTorch's cache, downloaded if it is missing there; its name ends with its first digits.

    Raises:
        WeightsError: its SHA-256 does not begin with them.
    """
    from torch import hub

    path = Path(hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.download_url_to_file(url, str(path), progress=False)
    _check_digits(path, checksum(path))
    return path


def _check_digits(path: Path, digest: str) -> None:
    """Check that a file in PyTorch's cache has the first digits of the SHA-256 that its name ends with."""
    digits = path.stem.rpartition("-")[2]
    if not digest.startswith(digits):
        raise WeightsError(f"weights: {path} was changed: its SHA-256 does not begin with {digits}. Delete the file.")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


SOURCES = (_Torchvision(),)
