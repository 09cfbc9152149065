"""What the published way of splitting would have claimed: the same study with every image a stranger to the others.

Images of one subject then stand on both sides, and a network that knows the subject again is taken for one that knows
the disease. The figures are made to be shown beside the study's own, never instead of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.cohort import Cohort

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.images.store import TileStore
    from casewise.study import Study

FOLDER = "by-image"


def strangers(cohort: Cohort) -> Cohort:
    """The cohort with every image as a subject and a case of its own, named after the subject and its number."""
    images = cohort.images.copy()
    own = images["subject"].astype(str) + " image " + images["image"].astype(str)
    images = images.assign(subject=own, visit="1", case=own + "/1", day=float("nan"))
    columns = ["subject", "visit", "case", "day"]
    of_panel = images.set_index("panel")[columns]
    panels = cohort.panels.assign(**{name: cohort.panels["panel"].map(of_panel[name]) for name in columns})
    targets = [name for name in cohort.cases if name in images]
    cases = images[targets].reset_index(drop=True)
    return replace(cohort, images=images, panels=panels, cases=cases, notes=[])


def split_by_image(study: Study, tiles: TileStore) -> Study:
    """The study that splits images as if each were of another subject, over tiles that are there already."""
    levels = {name: target.model_copy(update={"level": "image"}) for name, target in study.targets.items()}
    return study.model_copy(
        update={
            "targets": levels,
            "split": study.split.model_copy(update={"by": "subject", "column": None, "leave_out": None}),
            "images": study.images.model_copy(update={"store": tiles.folder}),
            "evaluation": study.evaluation.model_copy(update={"response": False, "readers": {}}),
            "external": None,
            "pretrain": None,
        }
    )


def claim(study: Study, cohort: Cohort, tiles: TileStore, folder: Path, show: Show) -> dict[str, Any]:
    """Train and judge the study split by image, in a folder of its own, and return its figures by stage and learner."""
    from casewise import steps

    other, people, place = split_by_image(study, tiles), strangers(cohort), folder / FOLDER
    show.line("by image", "the same study once more, split by image for comparison only")
    splits = steps.split(other, people, place, show)
    predictions = steps.train(other, people, tiles, splits, place, show)
    predictions = steps.stack(other, predictions, place, show)
    predictions = steps.score(other, predictions, place)
    found = steps.evaluate(other, people, predictions, place, show)
    subjects = cohort.images["subject"].value_counts()
    return {
        "metrics": found["metrics"],
        "main": found["main"],
        "subjects": int((subjects > 1).sum()),
        "images": int(subjects[subjects > 1].sum()),
    }
