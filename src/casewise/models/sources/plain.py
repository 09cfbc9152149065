"""The network of casewise, without published weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from casewise.study.sources import SYMMETRIC, BackboneSource, Body


class _Plain(BackboneSource):
    name = "casewise"
    is_pretrained = False
    is_convolutional = True
    chains: ClassVar = {"casewise.PlainNetwork": "features pool Flatten classifier"}

    def names(self) -> Sequence[str]:
        return ("cnn",)

    def build(self, name: str, **options: Any) -> Body:
        from casewise.models.layers import CNN, PlainNetwork

        return Body(PlainNetwork(CNN), CNN.dense, SYMMETRIC, head=())


SOURCES = (_Plain(),)
