"""The start of a study: from a preset, or from the table and the images that people have."""

from __future__ import annotations

from casewise.plugin import Plugin


class _Init(Plugin):
    name = "init"
    command = ("init", "Write a study file, and a table from folders of images.", "audit")


plugin = _Init()
