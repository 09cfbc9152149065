"""The tables and figures of a publication from finished runs, with the published values."""

from __future__ import annotations

from casewise.plugin import Plugin


class _Paper(Plugin):
    name = "paper"
    command = ("paper", "Write the tables and figures of a publication.", "results")


plugin = _Paper()
