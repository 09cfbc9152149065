"""The start of a study: from a preset, or from the table and the images that people have."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.plugin import Command, Plugin


class _Init(Plugin):
    name = "init"

    def commands(self) -> Sequence[Command]:
        from casewise.plugins.init.command import init

        return [Command("init", init, "Write a study file, and a table from folders of images.", after="audit")]


plugin = _Init()
