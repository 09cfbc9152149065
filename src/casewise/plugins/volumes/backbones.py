"""The sources of three-dimensional networks, which load no network library until one is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import StudyError
from casewise.study.sources import BackboneSource, Body, Origin, check_networks, source_of

if TYPE_CHECKING:
    from torch import Tensor, nn

_PLAIN = {"resnet18_3d": "resnet18", "resnet34_3d": "resnet34"}


class InflatedNetworks(BackboneSource):
    """`inflated:NAME`: a convolutional network of torchvision or timm with kernels in three dimensions.

    It begins with the weights of NAME, each kernel repeated along depth and divided by its depth. Source: Carreira and
    Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017; for MRI of the pancreas LaLonde et al., "INN: Inflated
    Neural Networks for IPMN Diagnosis", MICCAI 2019.
    """

    name = "torchvision or timm"
    prefix = "inflated:"
    reads_volumes = True

    def check(self, name: str, key: str) -> None:
        flat = self.flat(name)
        check_networks([flat], key)
        source = source_of(flat)
        if key.endswith("encoders"):
            raise StudyError(f"{key}: {name} reads volumes, and an encoder reads single slices; write {flat}.")
        if source.reads_volumes or source.has_config or not source.is_pretrained:
            raise StudyError(
                f"{key}: {name}: only networks of torchvision and timm are inflated, such as {self.prefix}resnet18."
            )

    def flat(self, name: str) -> str:
        return name.removeprefix(self.prefix)

    def cached_files(self, name: str) -> list[Path]:
        return source_of(self.flat(name)).cached_files(self.flat(name))

    def is_cached(self, name: str) -> bool:
        return source_of(self.flat(name)).is_cached(self.flat(name))

    def origin(self, name: str) -> Origin:
        return source_of(self.flat(name)).origin(self.flat(name))

    def build(self, name: str, **options: Any) -> Body:
        from casewise.plugins.volumes.inflated import inflate

        body = source_of(self.flat(name)).build(self.flat(name), **options)
        inflate(body.module, name)
        return body

    def download(self, name: str) -> tuple[str, dict[str, Tensor]]:
        return source_of(self.flat(name)).download(self.flat(name))

    def fitted(self, body: nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        from casewise.plugins.volumes.inflated import inflated_tensors

        return inflated_tensors(body, tensors)


class PlainVolumes(BackboneSource):
    """ResNets with kernels in three dimensions and random weights."""

    name = "casewise's plugin volumes"
    is_pretrained = False
    reads_volumes = True

    def names(self) -> Sequence[str]:
        return tuple(_PLAIN)

    def build(self, name: str, **options: Any) -> Body:
        from casewise.plugins.volumes.inflated import draw_kernels, inflate

        body = source_of(_PLAIN[name]).build(_PLAIN[name], **options)
        inflate(body.module, name)
        draw_kernels(body.module)
        return body
