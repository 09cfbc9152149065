"""Whole slides, cut into tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.plugin import Plugin

if TYPE_CHECKING:
    from casewise.modalities.base import Modality


class _Slides(Plugin):
    name = extra = "slides"
    section = "tiles"
    report = "casewise.plugins.slides.report_section"
    functions = (
        ("claim", "cohort:start_with_slides"),
        ("refuse", "cohort:refuse_slides"),
    )
    keys = (("", "settings:SlidesKeys"),)

    def modality(self) -> Modality:
        from casewise.plugins.slides.modality import MODALITY

        return MODALITY


plugin = _Slides()
