"""Scans: NIfTI files, DICOM series, and ordered slice images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from casewise.plugin import Plugin

if TYPE_CHECKING:
    from casewise.modalities.base import Modality


class _Volumes(Plugin):
    name = extra = section = "volumes"
    report = "casewise.plugins.volumes.report_section"
    functions = (("fused_body", "fusion:fused_body"),)
    keys = (("", "settings:VolumesKeys"),)

    def planned_defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        from casewise.plugins.volumes.settings import reads_volumes

        if not values.get("volumes"):
            return {}
        names = [name for name in values.get("backbones") or () if isinstance(name, str)]
        return {"panels": {"grid": "4x4"} if reads_volumes(names) else {"pooling": "maps"}}

    def register(self) -> None:
        from casewise.plugins.volumes.backbones import InflatedNetworks, PlainVolumes
        from casewise.study.sources import register_source

        register_source(InflatedNetworks())
        register_source(PlainVolumes())

    def modality(self) -> Modality:
        from casewise.plugins.volumes.modality import MODALITY

        return MODALITY


plugin = _Volumes()
