"""The repetition of a finished run, and the comparison of both."""

from __future__ import annotations

from casewise.plugin import Plugin


class _Reproduce(Plugin):
    name = "reproduce"
    command = ("reproduce", "Repeat a finished run in a new folder, and compare both.", "status")
    functions = (("reproduce", "comparison:reproduce"),)


plugin = _Reproduce()
