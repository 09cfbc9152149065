"""Predictions of new cases in formats that hospitals exchange; a format is one file, registered in `formats`."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.plugin import Plugin


class _Hospital(Plugin):
    name = extra = "hospital"
    functions = (
        ("check_result_format", "formats:format_named"),
        ("result_folders", "formats:result_folders"),
    )

    def result_formats(self) -> Sequence[str]:
        from casewise.plugins.hospital.formats import FORMATS

        return list(FORMATS)


plugin = _Hospital()
