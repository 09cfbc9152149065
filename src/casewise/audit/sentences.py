"""The wording of the audit: one table of templates by code, and the functions that fill them in with numbers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.audit.probes import FEWEST
from casewise.errors import counted

if TYPE_CHECKING:
    from casewise.audit.shortcuts import ShortcutTest

PATHS_SHOWN = 3

# Sentences of findings by code; `remedy` entries say what to do.
TEMPLATES = {
    "twins": "{count} {what} ({kinds}), for example {example}: {harm}.",
    "twins-across-subjects": "the same picture under two subjects",
    "twins-across-subjects harm": "one person under two names would be in training and test data",
    "twins-across-subjects remedy": (
        "Give both images the same subject in the table, or exclude one of them with {exclusion}."
    ),
    "twins-across-splits": "the same picture on two sides of the split",
    "twins-across-splits harm": "the test data would contain training data",
    "twins-across-splits remedy": (
        "Give both images the same subject and split again, or exclude one of them with {exclusion}."
    ),
    "twins-across-labels": "the same picture with two values of {target}",
    "twins-across-labels harm": "at least one value is wrong, or the picture does not determine it",
    "twins-across-labels remedy": "Correct {target} in the table, or exclude both images with {exclusion}.",
    "twins-within-subject": "the same picture of one subject twice",
    "twins-within-subject harm": "it is counted more than once",
    "twins-within-subject remedy": "Exclude the copies with {exclusion}.",
    "split subjects unknown": (
        "Subjects are unknown, so images of one person may be on both sides of the split in {where}. Only similar "
        "pictures can be searched for, and all results may be too optimistic."
    ),
    "split subjects unknown remedy": "Ask the source of the data for the subjects and add them to the table.",
    "image-level-split": (
        "The split in {where} was made by image, not by subject, {use}: {subjects:,} of {several:,} subjects with "
        "several images are on both sides ({names}). Test subjects were in the training data, and results would be "
        "too optimistic."
    ),
    "subjects-across-splits": (
        "In the split in {where}, {use}, {subjects:,} of {several:,} subjects with several images are on both sides "
        "({names}). Test subjects were in the training data, and results would be too optimistic."
    ),
    "used split remedy": (
        "Remove `split.column`, so that casewise splits by subject, or give each subject one side in {where}."
    ),
    "unused split remedy": "Do not compare with results from this split; casewise splits by subject.",
    "imported twins": (
        "{count} on both sides of the split in {where}, {use}, for example {example}: test data were in the training "
        "data."
    ),
    "imported twins remedy": "Give both images the same subject and the same side, or exclude one with {exclusion}.",
    "subject-suffixes": (
        "The names of {subjects:,} of {total:,} subjects differ only in an ending ({endings}), for example {example}. "
        "If these are visits, sides or copies of one person, that person may be in training and test data."
    ),
    "subject-suffixes remedy": (
        "If they are one person, write the same subject in the table and put the ending into another column; if they "
        "are different people, accept the finding with that reason."
    ),
    "label-streaks": (
        "The labels of {target} run in streaks along the file numbers: {agreement:.0%} of neighbouring files have the "
        "same label, and {expected:.0%} would by chance (p = {p:.3f}). Neighbouring files may show one person or one "
        "day, and the folds are random, so results may be too optimistic."
    ),
    "label-streaks remedy": "Keep neighbouring files in one fold with `split: {{by: number}}`, or name the subjects.",
    "shortcut": "{evidence} predicts {target} with {value}{among}. {meaning}.",
    "source-predictable": "Within {target} {within}, the image predicts {source} with {value}. {meaning}.",
    "restated": (
        "The column {name} is {target} in other words: its values or its name state the class. This is no shortcut, "
        "because networks see the images and not the table."
    ),
    "restated remedy": "Nothing has to be done. To leave the column out of the audit, remove it from the table.",
    "coded": (
        "The column {name} is probably another name of {target}, written as a code: its name says so, and each of its "
        "values occurs with one class in {subjects:,} subjects. It was not tested. This is no shortcut if so, because "
        "networks see the images and not the table."
    ),
    "coded remedy": (
        "If {name} records where or how images were taken instead, name it in `audit.columns`: it is then tested."
    ),
    "as it is": (
        "The border as it is predicts {target} with {value}; the value above is what remains of it without what the "
        "{measures} of the whole image {explain}. It comes from a second test, whose p is not adjusted."
    ),
    "explained": (
        "The image border predicts {target} as well ({value}), but its grey values do so no better than such measures "
        "of the whole image."
    ),
    "one size": "All images of {target} {classes} have a size that no other class has, which identifies the class.",
}

_EVIDENCE = {
    "column": "The column {name} alone",
    "filled": "Whether the column {name} is filled in",
    "files": "The file format (width, height, mode, format, compression) alone",
    "file-size": "The number of bytes per pixel alone",
    "shape-pad": "The shape of the image (width by height) alone",
    "shape-stretch": "The shape of the image file (width by height) alone",
    "border": "The image border alone",
    "thumbnail": "A thumbnail of 8 x 8 grey values alone",
    **{name: f"The {name} of the whole image alone" for name in ("brightness", "contrast", "sharpness")},
    "compression": "The trace of JPEG compression in the pixels alone",
    "other-column": "The column {name} alone",
    "outside-anatomy": "The image outside the anatomy alone",
}
_MEANINGS = {
    "column": "If {name} shows in the images, a network can reach this by recognising it, without using the disease",
    "marks source": "The column {source} predicts it as well",
    "files": "Images of different classes may come from different sources, and a network can learn the source",
    "file-size": "Files of more detailed pictures are larger, because of the disease or of the way they were saved",
    "shape-pad": "Networks see it in the bars around images that are not square",
    "shape-stretch": (
        "Networks see no bars, because images are stretched to squares; the shape shows only in how they are distorted"
    ),
    "border": "A network can reach this from markers, letters or the edge of the film",
    "thumbnail": "Brightness and outline differ, because of the disease or of the way the image was taken",
    **dict.fromkeys(
        ("brightness", "contrast"),
        "A network can reach this from the exposure or processing of an image, unless the disease itself changes it",
    ),
    "sharpness": (
        "A network can reach this from the focus, resizing or smoothing of an image, unless the disease itself changes "
        "it"
    ),
    "compression": (
        "Either images were compressed differently at some time, which the present file format can hide and a network "
        "can learn, or the disease itself changes the fine detail that JPEG compresses"
    ),
    "other-column": (
        "If {name} records where or how images were taken, a network can reach this by recognising it; if it is a "
        "consequence or another name of {target}, it is no shortcut, because networks do not see the table"
    ),
    "outside-anatomy": "A network can reach this without using the anatomy",
    "source-from-image": "Where {source} is associated with {target}, a network can use it as a shortcut",
}
_COLUMN_REMEDIES = {
    "levels": "Cross-validate with `split: {{leave_out: {name}}}`, or restrict the study to one {name} (`where:`)",
    "codes": (
        "If the numbers of {name} stand for sites, devices or other sources, cross-validate with `split: {{leave_out: "
        "{name}}}`; if {name} is a quantity, match the classes by it, and report results in ranges of it "
        "(`evaluation.subgroups`)"
    ),
    "dates": "Compare classes from the same period (`where:`), or match them by {name}",
    "numbers": "Match the classes by {name}, and report results in ranges of it (`evaluation.subgroups`)",
    "sizes": "Compare within one {name} (`where:`)",
}
# For columns with other than the usual names that are no levels.
_QUANTITY_REMEDIES = {
    "codes": (
        "If the numbers of {name} stand for sites, devices or other sources, name it in `audit.columns` and "
        "cross-validate with `split: {{leave_out: {name}}}`; if {name} is a quantity that describes how images were "
        "taken, match the classes by it; if it describes the disease, accept the finding with that reason"
    ),
    **dict.fromkeys(
        ("numbers", "dates", "sizes"),
        "If {name} describes how images were taken, name it in `audit.columns`, match the classes by it, and report "
        "results in ranges of it (`evaluation.subgroups`); if it describes the disease, accept the finding with that "
        "reason",
    ),
}
_REMEDIES = {
    "files": "Compare within one source (`where:`), {leave_out}, and save all images in the same way",
    "file-size": "Check whether images were saved in different ways; if so, save all in the same way",
    "shape-pad": "Leave no bars (`images: {{fit: stretch}}`), compare within one source (`where:`), or {leave_out}",
    "shape-stretch": "Compare within one source (`where:`), or {leave_out}",
    "border": (
        "Inspect the borders: crop off markers and letters, or {leave_out}. If the border shows the same tissue as the "
        "rest of the image, as in fields of a biopsy, accept the finding with that reason"
    ),
    "thumbnail": "Compare within one source (`where:`), {leave_out}, and check whether networks use the disease",
    **{
        name: f"Process all images in the same way (window, {setting}), vary it in training "
        f"(`panels: {{{{{name}: 0.3}}}}`), compare within one source (`where:`), or {{leave_out}}"
        for name, setting in (("brightness", "exposure"), ("contrast", "contrast"))
    },
    "sharpness": (
        "Check whether images of different classes were resized, smoothed or focused differently; if so, get the "
        "originals and process all in the same way, compare within one source (`where:`), or {leave_out}"
    ),
    "compression": (
        "Check how images were saved. If differently: get them as they were before compression, or compare "
        "within one source (`where:`), or {leave_out}. Saving them in another format does not remove the traces"
    ),
    "other-column": (
        "If {name} records where or how images were taken, name it in `audit.columns` and cross-validate with `split: "
        "{{leave_out: {name}}}` or compare within one {name} (`where:`); if not, accept the finding with that reason"
    ),
    "outside-anatomy": "Crop to the anatomy of {mask}, {leave_out}, or compare within one source (`where:`)",
    "source-from-image": "Report results within each {source}, or {leave_out}",
}


def fill(code: str, **values: Any) -> str:
    """The template of this code with its values.

    >>> fill("twins-within-subject remedy", exclusion="`where_not: {path: [a.png]}`")
    'Exclude the copies with `where_not: {path: [a.png]}`.'
    """
    return TEMPLATES[code].format(**values)


@dataclass(frozen=True)
class SingleClass:
    """A class of a target that occurs in one source only; `among`: a source with several classes, and these."""

    target: str
    label: str
    only: str
    among: tuple[str, list[str]] | None = None


def shortcut_sentence(answer: ShortcutTest, *, source: str = "", marks_source: bool = False, classes: int = 0) -> str:
    """One sentence on a shortcut with the number, and one with its meaning.

    Args:
        source: the column of the sources; `marks_source`: the evidence predicts by being filled in, and so does it.
        classes: the number of classes of the target; if fewer could be tested, they are named.
    """
    kind, name, how = answer.evidence.kind, answer.evidence.name, answer.evidence.how
    target, result, by_class = answer.target, answer.result, answer.result.by_class
    p = f"p = {answer.p:.3f}" if answer.p >= 0.0005 else "p < 0.001"
    value = f"AUROC {result.value:.2f} (chance 0.50, {p})" if by_class else f"r = {result.value:.2f} ({p})"
    if len(by_class) > 2:
        best = max(by_class, key=lambda label: by_class[label])
        value += f", and {by_class[best]:.2f} for {f'{target} {best}' if best.isdecimal() else best}"
    texts = {"name": name, "source": source, "target": target}
    meaning = _MEANINGS["marks source" if marks_source else kind].format(**texts)
    if kind == "source-from-image":
        return fill("source-predictable", **texts, within=answer.within, value=value, meaning=meaning)
    evidence = _EVIDENCE["filled" if answer.by_filling else kind].format(name=name) + (f" ({how})" if how else "")
    tested = f"{target} ({' versus '.join(by_class)})" if by_class and len(by_class) < classes else target
    among = f" among {counted(len(result.scores), 'image')} with a mask" if kind == "outside-anatomy" else ""
    sentence = fill("shortcut", evidence=evidence, target=tested, value=value, among=among, meaning=meaning)
    if answer.as_it_is:
        value = f"{'AUROC' if by_class else 'r ='} {answer.as_it_is.result.value:.2f}"
        measured = " and ".join(filter(None, (", ".join(answer.measures[:-1]), answer.measures[-1])))
        explain = "explain" if len(answer.measures) > 1 else "explains"
        sentence += " " + fill("as it is", target=target, value=value, measures=measured, explain=explain)
    return sentence


def remedy(
    kind: str,
    name: str,
    *,
    reading: str = "levels",
    source: str | None = None,
    mask: str | None = None,
    single: SingleClass | None = None,
) -> str:
    """What to do, naming the study's key or the table's column.

    Args:
        reading: the type of a column's cells: `levels`, `codes` (few different numbers), `numbers`, `dates`, `sizes`.
        single: a class that occurs in one source only, so that no source can be left out and tested.

    >>> remedy("column", "site")
    'Cross-validate with `split: {leave_out: site}`, or restrict the study to one site (`where:`).'
    """
    if kind != "other-column" and single and (reading in ("levels", "codes") or kind != "column"):
        return _single_class_remedy(kind, source or name, single, mask)
    where = f"`split: {{leave_out: {source}}}`" if source else "`split.leave_out` on the column of the source"
    leave_out = f"cross-validate with {where}"
    by_reading = {"column": _COLUMN_REMEDIES, "other-column": _QUANTITY_REMEDIES}.get(kind, {})
    text = by_reading.get(reading) or _REMEDIES[kind]
    return f"{text.format(name=name, mask=mask, source=source, leave_out=leave_out)}."


def _single_class_remedy(kind: str, source: str, single: SingleClass, mask: str | None) -> str:
    """What to do if a class comes from one source only: leaving that source out would remove the class."""
    why = f"all {single.label} comes from {source} {single.only}, so `split.leave_out` cannot test it"
    if single.among:
        value, classes = single.among
        within = f"`where: {{{source}: {value}}}` and `targets: {{{single.target}: [{', '.join(classes)}]}}`"
        text = (
            f"Compare within one {source}, for example {within} ({why}), or add {single.label} from another {source}."
        )
    else:
        text = f"Add classes from the same {source}: no {source} has two classes, and {why}."
    first = {
        "outside-anatomy": f"Crop to the anatomy of {mask}. ",
        "border": "Inspect the borders for markers and letters and crop them off. ",
        "shape-pad": "Leave no bars (`images: {fit: stretch}`). ",
    }
    return first.get(kind, "") + text


def exclusion(paths: Sequence[str], *, column: str = "path", root: Path | None = None) -> str:
    """The study key that excludes images, with paths as the table writes them: relative to `root` where possible.

    >>> exclusion(["/data/a.png", "/data/b/c d.png", "/data/a.png"], root=Path("/data"))
    '`where_not: {path: [a.png, "b/c d.png"]}`'
    """
    unique = list(dict.fromkeys(paths))
    written = [os.path.relpath(path, root) if root and Path(path).is_relative_to(root) else path for path in unique]
    quoted = [text if re.fullmatch(r"[^\W\d][\w./-]*|/[\w./-]+", text) else json.dumps(text) for text in written]
    more = f" with the others ({len(quoted):,} in all; audit.json lists the pairs)" if len(quoted) > PATHS_SHOWN else ""
    return f"`where_not: {{{column}: [{', '.join(quoted[:PATHS_SHOWN])}]}}`{more}"


def untested(facts: Mapping[str, Any]) -> str:
    """Why shortcuts were not tested at all; empty if they were, or if nothing is recorded.

    >>> untested({"subjects": 12, "tests": []})
    'shortcuts were not tested: too few subjects (20 are needed)'
    >>> untested({"subjects": 40, "tests": []})
    'shortcuts were not tested: too few cases, or nothing varies'
    >>> untested({"subjects": 40, "tests": [{"value": 0.5}]}), untested({})
    ('', '')
    """
    if "tests" not in facts or facts["tests"]:
        return ""
    if facts.get("subjects", FEWEST) < FEWEST:
        return f"shortcuts were not tested: too few subjects ({FEWEST} are needed)"
    return "shortcuts were not tested: too few cases, or nothing varies"
