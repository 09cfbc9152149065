"""Networks of casewise, without published weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from casewise.study.sources import SYMMETRIC, BackboneSource, Body


class _Plain(BackboneSource):
    name = "casewise"
    is_pretrained = False
    is_convolutional = True
    with_map = ("unet", "unet_unpadded")
    chains: ClassVar = {"casewise.PlainNetwork": "features pool Flatten classifier"}

    def names(self) -> Sequence[str]:
        return ("cnn", "unet_encoder", *self.with_map)

    def build(self, name: str, **options: Any) -> Body:
        from casewise.models.layers import plain_network

        module, width = plain_network(name)
        return Body(module, width, SYMMETRIC, head=())


SOURCES = (_Plain(),)
