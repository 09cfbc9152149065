"""The audit as text for a terminal: every finding with its level, its reason if accepted, and what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from casewise.audit.findings import Audit

WIDTH = 110
PAIRS_SHOWN = 5


def told(audit: Audit, accepted: Mapping[str, str]) -> str:
    """All findings, worst first, and the verdict last.

    >>> from casewise.audit.findings import Audit, Finding
    >>> print(told(Audit([Finding("shortcut-source", "error", "The source tells the label.")]), {}))
    <BLANKLINE>
    error      shortcut-source
               The source tells the label.
    <BLANKLINE>
    verdict    1 error: The source tells the label.
    """
    lines: list[str] = []
    for level in ("error", "warning", "note"):
        for finding in audit.of(level):
            reason = accepted.get(finding.id, "").strip()
            lines += ["", f"{level:<10} {finding.id}{' (accepted)' if reason else ''}", *_indented(finding.sentence)]
            for one, two in finding.pairs[:PAIRS_SHOWN]:
                lines.append(f"{'':<10}   {one} = {two}")
            if len(finding.pairs) > PAIRS_SHOWN:
                lines.append(f"{'':<10}   and {len(finding.pairs) - PAIRS_SHOWN:,} more pairs")
            if reason:
                lines += _indented(f"Accepted: {reason}")
            elif finding.remedy:
                lines += _indented(finding.remedy)
    return "\n".join([*lines, "", f"{'verdict':<10} {audit.verdict}"])


def _indented(text: str) -> list[str]:
    return [f"{'':<10} {line}" for line in textwrap.wrap(text, WIDTH)]
