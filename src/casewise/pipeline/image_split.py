"""What the published way of splitting would have claimed: the same study with every image a stranger to the others.

Images of one subject then stand on both sides, and a network that knows the subject again is taken for one that knows
the disease. The figures are made to be shown beside the study's own, never instead of them.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.audit.findings import Finding
from casewise.cohort.cohort import Cohort
from casewise.console import Silent
from casewise.errors import CohortError, StudyError
from casewise.files import write_json
from casewise.report.formatting import counted
from casewise.splits.grouped import Splits, check_scored, write_splits
from casewise.splits.grouped import split as make_splits
from casewise.splits.image_split_guard import MARK, PERSON

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Study

FOLDER = "by-image"
FINDING = "image-level-split"
# Single images are balanced well in any order.
RESTARTS = 20


@dataclass(frozen=True)
class Comparison:
    """The study, the cohort and the split in which no image knows of the others of its subject."""

    study: Study
    cohort: Cohort
    splits: Splits


def strangers(cohort: Cohort) -> Cohort:
    """The cohort with every image as a subject and a case of its own, named after the subject and its number.

    Who it really shows stands in the column `PERSON` of images and panels.
    """
    images = cohort.images.copy()
    own = images["subject"].astype(str) + " image " + images["image"].astype(str)
    images = images.assign(subject=own, visit="1", case=own + "/1", day=float("nan"))
    images[PERSON] = cohort.images["subject"].astype(str)
    columns = ["subject", "visit", "case", "day", PERSON]
    of_panel = images.set_index("panel")[columns]
    panels = cohort.panels.assign(**{name: cohort.panels["panel"].map(of_panel[name]) for name in columns})
    cases = images[[name for name in cohort.cases if name in images]].reset_index(drop=True)
    return replace(cohort, images=images, panels=panels, cases=cases, notes=[])


def compared(study: Study, cohort: Cohort, splits: Splits) -> Comparison:
    """The same study split by image, with as many folds and as large a test set as the study's own `splits`.

    Scores that take several regions are left out: an image shows one.

    Raises:
        CohortError: no subject has two images, so that both ways of splitting are one.
        StudyError: the main outcome takes several regions.
    """
    if cohort.images["subject"].is_unique:
        raise CohortError(
            f"{study.cohort}: no subject has more than one image, so that a split by image is one by subject. "
            "Leave out `split: {by: image}`."
        )
    regional: set[str] = set()
    for name, score in study.scores.items():
        if "[" in score.formula or regional & set(re.findall(r"[^\W\d]\w*", score.formula)):
            regional.add(name)
    if study.primary_outcome in regional:
        raise StudyError(
            f"split.by: {study.primary_outcome!r} is worked out over several regions, and a single image shows one; "
            "name "
            "another `primary_outcome`, or leave out `by: image`."
        )
    tested = len(splits.subjects(-1)) / len(splits.side)
    other = study.model_copy(
        update={
            "name": f"{study.name}-by-image",
            "title": f"{study.title or study.name}, split by image: for comparison only",
            "primary_outcome": study.primary_outcome,
            "scores": {name: score for name, score in study.scores.items() if name not in regional},
            "split": study.split.model_copy(
                update={
                    "by": "subject",
                    "column": None,
                    "leave_out": None,
                    "test": tested,
                    "folds": splits.folds,
                    "restarts": min(study.split.restarts, RESTARTS),
                }
            ),
            "evaluation": study.evaluation.model_copy(update={"response": False, "readers": {}}),
            "external": None,
        }
    )
    people = strangers(cohort)
    return Comparison(other, people, make_splits(people, other))


def on_both_sides(cohort: Cohort, comparison: Comparison) -> dict[str, int]:
    """How many subjects have images on several sides of the comparison split, of how many with several images."""
    sides = comparison.cohort.images["subject"].map(comparison.splits.side)
    of_subject = sides.groupby(cohort.images["subject"].to_numpy())
    return {
        "subjects_on_both_sides": int((of_subject.nunique() > 1).sum()),
        "subjects_with_several_images": int((of_subject.size() > 1).sum()),
        "subjects": int(cohort.images["subject"].nunique()),
        "images": len(cohort.images),
    }


def finding(study: Study, cohort: Cohort, splits: Splits) -> Finding:
    """What the audit says of a study that asks for a split by image.

    Raises:
        CohortError, StudyError: as `compared`.
    """
    counts = on_both_sides(cohort, compared(study, cohort, splits))
    both, all_of_them = counts["subjects_on_both_sides"], counts["subjects"]
    sentence = (
        f"The study is also trained with its images split as if each showed another person, for comparison only: "
        f"{both:,} of {all_of_them:,} subjects then stand on both sides, and who is tested was trained on. The study's "
        "own figures are by subject and have nothing to do with it."
    )
    remedy = "Cite the figures by subject. Leave out `split: {by: image}` to do without the comparison."
    return Finding(FINDING, "warning", sentence, {"where": "the comparison", **counts}, remedy=remedy)


def claim(
    study: Study,
    cohort: Cohort,
    tiles: TileStore,
    splits: Splits,
    results: dict[str, Any],
    folder: Path,
    show: Show,
) -> dict[str, Any]:
    """Train and judge the study once more, split by image, in a folder of its own; `results` with its figures beside.

    They stand in `claimed`: `metrics` of the main outcome by stage and learner, with intervals that take every image
    for a person of its own, as the published way does; the headline (`main`); and how many subjects are on both sides.
    """
    from casewise.pipeline import evaluate as evaluated
    from casewise.pipeline import steps

    comparison, place = compared(study, cohort, splits), folder / FOLDER
    other, people = comparison.study, comparison.cohort
    show.line("by image", "every network once more, its images split as if each showed another person")
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / MARK, {"split": FOLDER, "of": study.name})
    check_scored(comparison.splits, people.panels, other)
    write_splits(comparison.splits, place / "splits.json")
    # The tiles are there already; where they lie is no part of the study.
    at_hand = other.model_copy(update={"images": other.images.model_copy(update={"store": tiles.folder})})
    predictions = steps.train(at_hand, people, tiles, comparison.splits, place, show)
    predictions = steps.stack(other, predictions, place, show)
    predictions = steps.score(other, predictions, place)
    begun = time.monotonic()
    # The step would tell of subjects, which every image is taken for here.
    found = evaluated.evaluate(other, people, predictions, place, Silent())
    show.line(
        "evaluate",
        f"{counted(predictions['model'].nunique(), 'learner')}, {other.evaluation.bootstrap_resamples:,} resamples of "
        "images as "
        f"if each showed another person, {time.monotonic() - begun:.0f} s",
    )
    claimed = {
        "metrics": {
            stage: {learner: {study.primary_outcome: keys[study.primary_outcome]} for learner, keys in learners.items()}
            for stage, learners in found["metrics"].items()
        },
        "main": {name: found["main"][name] for name in ("target", "stage", "learner", "kind")},
        **on_both_sides(cohort, comparison),
    }
    told = {**results, "claimed": claimed}
    write_json(folder / "metrics.json", told)
    return told
