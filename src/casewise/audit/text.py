"""The audit as text for a terminal: every finding with its level, its reason if accepted, and what to do."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import replace

from casewise.audit.findings import Audit

WIDTH = 110
PAIRS_SHOWN = 5
IMAGE = re.compile(r"(?<![\w/.'-])image(?P<several>s?)(?![\w/.'-]*[\w/'-])")


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


def of_scans(audit: Audit, noun: str) -> Audit:
    """The same audit where rows are scans or slices (`noun`) and no images: sentences, remedies and what was examined.

    >>> from casewise.audit.findings import Audit, Finding
    >>> plain = Audit([Finding("shortcut-files", "note", "All images of images/a.png.", {}, [], "Leave `images` out.")])
    >>> told = of_scans(plain, "scan").findings[0]
    >>> told.sentence, told.remedy
    ('All scans of images/a.png.', 'Leave `images` out.')
    """
    findings = [
        replace(found, sentence=renamed(found.sentence, noun), remedy=renamed(found.remedy, noun))
        for found in audit.findings
    ]
    facts = {f"{noun}s" if name == "images" else name: value for name, value in audit.facts.items()}
    return replace(audit, findings=findings, facts=facts)


def renamed(text: str, noun: str) -> str:
    """Without touching what is quoted as code, or is part of a path or a name."""
    parts = text.split("`")
    parts[::2] = [IMAGE.sub(lambda found: noun + found["several"], part) for part in parts[::2]]
    return "`".join(parts)


def _indented(text: str) -> list[str]:
    return [f"{'':<10} {line}" for line in textwrap.wrap(text, WIDTH)]
