"""The comparison with a split by image: the same study with every image treated as a separate subject.

Images of one subject are then on both sides of the split, so that a network that recognises the subject seems to
recognise the disease. The results are shown in addition to the study's results, and are marked as a comparison.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.errors import CohortError, StudyError
from casewise.splits.grouped import Splits, split
from casewise.study.schema import Study

# The column with the real subject of an image; no table of a study has a column of this name.
PERSON = "subject (before the split by image)"
# Single images are balanced well in any order, so a few restarts suffice.
RESTARTS = 20


@dataclass(frozen=True)
class ImageSplit:
    """The study, the cohort and the split in which every image is a separate subject."""

    study: Study
    cohort: Cohort
    splits: Splits


def image_split_of(study: Study, cohort: Cohort, splits: Splits) -> ImageSplit:
    """The same study split by image, with the number of folds and the size of the test set of `splits`.

    Scores over several regions are left out, because an image shows one region.

    Raises:
        CohortError: no subject has two images, so both splits are the same.
        StudyError: the primary outcome needs several regions.
    """
    if cohort.images["subject"].is_unique:
        raise CohortError(f"{study.cohort}: no subject has more than one image. Leave out `split: {{by: image}}`.")
    regional: set[str] = set()
    for name, score in study.scores.items():
        if "[" in score.formula or regional & set(re.findall(r"[^\W\d]\w*", score.formula)):
            regional.add(name)
    if study.primary_outcome in regional:
        text = f"split.by: {study.primary_outcome!r} is computed over several regions, and a single image shows one."
        raise StudyError(f"{text} Name another `primary_outcome`, or leave out `by: image`.")
    settings: dict[str, object] = {
        "by": "subject",
        "column": None,
        "leave_out": None,
        "test": len(splits.subjects(-1)) / len(splits.side),
        "validation": len(splits.subjects(0)) / len(splits.side) if splits.holdout else None,
        "folds": splits.folds,
        "restarts": min(study.split.restarts, RESTARTS),
    }
    changes = {
        "name": f"{study.name}-by-image",
        "title": f"{study.title or study.name}, split by image: for comparison only",
        "primary_outcome": study.primary_outcome,
        "scores": {name: score for name, score in study.scores.items() if name not in regional},
        "split": study.split.model_copy(update=settings),
        "evaluation": study.evaluation.model_copy(update={"response": False, "readers": {}}),
        "external": None,
    }
    other = study.model_copy(update=changes)
    images = images_as_subjects(cohort)
    return ImageSplit(other, images, split(images, other))


def images_as_subjects(cohort: Cohort) -> Cohort:
    """The cohort with every image as a separate subject and case, named by the subject and the image's number.

    The column `PERSON` of images and panels contains the real subject.
    """
    images = cohort.images.copy()
    image_subjects = images["subject"].astype(str) + " image " + images["image"].astype(str)
    images = images.assign(subject=image_subjects, visit="1", case=image_subjects + "/1", day=float("nan"))
    images[PERSON] = cohort.images["subject"].astype(str)
    columns = ["subject", "visit", "case", "day", PERSON]
    by_panel = images.set_index("panel")[columns]
    panels = cohort.panels.assign(**{name: cohort.panels["panel"].map(by_panel[name]) for name in columns})
    cases = images[[name for name in cohort.cases if name in images]].reset_index(drop=True)
    return replace(cohort, images=images, panels=panels, cases=cases, notes=[])


def on_both_sides(cohort: Cohort, comparison: ImageSplit) -> dict[str, int]:
    """Numbers of subjects with images on several sides of the split by image, and with several images."""
    sides = comparison.cohort.images["subject"].map(comparison.splits.side)
    by_subject = sides.groupby(cohort.images["subject"].to_numpy())
    return {
        "subjects_on_both_sides": int((by_subject.nunique() > 1).sum()),
        "subjects_with_several_images": int((by_subject.size() > 1).sum()),
        "subjects": int(cohort.images["subject"].nunique()),
        "images": len(cohort.images),
    }


def training_subjects(panels: pd.DataFrame, names: Iterable[str]) -> dict[str, Any]:
    """The subjects that a network was trained on, for its facts; `names` may be names of single images.

    >>> import pandas as pd
    >>> training_subjects(pd.DataFrame({"subject": ["b", "a"]}), {"a", "b"})
    {'subjects': ['a', 'b']}
    >>> training_subjects(pd.DataFrame({"subject": ["a image 0", "a image 1"], PERSON: "a"}), {"a image 0", "c"})
    {'subjects': ['a', 'c'], 'comparison_only': True}
    """
    if PERSON not in panels:
        return {"subjects": sorted(names)}
    person_of = dict(zip(panels["subject"].astype(str), panels[PERSON].astype(str), strict=True))
    return {"subjects": sorted({person_of.get(name, name) for name in names}), "comparison_only": True}
