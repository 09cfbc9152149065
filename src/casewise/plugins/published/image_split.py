"""The comparison with a split by image: the same study with every image treated as a separate subject.

Images of one subject are then on both sides of the split, so that a network that recognises the subject seems to
recognise the disease. The results are shown in addition to the study's results, and are marked as a comparison.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from casewise.audit.findings import Finding
from casewise.cohort.cohort import Cohort
from casewise.console import Show, Silent
from casewise.errors import CohortError, StudyError
from casewise.evaluation.figures import IMAGES
from casewise.evaluation.metrics_file import write_results
from casewise.evaluation.results import ImageSplit, Results
from casewise.jobs.job import PERSON
from casewise.pipeline.evaluate import evaluate
from casewise.pipeline.read import RunInputs
from casewise.pipeline.train import train_again
from casewise.splits.grouped import Splits, split
from casewise.splits.learnable import check_learnable
from casewise.study.schema import Study

# Single images are balanced well in any order, so a few restarts suffice.
RESTARTS = 20


@dataclass(frozen=True)
class Comparison:
    """The study, the cohort and the split in which every image is a separate subject."""

    study: Study
    cohort: Cohort
    splits: Splits


def image_split_of(study: Study, cohort: Cohort, splits: Splits) -> Comparison:
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
    return Comparison(other, images, split(images, other))


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


def on_both_sides(cohort: Cohort, comparison: Comparison) -> dict[str, int]:
    """Numbers of subjects with images on several sides of the split by image, and with several images."""
    sides = comparison.cohort.images["subject"].map(comparison.splits.side)
    by_subject = sides.groupby(cohort.images["subject"].to_numpy())
    return {
        "subjects_on_both_sides": int((by_subject.nunique() > 1).sum()),
        "subjects_with_several_images": int((by_subject.size() > 1).sum()),
        "subjects": int(cohort.images["subject"].nunique()),
        "images": len(cohort.images),
    }


def further_results(inputs: RunInputs, results: Results, show: Show) -> Results:
    """With `split: {by: image}`, train and evaluate the study again; `results` with the figures under `image_split`.

    These are `metrics` of the primary outcome by stage and learner, with intervals that treat every image as a subject,
    as publications that split images do; the headline (`main`); and the number of subjects on both sides.
    """
    study, cohort, split_folder = inputs.study, inputs.cohort, inputs.folder.image_split
    if study.split.by != "image":
        return results
    comparison = image_split_of(study, cohort, inputs.splits)
    other, images = comparison.study, comparison.cohort
    show.line("by image", "every network is trained again, with each image treated as a separate subject")
    split_folder.image_split_mark.write({"split": split_folder.path.name, "of": study.name})
    check_learnable(comparison.splits, images.panels, other)
    # The images are already prepared, and their folder is not part of the study.
    prepared = other.model_copy(update={"images": other.images.model_copy(update={"store": inputs.store.folder})})
    predictions = train_again(RunInputs(prepared, images, inputs.store, comparison.splits, split_folder), show)
    # without its line, which would count images as subjects
    evaluated = evaluate(other, images, predictions, split_folder, Silent())
    figures = evaluated.figures.select(target=study.primary_outcome, population="", contrast="")
    main = {name: getattr(evaluated.main, name) for name in ("target", "stage", "learner", "kind")}
    entry = ImageSplit(main, **on_both_sides(cohort, comparison))
    figures = results.figures | figures.placed(population=IMAGES)
    return write_results(inputs.folder, replace(results, figures=figures, image_split=entry))


def findings(study: Study, cohort: Cohort, splits: Splits) -> list[Finding]:
    """The finding about a study that requests a comparison by image.

    Raises:
        CohortError, StudyError: as `image_split_of`.
    """
    if study.split.by != "image":
        return []
    counts = on_both_sides(cohort, image_split_of(study, cohort, splits))
    both, every = counts["subjects_on_both_sides"], counts["subjects"]
    sentence = (
        f"For comparison only, the study is also trained with its images split as if each showed a different subject: "
        f"{both:,} of {every:,} subjects are then on both sides, and networks are tested on subjects they were trained "
        "on. The study's own figures are by subject and do not depend on it."
    )
    remedy = "Cite the figures by subject. Leave out `split: {by: image}` to do without the comparison."
    return [Finding("image-level-split", "warning", sentence, {"where": "the comparison", **counts}, remedy=remedy)]
