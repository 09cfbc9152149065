"""The start of a study: from a preset, or from the table and the images that people have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.plugin import Plugin

if TYPE_CHECKING:
    from casewise.plugins.init.new_study import NewStudy


class _Init(Plugin):
    name = "init"
    command = ("init", "Write a study file, and a table from folders of images.", "audit")
    functions = (("joined_cases", "joined_cases:joined_cases"),)

    def new_study(
        self,
        table: Sequence[Path],
        images: Path | None,
        target: str,
        subject: str,
        pattern: str,
        folder: Path,
        preset: str = "",
    ) -> NewStudy:
        from casewise.errors import CasewiseError
        from casewise.plugins.init.own_data import plan_study
        from casewise.plugins.init.preset import plan_preset

        if preset:
            if extra := "--target" if target else "--subject" if subject else "":
                raise CasewiseError(f"{extra} is for your own data and does not go with the preset {preset}.")
            return plan_preset(preset, table=table, images=images, pattern=pattern, folder=folder)
        return plan_study(table=table, images=images, target=target, subject=subject, pattern=pattern, folder=folder)


plugin = _Init()
