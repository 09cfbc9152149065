"""The comparison with a split by image: the study is trained and evaluated again in a separate folder."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from casewise.console import Silent
from casewise.errors import counted
from casewise.evaluation.results import ImageSplit, Results, write_results
from casewise.pipeline.evaluate import evaluate
from casewise.pipeline.train import train_again
from casewise.splits.image_split import image_split_of, on_both_sides
from casewise.splits.learnable import check_learnable

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.base import ImageStore
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study


def image_split(
    study: Study,
    cohort: Cohort,
    store: ImageStore,
    splits: Splits,
    results: Results,
    folder: RunFolder,
    show: Show,
) -> Results:
    """Train and evaluate the study again, split by image; return `results` with the figures under `image_split`.

    These are `metrics` of the primary outcome by stage and learner, with intervals that treat every image as a subject,
    as publications that split images do; the headline (`main`); and the number of subjects on both sides.
    """
    comparison, split_folder = image_split_of(study, cohort, splits), folder.image_split
    other, images = comparison.study, comparison.cohort
    show.line("by image", "every network is trained once more, with each image treated as a separate subject")
    split_folder.image_split_mark.write({"split": split_folder.path.name, "of": study.name})
    check_learnable(comparison.splits, images.panels, other)
    # The images are already prepared, and their folder is not part of the study.
    prepared = other.model_copy(update={"images": other.images.model_copy(update={"store": store.folder})})
    predictions = train_again(prepared, images, store, comparison.splits, split_folder, show)
    start = time.monotonic()
    # Without its line, which would count images as subjects.
    figures = evaluate(other, images, predictions, split_folder, Silent())
    show.line(
        "evaluate",
        f"{counted(predictions['model'].nunique(), 'learner')}, intervals as if each image showed a different subject, "
        f"{time.monotonic() - start:.0f} s",
    )
    outcome = study.primary_outcome
    of_outcome = {
        stage: {learner: {outcome: targets[outcome]} for learner, targets in learners.items()}
        for stage, learners in figures.metrics.items()
    }
    main = {name: getattr(figures.main, name) for name in ("target", "stage", "learner", "kind")}
    entry = ImageSplit(of_outcome, main, **on_both_sides(cohort, comparison))
    return write_results(folder, replace(results, image_split=entry))
