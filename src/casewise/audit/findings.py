"""What the audit found: findings with levels, one verdict, and the gate that an error does not pass unstated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from casewise.errors import AuditError, RunError, nearest

if TYPE_CHECKING:
    from casewise.run_folder import JsonFile

__all__ = [
    "FAMILIES",
    "KNOWN",
    "ROWS",
    "Audit",
    "Finding",
    "Level",
    "check_accepted",
    "is_known",
    "read_audit",
    "unasked",
    "write_audit",
]

Level = Literal["note", "warning", "error"]

# The names that a study can accept. A family takes any ending (a column, a probe): shortcut-source, shortcut-border.
KNOWN = (
    "twins-across-subjects",
    "twins-across-splits",
    "twins-across-labels",
    "twins-within-subject",
    "subjects-across-splits",
    "image-level-split",
)
FAMILIES = ("shortcut-", "source-told-")
PAIRS_SHOWN = 5
# What the rows of a table are: photographs and the like, scans of volumes, or single slices of such.
ROWS = ("images", "scans", "slices")
_OUTSIDE = " from outside-anatomy"


@dataclass(frozen=True)
class Finding:
    """One thing that the audit found.

    `id` is the stable name that a study can accept, `sentence` one plain sentence with the figure, `figures` plain
    JSON values, `pairs` image paths (all of them; they are capped where they are shown), and `remedy` what to do,
    naming the study's key or the table's column.

    >>> Finding("shortcut-source", "error", "The source tells the label.").id
    'shortcut-source'
    """

    id: str
    level: Level
    sentence: str
    figures: dict[str, Any] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    remedy: str = ""

    def __post_init__(self) -> None:
        """Hold a finding to a level and a name that exist: these are written by the program, not by a person."""
        if self.level not in get_args(Level):
            raise ValueError(f"level must be one of {get_args(Level)}, got {self.level!r}")
        if not is_known(self.id):
            raise ValueError(f"{self.id!r} is not among the findings of casewise.audit.findings")


def is_known(id: str) -> bool:
    """Whether a finding of this name can exist at all.

    >>> is_known("twins-across-subjects"), is_known("shortcut-source"), is_known("shortcut-"), is_known("twins")
    (True, True, False, False)
    """
    return id in KNOWN or any(id.startswith(family) and len(id) > len(family) for family in FAMILIES)


@dataclass(frozen=True)
class Audit:
    """All findings, the seconds that each step took, and what was examined (`images`, `subjects`, …)."""

    findings: list[Finding]
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def of(self, level: Level) -> list[Finding]:
        """The findings of one level."""
        return [finding for finding in self.findings if finding.level == level]

    @property
    def verdict(self) -> str:
        """One plain sentence.

        >>> Audit([], facts={"subjects": 985, "images": 1517}).verdict
        'No subject, twin or shortcut problem was found among 985 subjects and 1,517 images.'
        >>> Audit([Finding("shortcut-source", "error", "The source tells the label.")]).verdict
        '1 error: The source tells the label.'
        """
        return self.verdict_beside({})

    def verdict_beside(self, accepted: Mapping[str, str]) -> str:
        """The same, with how many of the errors the study accepts.

        >>> audit = Audit([Finding("shortcut-source", "error", "The source tells the label.")])
        >>> audit.verdict_beside({"shortcut-source": "known"})
        '1 error (accepted): The source tells the label.'
        """
        errors, warnings = self.of("error"), self.of("warning")
        if worst := (errors + warnings)[:1]:
            passed = sum(finding.id in accepted for finding in errors)
            told = f" ({'' if passed == len(errors) else f'{passed:,} '}accepted)" if passed else ""
            parts = [_counted(len(errors), "error") + told] * bool(errors)
            parts += [_counted(len(warnings), "warning")] * bool(warnings)
            return f"{' and '.join(parts)}: {worst[0].sentence}"
        examined = [
            _counted(self.facts[what], what.removesuffix("s")) for what in ("subjects", *ROWS) if what in self.facts
        ]
        among = f" among {' and '.join(examined)}" if examined else ""
        if why := unasked(self.facts):
            return f"No subject or twin problem was found{among}; {why}."
        return f"No subject, twin or shortcut problem was found{among}."

    def gate(self, accepted: Mapping[str, str], *, told_before: bool = False) -> None:
        """Let a run pass, or stop it at the errors that `accepted` (finding: reason) does not name.

        With `told_before` the findings stand above already, and the message says only how to accept them.

        Raises:
            AuditError: an error is not accepted, or a name is accepted that no finding can have, or without a reason.
        """
        check_accepted(accepted)
        stopping = [finding for finding in self.of("error") if finding.id not in accepted]
        if stopping:
            told = "\n\n".join(_told(finding) for finding in stopping)
            count = _counted(len({finding.id for finding in stopping}), "error")
            if told_before:
                reasons = ", ".join(dict.fromkeys(f'{finding.id}: "the reason"' for finding in stopping))
                raise AuditError(
                    f"The audit found {count} (above), at which a run stops. What cannot be mended can be accepted in "
                    f"the study, each for a reason:\n  accept: {{{reasons}}}"
                )
            raise AuditError(f"The audit stops here, with {count}; nothing was trained.\n\n{told}")

    def accepted(self, accepted: Mapping[str, str]) -> dict[str, str]:
        """The reasons for those errors and warnings that were found and accepted, by finding."""
        found = {finding.id for finding in self.findings if finding.level != "note"}
        return {id: reason for id, reason in accepted.items() if id in found}

    def notes(self, accepted: Mapping[str, str]) -> list[str]:
        """Remarks on what the study accepts that is not there, and on what the verdict does not say was not asked.

        >>> Audit([]).notes({"shortcut-source": "known"})
        ['accept names shortcut-source, which the audit did not find.']
        >>> Audit([], facts={"not_asked": ["label from outside-anatomy"]}).notes({})
        ['What lies outside the anatomy could not be asked to tell label: too few images of each class have a mask.']
        """
        found = {finding.id for finding in self.findings}
        maskless = [what.removesuffix(_OUTSIDE) for what in self.facts.get("not_asked", []) if what.endswith(_OUTSIDE)]
        rows = next((what for what in ROWS if what in self.facts), ROWS[0])
        masks = [
            f"What lies outside the anatomy could not be asked to tell {name}: too few {rows} of each class have a "
            "mask."
            for name in maskless
        ]
        why = unasked(self.facts) if self.of("error") or self.of("warning") else ""
        whole = [f"{why[0].upper()}{why[1:]}."] if why else []
        return (
            [f"accept names {id}, which the audit did not find." for id in accepted if id not in found] + whole + masks
        )

    def as_json(self, accepted: Mapping[str, str]) -> dict[str, Any]:
        """The audit as plain values, worst findings first; NaN becomes null."""
        worst_first = sorted(self.findings, key=lambda finding: -get_args(Level).index(finding.level))
        plain: dict[str, Any] = _plain(
            {
                "verdict": self.verdict,
                "findings": [asdict(finding) for finding in worst_first],
                "accepted": self.accepted(accepted),
                "notes": self.notes(accepted),
                "facts": self.facts,
                "seconds": self.seconds,
            }
        )
        return plain


def unasked(facts: Mapping[str, Any]) -> str:
    """Why no question about shortcuts was asked at all, in words; empty where one was, or where nothing is known.

    >>> unasked({"subjects": 12, "questions": []})
    'shortcuts were not asked about: too few subjects (20 are needed)'
    >>> unasked({"subjects": 40, "questions": []})
    'shortcuts were not asked about, for want of cases or of anything that varies'
    >>> unasked({"subjects": 40, "questions": [{"value": 0.5}]}), unasked({})
    ('', '')
    """
    from casewise.audit.probes import FEWEST

    if "questions" not in facts or facts["questions"]:
        return ""
    if facts.get("subjects", FEWEST) < FEWEST:
        return f"shortcuts were not asked about: too few subjects ({FEWEST} are needed)"
    return "shortcuts were not asked about, for want of cases or of anything that varies"


def write_audit(file: JsonFile, audit: Audit, accepted: Mapping[str, str]) -> Path:
    """Write the audit with the study's reasons."""
    return file.write(audit.as_json(accepted))


def read_audit(file: JsonFile) -> Audit:
    """Read what `write_audit` wrote.

    Raises:
        RunError: the file is missing or is not an audit.
    """
    try:
        record = file.read()
        findings = [
            Finding(**{**finding, "pairs": [(one, two) for one, two in finding["pairs"]]})
            for finding in record["findings"]
        ]
        return Audit(findings, record["seconds"], record["facts"])
    except (ValueError, LookupError, TypeError) as error:
        raise RunError(f"{file.path} is not an audit that can be read ({error}). Run the audit again.") from error


def check_accepted(accepted: Mapping[str, str], possible: Sequence[str] | None = None) -> None:
    """Hold what a study accepts to names that a finding can have (`possible`, where the table is known) and to reasons.

    Raises:
        AuditError: naming the nearest.
    """
    for id, reason in accepted.items():
        if possible is not None and id not in possible:
            hint = nearest(id, possible)
            here = ", ".join(name for name in possible if not name.startswith("source-told-"))
            raise AuditError(f"accept: this study can have no finding '{id}'.{hint or f' There are: {here}.'}")
        if not is_known(id):
            endings = ", ".join(f"{family}…" for family in FAMILIES)
            allowed = f"{', '.join(KNOWN)}, {endings}"
            hint = nearest(id, [*KNOWN, *FAMILIES])
            raise AuditError(f"accept: no finding is called '{id}'.{hint} Findings are: {allowed}.")
        if not str(reason or "").strip():
            raise AuditError(f"accept: {id} has no reason. Write why it does not matter here; the report prints it.")


def _told(finding: Finding) -> str:
    """A finding with its remedy, its first pairs and the line that accepts it."""
    lines = [f"{finding.id}: {finding.sentence}"]
    lines += [f"  {one} = {two}" for one, two in finding.pairs[:PAIRS_SHOWN]]
    if (more := len(finding.pairs) - PAIRS_SHOWN) > 0:
        lines.append(f"  and {_counted(more, 'more pair')}")
    lines += [finding.remedy] * bool(finding.remedy)
    lines.append(f'If it cannot be mended, say why in the study:  accept: {{{finding.id}: "the reason"}}')
    return "\n".join(lines)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _plain(value: Any) -> Any:
    """Values as JSON has them: NumPy's numbers and arrays as Python's, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
