"""Which images of a received study the model reads: the rules of `select`.

A film or photograph is chosen by itself, and all that fit a slot are images of the case, as in the training table. A
scan is chosen as a series, and exactly one series must fit. Never chosen: secondary captures, localisers, and raw
films where the study has the same for presentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.table import natural
from casewise.errors import CasewiseError, counted, cut, nearest, printable, shortened
from casewise.plugins.node.headers import InstanceHeader
from casewise.plugins.node.settings import MODALITIES, SelectRule

if TYPE_CHECKING:
    from casewise.study.schema import Study

# Series that a reason lists.
MOST_LISTED = 6


class SelectionError(CasewiseError):
    """The study has not the images that the model needs.

    Args:
        text: the beginning of the message; groups: the series that it lists, each with the rule that it does not fit.

    Attributes:
        report: the message for the answer, which also quotes headers. The message itself, for logs, does not: anything
            may stand in a header.
    """

    def __init__(self, text: str, groups: Sequence[tuple[Sequence[InstanceHeader], SelectRule | None]]) -> None:
        super().__init__(f"{text} {_listed(groups, quotes=False)}.")
        self.report = f"{text} {_listed(groups, quotes=True)}."


@dataclass(frozen=True)
class Slots:
    """What the cases of a model consist of.

    Attributes:
        names: the regions or sequences; one empty name where there are none.
        scans: whether an image is a whole series.
        optional: whether a case may lack some of them.
    """

    names: tuple[str, ...] = ("",)
    scans: bool = False
    optional: bool = False

    @classmethod
    def of(cls, study: Study) -> Slots:
        """Those of the study of a bundle."""
        from casewise.inference.resident import slots_of  # loads torch, which the process that receives does not need

        settings = study.modality_settings
        optional = study.missing_regions == "allow" or getattr(settings, "missing", "require") == "mask"
        return cls(tuple(slots_of(study)) or ("",), bool(getattr(settings, "sequences", None)), optional)

    def check(self, rules: Sequence[SelectRule]) -> None:
        """Check that the rules are about the slots of the model.

        Raises:
            CasewiseError: a rule names another slot, or a slot has no rule.
        """
        names = ", ".join(filter(None, self.names))
        for rule in rules:
            if rule.slot not in self.names:
                allowed = (
                    f"is none of {names}.{nearest(rule.slot, self.names)}"
                    if names
                    else "is given, and the model has none. Leave `slot` out."
                )
                raise CasewiseError(f"select: the slot {cut(rule.slot)} {allowed}")
        if lacking := [name for name in filter(None, self.names) if name not in {rule.slot for rule in rules}]:
            raise CasewiseError(f"select: no rule has the slot {cut(lacking[0])}. Slots of the model: {names}.")


@dataclass(frozen=True)
class Row:
    """An image of the case: a film, or the files of a scan in their order."""

    files: tuple[Path, ...]
    slot: str


@dataclass(frozen=True)
class Selection:
    """The images of a study that the model reads; `headers` are the headers of their instances."""

    rows: list[Row] = field(default_factory=list)
    headers: list[InstanceHeader] = field(default_factory=list)


def select(headers: Sequence[InstanceHeader], rules: Sequence[SelectRule], slots: Slots) -> Selection:
    """The images that the model reads.

    Args:
        rules: one for each slot; without any, every image fits.

    Raises:
        SelectionError: no image fits a slot, an image fits two, or several series fit where one scan is needed.
    """
    series: dict[str, list[InstanceHeader]] = {}
    for header in sorted(headers, key=lambda header: (header.order, natural(header.instance))):
        series.setdefault(header.series, []).append(header)
    groups, chosen, unfilled, slot_of = list(series.values()), Selection(), [], dict[Path, str]()
    for rule in rules or [SelectRule()]:
        fitting = list(_fitting(groups, rule, scans=slots.scans))
        if slots.scans and len(fitting) > 1:
            fits = f"{len(fitting)} series fit{f' {rule.slot}' if rule.slot else ''}, one is needed"
            raise SelectionError(f"{fits}:", [(group, None) for group in fitting])
        images = [header for group in fitting for header in group]
        images = [header for header in images if not header.is_raw] or images
        files = tuple(header.path for header in images)
        if twice := [header for header in images if slot_of.setdefault(header.path, rule.slot) != rule.slot]:
            both = f"{slot_of[twice[0].path]} and {rule.slot}"
            text = f"An image fits {both}, so the rules do not tell them apart:"
            raise SelectionError(text, [(twice, None)])
        if not files:
            unfilled.append(rule)
        chosen.rows.extend([Row(files, rule.slot)] if slots.scans and files else [Row((f,), rule.slot) for f in files])
        chosen.headers.extend(images)
    if unfilled and not (slots.optional and chosen.rows):
        rule, name = unfilled[0], f" for {unfilled[0].slot}" if unfilled[0].slot else ""
        text = f"No image of the study suits the model{name}. It has"
        raise SelectionError(text, [(group, rule) for group in groups])
    return chosen


def _fitting(
    groups: Sequence[Sequence[InstanceHeader]], rule: SelectRule, *, scans: bool
) -> Iterator[list[InstanceHeader]]:
    """The series that fit a rule; of films those instances that do."""
    for group in groups:
        images = [header for header in group if header.is_image]
        if images and not _count_mismatch(images, rule):
            fitting = [header for header in images if not _header_mismatch(header, rule)]
            if fitting and (len(fitting) == len(images) or not scans):
                yield fitting


def _mismatch(group: Sequence[InstanceHeader], rule: SelectRule, quotes: bool) -> str:
    """The first reason why a series does not fit a rule.

    Args:
        quotes: whether it may quote headers.
    """
    images = [header for header in group if header.is_image]
    if not images:
        return (
            "a secondary capture, a report or another image that is none of an acquisition, which a node never chooses"
        )
    return _count_mismatch(images, rule) or next(
        filter(None, (_header_mismatch(each, rule, quotes) for each in images)), ""
    )


def _count_mismatch(images: Sequence[InstanceHeader], rule: SelectRule) -> str:
    count = sum(header.frames for header in images)
    if rule.slices and not rule.slices[0] <= count <= rule.slices[1]:
        return f"it has {counted(count, 'slice')}, allowed: {rule.slices[0]:,} to {rule.slices[1]:,}"
    return ""


def _header_mismatch(header: InstanceHeader, rule: SelectRule, quotes: bool = False) -> str:
    """The first criterion of a rule that an image does not fit; empty if it fits."""
    for name, stated, allowed in (
        ("modality", header.modality, rule.modality),
        ("body part", header.body_part, rule.body_part),
        ("view", header.view, rule.view),
        ("laterality", header.laterality, rule.laterality),
    ):
        wanted = {_letters(each) for each in allowed}
        if not wanted or _letters(stated) in wanted:
            continue
        if name == "body part" and not stated and any(_has_word(header.words, each) for each in allowed):
            continue
        is_stated = f"is {_cut(stated)}" if stated and quotes else "is another one" if stated else "is not stated"
        return f"its {name} {is_stated}, allowed: {', '.join(allowed)}"
    if rule.description and not re.search(rule.description, header.description, re.IGNORECASE):
        return f"its description does not fit {rule.description!r}"
    if rule.spacing:
        low, high = rule.spacing
        if not header.spacing:
            return "its pixel spacing is not stated"
        if not all(low <= value <= high for value in header.spacing):
            return f"its pixel spacing of {max(header.spacing):g} mm is not {low:g} to {high:g}"
    return ""


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text).upper()


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def _listed(groups: Sequence[tuple[Sequence[InstanceHeader], SelectRule | None]], *, quotes: bool) -> str:
    """Series in words: modality, number of images, and why they do not fit a rule, if one is stated.

    Args:
        quotes: whether it may quote headers, such as the descriptions of series.
    """
    entries = []
    for group, rule in groups:
        first = group[0]
        modality = (
            _cut(first.modality) if first.modality and (quotes or MODALITIES.fullmatch(first.modality)) else "a series"
        )
        title = f" {_cut(first.title)!r}" if first.title and quotes else ""
        reason = f" ({_mismatch(group, rule, quotes)})" if rule else ""
        entries.append(f"{modality}{title}, {counted(len(group), 'image')}{reason}")
    more = f"; and {len(entries) - MOST_LISTED:,} more" if len(entries) > MOST_LISTED else ""
    return f"{'; '.join(entries[:MOST_LISTED]) or 'no images'}{more}"


def _cut(text: str) -> str:
    return shortened(printable(text), 40)
