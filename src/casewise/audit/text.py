"""The audit as text for a terminal: every finding with its level, the reason if it is accepted, and a remedy."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import replace

from casewise.audit.findings import Audit

WIDTH = 110
PAIRS_SHOWN = 5
IMAGE = re.compile(r"(?<![\w/.'-])image(?P<plural>s?)(?![\w/.'-]*[\w/'-])")


def audit_text(audit: Audit, accepted: Mapping[str, str]) -> str:
    """All findings, errors first, then the verdict.

    >>> from casewise.audit.findings import Audit, Finding
    >>> print(audit_text(Audit([Finding("shortcut-source", "error", "source alone predicts label.")]), {}))
    <BLANKLINE>
    error      shortcut-source
               source alone predicts label.
    <BLANKLINE>
    verdict    1 error: source alone predicts label.
    """
    lines: list[str] = []
    for level in ("error", "warning", "note"):
        for finding in audit.of(level):
            reason = accepted.get(finding.id, "").strip()
            lines += ["", f"{level:<10} {finding.id}{' (accepted)' if reason else ''}", *_indented(finding.sentence)]
            for first, second in finding.pairs[:PAIRS_SHOWN]:
                lines.append(f"{'':<10}   {first} = {second}")
            if len(finding.pairs) > PAIRS_SHOWN:
                lines.append(f"{'':<10}   and {len(finding.pairs) - PAIRS_SHOWN:,} more pairs")
            if reason:
                lines += _indented(f"Accepted: {reason}")
            elif finding.remedy:
                lines += _indented(finding.remedy)
    return "\n".join([*lines, "", f"{'verdict':<10} {audit.verdict}"])


def with_noun(audit: Audit, noun: str) -> Audit:
    """The same audit for rows that are scans or slices (`noun`): sentences, remedies and facts.

    >>> from casewise.audit.findings import Audit, Finding
    >>> plain = Audit([Finding("shortcut-files", "note", "All images of images/a.png.", {}, [], "Leave `images` out.")])
    >>> finding = with_noun(plain, "scan").findings[0]
    >>> finding.sentence, finding.remedy
    ('All scans of images/a.png.', 'Leave `images` out.')
    """
    findings = [
        replace(finding, sentence=renamed(finding.sentence, noun), remedy=renamed(finding.remedy, noun))
        for finding in audit.findings
    ]
    facts = {f"{noun}s" if name == "images" else name: value for name, value in audit.facts.items()}
    return replace(audit, findings=findings, facts=facts)


def renamed(text: str, noun: str) -> str:
    """The text with "image" replaced by `noun`, except in code and within paths or names."""
    pieces = text.split("`")
    pieces[::2] = [IMAGE.sub(lambda match: noun + match["plural"], piece) for piece in pieces[::2]]
    return "`".join(pieces)


def _indented(text: str) -> list[str]:
    return [f"{'':<10} {line}" for line in textwrap.wrap(text, WIDTH)]
