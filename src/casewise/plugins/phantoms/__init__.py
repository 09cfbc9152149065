"""Synthetic cohorts with known truth, marked as such in every file they write."""

from __future__ import annotations

from casewise.plugin import Plugin


class _Phantoms(Plugin):
    name = "phantoms"
    command = ("phantom", "Draw a synthetic cohort with known truth.")


plugin = _Phantoms()
