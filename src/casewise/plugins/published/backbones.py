"""The source of the U-Nets, which loads no network library until one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from casewise.study.sources import BackboneSource, Body


class UNets(BackboneSource):
    """U-Nets and their encoder, without published weights."""

    name = "casewise's plugin published"
    is_pretrained = False
    is_convolutional = True
    with_map = ("unet", "unet_unpadded", "unet_dense")

    def names(self) -> Sequence[str]:
        return ("unet_encoder", *self.with_map)

    def build(self, name: str, **options: Any) -> Body:
        from casewise.plugins.published.unet import published_network

        return published_network(name)
