"""The lines on images, split, weights and sources of a study without a preset; its network and recipe are planned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casewise.audit.columns import further_columns
from casewise.audit.metadata import INTERNAL, STANDARD, audited_columns, columns_in_use, is_usual
from casewise.cohort.table import names_text
from casewise.cohort.table_formats import NO_VALUE
from casewise.errors import counted, shortened
from casewise.initialise.rows import FOUND, ImageRows
from casewise.study.weight_files import environment_folder, is_present

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.study.schema import Study


# In order of preference: small enough to be trained on a CPU in minutes.
SMALL_PRETRAINED = ("mobilenet_v2", "resnet18", "efficientnet_b0", "squeezenet1_1", "shufflenet_v2_x1_0")
PLANNED = "mobilenet_v2"
# From so many subjects on a part of them is kept as the test set.
MANY_SUBJECTS = 300
_FOLDS = 5


@dataclass(frozen=True)
class DataFacts:
    """What decides the recipe: numbers of subjects, of images, and of the subjects of the rarest class (or 0).

    `numbered`: subjects are not known, and the files have numbers.
    """

    subjects: int
    images: int
    rarest: int = 0
    scans: bool = False
    grey: bool = False
    given_split: bool = False
    numbered: bool = False


def available_weights() -> str:
    """The first of the small networks whose pretrained weights are on this computer; '' if there are none."""
    return next((name for name in SMALL_PRETRAINED if is_present(name)), "")


def weights_text(weights: str) -> str:
    """What is understood of first weights: which network has them, or where they were looked for."""
    if weights:
        return f"Weights: pretrained ones of {weights} are on this computer."
    folder = environment_folder()
    where = "CASEWISE_WEIGHTS names no folder with them"
    if folder is not None:
        where = f"{folder}, which CASEWISE_WEIGHTS names, {'has none' if folder.is_dir() else 'does not exist'}"
    return (
        f"Weights: NO PRETRAINED WEIGHTS are on this computer ({where}), so the study states `weights: random`. With "
        "pretrained ones results are nearly always better: see the comment in the study."
    )


def default_recipe(facts: DataFacts, weights: str) -> list[str]:
    """The lines of a study file on images, split and weights; `weights` as from `available_weights`.

    Network and recipe are planned when the study is run.
    """
    # The plan chooses the size of photographs that no pretrained network reads.
    images = ["size: 96"] if facts.scans else ["size: 224"] if weights else []
    images += ["channels: grey"] if facts.grey and not facts.scans else []
    lines = [f"images: {{{', '.join(images)}}}"] if images else []
    if not facts.given_split:
        folds = max(2, min(_FOLDS, facts.rarest or facts.subjects))
        test = "20%" if facts.subjects >= MANY_SUBJECTS else "0"
        by, comment = "", "by subject"
        if facts.numbered:
            by, comment = "by: number, ", "neighbouring file numbers may show one person: runs of them are on one side"
        lines.append(f"split: {{{by}test: {test}, folds: {folds}}}  # {comment}")
    lines.append(
        "budget: 30min  # network and training are planned from the images; the run writes the plan to plan.yaml"
    )
    if not weights:
        lines += [
            "# NO PRETRAINED WEIGHTS are on this computer: a small network starts from random weights. Pretrained ones "
            "nearly always do better: with a network connection, write `weights: pretrained`; or put "
            "mobilenet_v2.safetensors into a folder and name it in CASEWISE_WEIGHTS.",
            "weights: random",
        ]
    elif weights != PLANNED:
        lines += [f"backbones: [{weights}]  # its pretrained weights are on this computer", "recipe: auto"]
    return [*lines, "evaluation: {response: false}  # true: also the change from the first visit"]


def unusual_sources(sources: Sequence[str]) -> list[str]:
    """The sources that the audit does not know by their names, so that the study must name them.

    >>> unusual_sources(["hospital", "Klinik"])
    ['Klinik']
    """
    return [name for name in sources if not is_usual(name)]


def left_out_in_turn(sources: Sequence[str], rows: ImageRows, cells: Mapping[str, list[str]]) -> tuple[str, list[str]]:
    """The first source that every image and person has exactly one of ('' if none), and why others are none."""
    reasons: list[str] = []
    for name in sources:
        lacking = 0
        of_subject: dict[str, set[str]] = defaultdict(set)
        for row in rows.rows:
            cell = cells[name][row.source].strip()
            if row.path and (not cell or cell.casefold() in NO_VALUE):
                lacking += 1
            elif row.path:
                of_subject[row.subject].add(cell)
        several = sum(len(values) > 1 for values in of_subject.values())
        if not lacking and not several and len(set().union(*of_subject.values())) > 1:
            return name, reasons
        defects = [f"{counted(lacking, 'image has', 'images have')} no value"] if lacking else []
        defects += [f"{counted(several, 'subject has', 'subjects have')} several"] if several else []
        reasons.append(f"{shortened(name)}: {' and '.join(defects) or 'all images have the same value'}")
    return "", reasons


def untested_columns(study: Study, cohort: Cohort) -> list[str]:
    """A sentence that names the columns of the table that the audit does not test; [] if none."""
    images = cohort.images
    audited = audited_columns(study, images)
    tested = {*audited, *further_columns(study, images, audited)[0]}
    used = {*columns_in_use(study), *study.targets, *STANDARD, FOUND}
    untested = [
        name
        for name in map(str, images.columns)
        if name not in tested and not {name, name.removeprefix("table_")} & used and not name.startswith(INTERNAL)
    ]
    if not untested:
        return []
    return [
        f"Columns that the audit does not test: {names_text(untested, 12)}. If one states where or how images were "
        "taken, name it under `audit: {columns: [...]}`."
    ]
