"""Findings of the audit with their levels, the verdict, and the gate that stops a run at errors not accepted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import pandas as pd

from casewise.audit.metadata import probed_columns
from casewise.audit.sentences import fill, untested
from casewise.cohort.checks import closest
from casewise.console import readable
from casewise.errors import AuditError, CohortError, RunError, counted, nearest
from casewise.run_folder import JsonFile
from casewise.study.schema import Study

Level = Literal["note", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)

# The codes that a study can accept. A family takes any ending (a column, a probe): shortcut-source, shortcut-border.
CODES = (
    "twins-across-subjects",
    "twins-across-splits",
    "twins-across-labels",
    "twins-within-subject",
    "twins-limited",
    "blank-images",
    "subjects-across-splits",
    "image-level-split",
    "subject-suffixes",
    "subject-names",
    "label-streaks",
    "subjects-guessed",
    "overlays-masked",
)
FAMILIES = ("shortcut-", "source-predictable-")
PAIRS_SHOWN = 5
_BY_COMMAND = "\n`casewise audit STUDY --resolve` leaves out copies, and writes down which."
IMAGE = re.compile(r"(?<![\w/.'-])image(?P<plural>s?)(?![\w/.'-]*[\w/'-])")
OUTSIDE, NEIGHBOURS = " from outside-anatomy", " from neighbouring file numbers"
# Evidence besides the columns of the table, by the names in findings.
APPEARANCE = ("brightness", "contrast", "sharpness", "compression")
PROBES = (
    *("border", "overlay", "marks", "thumbnail", "files", "file-name", "file-size", "shape", "outside-anatomy"),
    *(*APPEARANCE, "grey-levels"),
)


@dataclass(frozen=True)
class Finding:
    """One finding of the audit.

    Attributes:
        id: the stable code that a study can accept.
        sentence: one sentence with the number, from `casewise.audit.sentences`.
        figures: plain JSON values.
        pairs: image paths (all; fewer are shown).
        remedy: what to do, naming the study's key or the table's column.

    >>> Finding("shortcut-source", "error", "source alone predicts label.").id
    'shortcut-source'
    """

    id: str
    level: Level
    sentence: str
    figures: dict[str, Any] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    remedy: str = ""

    def __post_init__(self) -> None:
        """Check the level and the code, which only the program writes."""
        if self.level not in LEVELS or not is_code(self.id):
            raise ValueError(f"no finding has the code {self.id!r} and the level {self.level!r}")

    def shown_pairs(self) -> list[str]:
        """A line for each of the first pairs, and one with the number of the others."""
        lines = [f"  {first} = {second}" for first, second in self.pairs[:PAIRS_SHOWN]]
        more = len(self.pairs) - PAIRS_SHOWN
        return lines + ([f"  and {counted(more, 'more pair')}"] if more > 0 else [])


def is_code(id: str) -> bool:
    """Whether a finding can have this code.

    >>> is_code("twins-across-subjects"), is_code("shortcut-source"), is_code("shortcut-"), is_code("twins")
    (True, True, False, False)
    """
    return id in CODES or any(id.startswith(family) and len(id) > len(family) for family in FAMILIES)


@dataclass(frozen=True)
class Audit:
    """All findings, the seconds of each step, and facts about the audit.

    Among the facts are the numbers of `subjects` and `images`, and the `noun` of an image (see `noun_of`).
    """

    findings: list[Finding]
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Audit:
        """The audit of the content of `audit.json`."""
        findings = [
            Finding(**finding | {"pairs": [(first, second) for first, second in finding["pairs"]]})
            for finding in record["findings"]
        ]
        return cls(findings, record["seconds"], record["facts"])

    def of(self, level: Level) -> list[Finding]:
        """The findings of one level."""
        return [finding for finding in self.findings if finding.level == level]

    def verdict(self, accepted: Mapping[str, str] = MappingProxyType({})) -> str:
        """One sentence, with the number of errors that the study accepts.

        >>> Audit([], facts={"subjects": 985, "images": 1517}).verdict()
        'No problem with subjects, duplicates or shortcuts was found among 985 subjects and 1,517 images.'
        >>> audit = Audit([Finding("shortcut-source", "error", "source alone predicts label.")])
        >>> audit.verdict({"shortcut-source": "known"})
        '1 error (accepted): source alone predicts label.'
        """
        errors, warnings = self.of("error"), self.of("warning")
        if worst := (errors + warnings)[:1]:
            passed = sum(finding.id in accepted for finding in errors)
            suffix = f" ({'' if passed == len(errors) else f'{passed:,} '}accepted)" if passed else ""
            counts = [counted(len(errors), "error") + suffix] * bool(errors)
            counts += [counted(len(warnings), "warning")] * bool(warnings)
            return f"{' and '.join(counts)}: {worst[0].sentence}"
        nouns = {"subjects": ("subject", "subjects"), "images": noun_of(self.facts)}
        examined = [counted(self.facts[name], *noun) for name, noun in nouns.items() if name in self.facts]
        among = f" among {' and '.join(examined)}" if examined else ""
        if why := untested(self.facts):
            return f"No problem with subjects or duplicates was found{among}; {why}."
        notes = self.of("note")
        rest = f" ({counted(len(notes), 'note')})" if notes else ""
        return f"No problem with subjects, duplicates or shortcuts was found{among}{rest}."

    def gate(self, accepted: Mapping[str, str], *, already_shown: bool = False) -> None:
        """Stop at errors that `accepted` (code: reason) does not name.

        Args:
            already_shown: the findings were printed before, so the message only says how to accept them.

        Raises:
            AuditError: an error is not accepted.
        """
        stopping = [finding for finding in self.of("error") if finding.id not in accepted]
        if not stopping:
            return
        codes = dict.fromkeys(finding.id for finding in stopping)
        copies = [finding for finding in stopping if finding.id.startswith("twins-")]
        by_command = _BY_COMMAND if copies and not any("--resolve" in each.remedy for each in copies) else ""
        if already_shown:
            reasons = ", ".join(f'{code}: "the reason"' for code in codes)
            raise AuditError(
                f"The audit found {counted(len(codes), 'error')} (see above), so a run would stop here. Errors that "
                f"cannot be corrected can be accepted in the study, each with a reason:\n    accept: {{{reasons}}}"
            )
        lines = []
        for finding in stopping:
            lines += ["", f"{finding.id}: {finding.sentence}", *finding.shown_pairs(), *filter(None, [finding.remedy])]
            lines.append(
                f'If it cannot be corrected, give the reason in the study:\n    accept: {{{finding.id}: "the reason"}}'
            )
        details = "\n".join(lines) + by_command
        raise AuditError(f"The audit found {counted(len(codes), 'error')}, so nothing was trained.\n{details}")

    def accepted(self, accepted: Mapping[str, str]) -> dict[str, str]:
        """The reasons for accepted errors and warnings of this audit, by code."""
        codes = {finding.id for finding in self.findings if finding.level != "note"}
        return {code: reason for code, reason in accepted.items() if code in codes}

    def notes(self, accepted: Mapping[str, str]) -> list[str]:
        """Notes on accepted codes that were not found, and on tests that were not possible.

        >>> Audit([]).notes({"shortcut-source": "known"})
        ['accept names shortcut-source, which the audit did not find.']
        >>> Audit([], facts={"not_tested": ["label from outside-anatomy"]}).notes({})
        ['The region outside the anatomy was not tested for label: too few images of each class have a mask.']
        """
        codes = {finding.id for finding in self.findings}
        why = untested(self.facts) if self.of("error") or self.of("warning") else ""
        rows = noun_of(self.facts)[1]
        return [
            *(f"accept names {code}, which the audit did not find." for code in accepted if code not in codes),
            *([f"{why[0].upper()}{why[1:]}."] if why else []),
            *(
                fill(f"{ending.split()[1]} not tested", target=item.removesuffix(ending), rows=rows)
                for item in self.facts.get("not_tested", [])
                for ending in (OUTSIDE, NEIGHBOURS)
                if item.endswith(ending)
            ),
        ]

    def as_json(self, accepted: Mapping[str, str]) -> dict[str, object]:
        """The audit as plain values, worst findings first; NaN becomes null."""
        return _plain(
            {
                "verdict": self.verdict(accepted),
                "findings": [asdict(finding) for level in LEVELS[::-1] for finding in self.of(level)],
                "accepted": self.accepted(accepted),
                "notes": self.notes(accepted),
                "facts": self.facts,
                "seconds": self.seconds,
            }
        )


def read_audit(file: JsonFile) -> Audit:
    """Read `audit.json`.

    Raises:
        RunError: the file is missing or is not an audit.
    """
    try:
        return Audit.from_json(file.read())
    except (ValueError, LookupError, TypeError) as error:
        raise RunError(f"{file.path} is not a readable audit ({error}). Run the audit again.") from error


def check_settings(study: Study, images: pd.DataFrame) -> None:
    """Check, before any image is read, the study's settings of the audit: its columns, its mask, what it accepts.

    Raises:
        CohortError: `audit.columns` or `audit.mask` name a column that does not exist.
        AuditError: `accept` names no possible finding, or gives no reason.
    """
    probed_columns(study, images)
    mask, columns = study.audit.mask, [str(column) for column in images.columns]
    if mask and mask not in columns:
        raise CohortError(f"audit.mask: {mask!r} is not a column.{closest(mask, columns)}")
    _check_accepted(study.accept, _possible_findings(study, columns))


def _possible_findings(study: Study, columns: Sequence[str]) -> list[str]:
    """The names that findings can have in a study whose table has these columns."""
    standard_columns = [*study.targets, "image", "path", "subject", "case", "panel"]
    others = [column.removeprefix("table_") for column in columns if column not in standard_columns]
    shortcuts = ["shortcut-" + re.sub(r"\W+", "-", name) for name in [*others, *PROBES]]
    sources = [f"source-predictable-{label}" for name in study.outputs for label in study.classes_of(name)]
    plain = [*shortcuts, *sources]
    # Where several targets are predicted, a finding's name ends with the target.
    return list(dict.fromkeys([*CODES, *plain, *(f"{id}-{target}" for id in plain for target in study.outputs)]))


def _check_accepted(accepted: Mapping[str, str], possible: Sequence[str]) -> None:
    """Check that the accepted codes are `possible` and have reasons.

    Raises:
        AuditError: names the nearest code.
    """
    for code, reason in accepted.items():
        if code not in possible:
            codes = ", ".join(name for name in possible if not name.startswith("source-predictable-"))
            hint = nearest(code, possible) or f" Possible are: {codes}."
            raise AuditError(f"accept: this study cannot have a finding '{code}'.{hint}")
        if not str(reason or "").strip():
            raise AuditError(f"accept: {code} has no reason. Write why it is acceptable; the report prints the reason.")


def audit_text(audit: Audit, accepted: Mapping[str, str]) -> str:
    """All findings, errors first, then the verdict.

    >>> print(audit_text(Audit([Finding("shortcut-source", "error", "source alone predicts label.")]), {}))
    <BLANKLINE>
    error      shortcut-source
               source alone predicts label.
    <BLANKLINE>
    verdict    1 error: source alone predicts label.
    """
    lines: list[str] = []
    for finding in (finding for level in LEVELS[::-1] for finding in audit.of(level)):
        reason = accepted.get(finding.id, "").strip()
        lines += ["", f"{finding.level:<10} {finding.id}{' (accepted)' if reason else ''}"]
        remedy = f"Accepted: {reason}" if reason else finding.remedy
        texts = [readable(text, None).split("\n") if text else [] for text in (finding.sentence, remedy)]
        lines += [f"{'':<10} {line}" for line in (*texts[0], *finding.shown_pairs(), *texts[1])]
    return "\n".join([*lines, "", f"{'verdict':<10} {audit.verdict(accepted)}"])


def noun_of(facts: Mapping[str, Any]) -> tuple[str, str]:
    """What one image of the audited cohort is called, and several.

    >>> noun_of({}), noun_of({"images": 12, "noun": ["scan", "scans"]})
    (('image', 'images'), ('scan', 'scans'))
    """
    singular, plural = facts.get("noun") or ("image", "images")
    return singular, plural


def with_noun(audit: Audit, singular: str, plural: str) -> Audit:
    """The same audit for images that have another name, such as scans: in sentences, remedies and facts.

    >>> plain = Audit([Finding("shortcut-files", "note", "All images of images/a.png.", {}, [], "Leave `images` out.")])
    >>> finding = with_noun(plain, "scan", "scans").findings[0]
    >>> finding.sentence, finding.remedy
    ('All scans of images/a.png.', 'Leave `images` out.')
    """
    findings = []
    for finding in audit.findings:
        sentence, remedy = (renamed(text, singular, plural) for text in (finding.sentence, finding.remedy))
        findings.append(replace(finding, sentence=sentence, remedy=remedy))
    return replace(audit, findings=findings, facts={**audit.facts, "noun": [singular, plural]})


def renamed(text: str, singular: str, plural: str) -> str:
    """The text with "image" and "images" replaced, except in code and within paths or names."""
    pieces = text.split("`")
    pieces[::2] = [IMAGE.sub(lambda match: plural if match["plural"] else singular, piece) for piece in pieces[::2]]
    return "`".join(pieces)


def _plain(value: Any) -> Any:
    """Plain JSON values: NumPy numbers and arrays become Python's, NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
