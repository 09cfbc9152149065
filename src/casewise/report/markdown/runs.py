"""The runs of a Markdown page: their artefacts, and the check that they can share a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import RunError
from casewise.evaluation.results import Figures, Results, read_results
from casewise.run_folder import RunFolder
from casewise.study.loading import saved_study

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study

STAGES = {"test": "the test set", "oof": "out of fold"}


@dataclass(frozen=True)
class FinishedStudy:
    """What a page shows of a finished run.

    Attributes:
        metrics: the results.
        splits, audit: the contents of the run's JSON files; `audit` is None if there was none.
        jobs: one record a network.
        measured: the result of `casewise explain --measure`, or None.
    """

    files: RunFolder
    study: Study
    metrics: Results
    splits: dict[str, Any]
    audit: dict[str, Any] | None
    jobs: list[dict[str, Any]]
    measured: dict[str, Any] | None

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.files.path

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.name

    @property
    def main_target(self) -> str:
        """The target of the headline; the primary outcome if there is none."""
        return self.metrics.main.target or self.study.primary_outcome

    @property
    def site(self) -> str:
        """The source that each fold left out; empty if folds are of subjects."""
        how = str(self.splits.get("how") or "")
        return how.removeprefix("leave out ") if how.startswith("leave out ") else ""

    @property
    def learners(self) -> list[str]:
        """All learners that were evaluated in any stage."""
        return list(dict.fromkeys(name for by_learner in self.metrics.metrics.values() for name in by_learner))

    def figures(self, stage: str) -> dict[str, dict[str, Figures]]:
        """The figures of a stage by learner and target."""
        return self.metrics.metrics.get(stage, {})

    def class_entry(self, stage: str, learner: str, target: str) -> Mapping[str, Any]:
        """Confusion matrix and operating points of a learner; empty if there are none."""
        return self.metrics.classes.get(stage, {}).get(learner, {}).get(target) or {}

    def has(self, stage: str, target: str) -> bool:
        """Whether any learner has figures of a target."""
        return any(target in targets for targets in self.figures(stage).values())

    def predictions(self) -> pd.DataFrame | None:
        """Subject, stage, target and reference of all evaluated cases; None if the file is missing."""
        file = self.files.predictions
        return file.read(["subject", "stage", "target", "y_true"]) if file.exists() else None

    def images(self) -> int:
        """The number of images of the subjects of the split; 0 if the run's cohort is missing."""
        if not self.files.cohort.exists():
            return 0
        rows = self.files.cohort.read(["subject", "path"])
        if subjects := self.splits.get("subjects"):
            rows = rows[rows["subject"].astype(str).isin(list(subjects))]
        # A slide has one row for each tile.
        return int(rows["path"].nunique())


def read_finished(folder: Path) -> FinishedStudy:
    """Read a finished run.

    Raises:
        RunError: there is no such folder or no finished run, its metrics are of other predictions, or it was split by
            image for comparison only.
    """
    files = RunFolder(folder)
    files.check_exists()
    files.refuse_image_split()
    files.check_finished()
    contents = {name: getattr(files, name).read() for name in ("study", "splits")}
    study = saved_study(contents["study"], source=str(files.study.path))
    explanations = files.explanations.read_if_exists() or {}
    measured = explanations.get("measured") if files.has_weights(explanations.get("weights_sha256")) else None
    return FinishedStudy(
        files,
        study,
        read_results(files),
        contents["splits"],
        files.audit.read_if_exists(),
        files.job_records(study.networks),
        measured if measured and "inputs" in measured else None,
    )


def stage_of(run: FinishedStudy) -> str:
    """The stage that the page is about: that of the headline, else the test set if there is one.

    Raises:
        RunError: nothing was evaluated.
    """
    stage = run.metrics.main.stage
    stage = stage if stage in STAGES else next((name for name in STAGES if run.figures(name)), None)
    if stage is None:
        raise RunError(f"{run.folder}: no prediction has a reference value, so nothing was evaluated for a page.")
    return str(stage)


def targets_of(run: FinishedStudy, stage: str) -> list[str]:
    """Whole targets and scores, the primary one first; components of a sum are left to metrics.json."""
    study = run.study
    names = [study.primary_outcome, *study.evaluation.references, *study.scores]
    available = next(iter(run.figures(stage).values()))
    if any(study.classes_of(name) for name in study.targets):
        names = [run.main_target, *names, *(key for key in available if "[" not in key)]
    requested = list(dict.fromkeys(name for name in names if name in available))
    return requested or [key for key in available if "[" not in key]


def pooled(run: FinishedStudy, stage: str) -> bool:
    """Whether the figures of a stage are pooled over sources that were left out in turn."""
    return stage == "oof" and bool(run.metrics.site_means)


def check_comparable(runs: Sequence[FinishedStudy], stage: str) -> None:
    """Check that the other runs can share the tables of the first one.

    Raises:
        RunError: naming the run and the reason.
    """
    first, targets = runs[0], targets_of(runs[0], stage)
    for run in runs[1:]:
        refusal = f"{run.folder} cannot be compared with {first.folder}"
        if not run.figures(stage):
            available = [STAGES[name] for name in STAGES if run.figures(name)]
            available_text = (
                f"it has figures of {' and '.join(available)}" if available else "nothing was evaluated there"
            )
            raise RunError(f"{refusal}, whose figures are of {STAGES[stage]}: {available_text}. Leave it out.")
        if run.study.synthetic != first.study.synthetic:
            phantom, real = (run, first) if run.study.synthetic else (first, run)
            raise RunError(
                f"{refusal}: {phantom.folder} is of synthetic phantom data, {real.folder} is not. Write two pages."
            )
        shared = [name for name in targets if run.has(stage, name)]
        if not shared:
            evaluated = ", ".join(targets_of(run, stage))
            raise RunError(f"{refusal}: it evaluated {evaluated}, and nothing of {', '.join(targets)}. Leave it out.")
        for name in shared:
            first_scale, run_scale = (_scale(study, name) for study in (first.study, run.study))
            if first_scale != run_scale:
                raise RunError(f"{refusal}: there {name} is {run_scale}, here {first_scale}. Leave it out.")


def _scale(study: Study, target: str) -> str:
    """The values of a target in words."""
    names = study.classes_of(target) if target in study.targets else []
    return f"of the classes {', '.join(names)}" if names else "a number"
