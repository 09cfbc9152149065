"""Synthetic cohorts with known truth, marked as such in every file they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from casewise.plugin import Command, Plugin


class _Phantoms(Plugin):
    name = "phantoms"
    command = ("phantom", "Draw a synthetic cohort with known truth.")

    def commands(self) -> Sequence[Command]:
        """The command, which answers a kind that is given as an argument."""
        return [replace(command, reads_extra=True) for command in super().commands()]


plugin = _Phantoms()
