"""The tables and figures of a publication from finished runs, beside the published values."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.plugin import Command, Plugin


class _Paper(Plugin):
    name = "paper"

    def commands(self) -> Sequence[Command]:
        from casewise.plugins.paper.command import paper

        return [Command("paper", paper, "Write the tables and figures of a publication.", after="results")]


plugin = _Paper()
