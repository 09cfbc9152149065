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
        return {"panels": {"pooling": "maps"}} if values.get("volumes") else {}

    def modality(self) -> Modality:
        from casewise.plugins.volumes.modality import MODALITY

        return MODALITY


plugin = _Volumes()
