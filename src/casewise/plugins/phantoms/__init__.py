"""Synthetic cohorts with known truth, marked as such in every file they write."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.plugin import Command, Plugin


class _Phantoms(Plugin):
    name = "phantoms"

    def commands(self) -> Sequence[Command]:
        from casewise.plugins.phantoms.command import phantom

        return [Command("phantom", phantom, "Draw a synthetic cohort with known truth.")]


plugin = _Phantoms()
