"""Repeating a finished run: checks of its inputs before anything is trained, and the comparison of both runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.analysis.run import Run
from casewise.console import Show, Silent, shown_at
from casewise.errors import CohortError, ImageError, RunError, StudyError, WeightsError, counted, cut
from casewise.files import checksum, parquet_bytes, read_parquet
from casewise.pipeline.finished import FinishedRun
from casewise.pipeline.hooks import repeated
from casewise.pipeline.read import plan, prepare, read, split
from casewise.pipeline.train import finished, weights
from casewise.predictions.table import KEY, probability_columns
from casewise.run import run
from casewise.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from casewise.modalities.base import ImageStore
    from casewise.study.schema import Study

EQUAL, WITHIN, DIFFERENT = "equal", "within_tolerance", "different"
# How many changed images or cells, or networks with other weights, a message names.
LISTED = 10


@dataclass(frozen=True)
class PredictionComparison:
    """Two tables of predictions, row by row; distances from the training cases are compared separately.

    Attributes:
        rows: of either table.
        equal: rows that are equal bit by bit.
        missing, further: rows of the first, and of the second table alone.
        largest_difference: of the rows in both; None if a value is missing in one of them.
    """

    rows: int
    equal: int
    missing: int
    further: int
    largest_difference: float | None
    equal_distances: bool

    def verdict(self, tolerance: float) -> str:
        """The verdict: all rows equal bit by bit, different by at most the tolerance, or different."""
        if self.equal == self.rows:
            return EQUAL
        largest = self.largest_difference
        incomplete = self.missing or self.further or largest is None
        return DIFFERENT if incomplete or largest > tolerance else WITHIN  # type: ignore[operator]

    def line(self, tolerance: float) -> str:
        """The comparison in words."""
        if self.equal == self.rows:
            distances = "" if self.equal_distances else " Distances from the training cases differ."
            return f"All {counted(self.rows, 'prediction')} are equal, bit by bit.{distances}"
        text = f"{self.rows - self.equal:,} of {counted(self.rows, 'prediction')} differ."
        text += f" {self.missing:,} of the run are missing in the reproduction." if self.missing else ""
        text += f" {self.further:,} of the reproduction are missing in the run." if self.further else ""
        if self.largest_difference is None:
            return text
        return f"{text} The largest difference is {self.largest_difference:.3g}; the tolerance is {tolerance:g}."


@dataclass(frozen=True)
class Reproduction:
    """A run that was repeated, and what of it is the same; `reproduction.json` of the repetition holds it.

    Attributes:
        folder: the folder of the repetition.
        verdict: `equal`, `within_tolerance` or `different`, of the predictions.
        left_out: networks that could not be trained in the run.
        networks, other_weights: the number of trainings (a learner in a fold), and those whose weights differ.
        environment: what differs of versions, machine and compute plans: in the run, and in the repetition.
    """

    folder: Path
    verdict: str
    tolerance: float
    left_out: list[str]
    networks: int
    other_weights: list[str]
    predictions: PredictionComparison
    environment: dict[str, tuple[str, str]]

    @property
    def same(self) -> bool:
        """Whether all predictions are equal, bit by bit or within the stated tolerance."""
        return self.verdict != DIFFERENT

    def lines(self) -> list[str]:
        """What is the same and what is not, in sentences."""
        lines = []
        if self.left_out:
            lines.append(f"Not repeated, because they could not be trained in the run: {', '.join(self.left_out)}.")
        same = f"All {self.networks} trainings gave the same weights, bit by bit."
        others = f"{len(self.other_weights)} of {self.networks} trainings gave other weights:"
        lines.append(_listed(others, self.other_weights) if self.other_weights else same)
        lines.append(self.predictions.line(self.tolerance))
        lines += [f"Different: {name}, {was} in the run, {now} now." for name, (was, now) in self.environment.items()]
        lines += [] if self.environment else ["Versions, processor and threads are the same."]
        verdicts = {EQUAL: "equal, bit by bit", WITHIN: f"equal within {self.tolerance:g}"}
        reproduced = f"Reproduced: all predictions are {verdicts.get(self.verdict)}."
        return [*lines, reproduced if self.same else "Not reproduced: predictions differ."]


def reproduce(
    finished: Run | Path | str,
    output: Path | str | None = None,
    *,
    tolerance: float = 0.0,
    show: Show | bool | None = None,
) -> Reproduction:
    """As `casewise.reproduce`: check the inputs of a run, run its study again, and write the comparison."""
    source, show = FinishedRun.open(finished.folder if isinstance(finished, Run) else finished), shown_at(show)
    if not 0 <= tolerance < float("inf"):
        raise StudyError(f"The tolerance must be a number of at least 0, not {cut(tolerance)}.")
    files = source.files
    study = _again(source.study, files)
    target = RunFolder(Path(output or files.path.resolve().with_name(f"{files.path.resolve().name}-reproduced")))
    mark = _mark(files)
    _check_target(files, target, mark)
    with target.lock():
        target.reproduction.write({**mark, "finished": False})
        _check_inputs(study, source, target, show)
        _repeat_parts(study, files, target)
    run(study, target.path, show=show)
    reproduction = compared(files, target, study, tolerance)
    record = {**_mark(files), "finished": True, **asdict(reproduction), "folder": str(target.path)}
    with target.lock():
        target.reproduction.write(record)
    return reproduction


def _mark(files: RunFolder) -> dict[str, str]:
    """The path and the checksum that identify the repeated run."""
    return {"run": str(files.path.resolve()), "predictions_sha256": checksum(files.predictions.path)}


def _again(study: Study, source: RunFolder) -> Study:
    """The study with the compute plan that the run recorded, which prepares its images again and uses no tracker."""
    from casewise.jobs.compute_plans import recorded_plans

    source.compute.read_if_exists()  # raises if it is damaged: nothing may be renamed in another run's folder
    plans = recorded_plans(source, study.learners)  # of baselines, the threads matter
    if missing := [name for name in study.trained if name not in plans]:
        raise RunError(f"{source.compute.path} has no compute plan of {missing[0]}, so it cannot be repeated.")
    any_machine = dict.fromkeys(("device", "precision", "threads"), "auto") if plans else {}
    compute = study.compute.model_copy(update={"plan": plans or None, **any_machine})
    images = study.images.model_copy(update={"store": None})
    return repeated(study).model_copy(update={"compute": compute, "images": images})


def _repeat_parts(study: Study, source: RunFolder, target: RunFolder) -> None:
    """Split batches as in the run, where memory did not suffice for whole ones."""
    for name, fold, job in finished(source, study.learners):
        record = job.record.read()
        again = target.final_job(name) if fold == "all" else target.job(name, int(fold) - 1)
        # an interrupted reproduction may need more parts by now; they count only for a job with the same fingerprint
        if record.get("parts", 1) > 1 and not (again.parts.exists() or again.record.exists()):
            again.parts.write({"parts": record["parts"], "fingerprint": record["fingerprint"]})


def _check_target(source: RunFolder, target: RunFolder, mark: Mapping[str, str]) -> None:
    """Check that the folder is new, or has an interrupted reproduction of the same run.

    Raises:
        RunError: it is the run's own folder or within it, or has other files.
    """
    paths = source.path.resolve(), target.path.resolve()
    problem = ""
    if paths[0] == paths[1] or paths[0] in paths[1].parents:
        problem = "is in the run that is reproduced"
    elif target.path.exists() and not target.path.is_dir():
        problem = "is a file"
    elif target.path.is_dir() and any(not entry.name.startswith(".") for entry in target.path.iterdir()):
        present = target.reproduction.read_if_exists()
        if present is None or {name: present.get(name) for name in mark} != mark:
            problem = f"holds other files than a reproduction of {source.path}"
        elif present["finished"]:
            problem = (
                f"already holds a reproduction of {source.path}; its result is in {target.reproduction.path.name}. "
                "Remove it to run the study again"
            )
    if problem:
        raise RunError(f"{target.path} {problem}. Choose a new folder with --output.")


def _check_inputs(study: Study, source: FinishedRun, target: RunFolder, show: Show) -> None:
    """Check that table, first weights and images are the same as in the run, before anything is trained.

    The images are prepared for this, in the new folder, where the run finds them.

    Raises:
        CohortError, WeightsError, ImageError: naming what has changed.
    """
    if study.recipe.auto and source.files.recipe_plan.exists() and not target.recipe_plan.exists():
        # another machine, with other cores, would plan another recipe
        target.recipe_plan.write(source.files.recipe_plan.read())
    cohort = read(study, target, Silent())
    _check_table(source, cohort.images)
    weights(study, target, show)
    _check_weights(study, source.files)
    splits = split(study, cohort, target, Silent())
    store = prepare(plan(study, cohort, splits, target, Silent()), cohort, target, show)
    _check_images(source, store)


def _check_table(source: FinishedRun, images: pd.DataFrame) -> None:
    """Check that the table has the rows and values that the run read."""
    recorded, present = source.images, read_parquet(parquet_bytes(images))
    problems = [f"the column {cut(name)} is missing" for name in recorded if name not in present]
    problems += [f"the column {cut(name)} is new" for name in present if name not in recorded]
    shared = [name for name in recorded if name in present]
    if len(recorded) != len(present):
        problems.append(f"there are {counted(len(present), 'image')}, and the run had {len(recorded):,}")
        shared = []
    for name in shared:
        was, now = recorded[name], present[name]
        for row in (~((was == now) | (was.isna() & now.isna()))).to_numpy().nonzero()[0]:
            case = present["case"][row]
            values = f"was {cut(str(was[row]))}, is {cut(str(now[row]))}"
            problems.append(f"{name} of image {row + 1} (case {case}) {values}")
    if problems:
        raise CohortError(_listed(f"{source.study.cohort} is not the table of {source.files.path}:", problems))


def _check_weights(study: Study, source: RunFolder) -> None:
    """Check that every learner starts from the file of first weights that it started from in the run."""
    from casewise.inference.run_members import first_weights_checksum

    problems = []
    for name in study.learners:
        record = next(iter(source.job_records([name])), None)
        before, now = str((record or {}).get("first_weights", "")), first_weights_checksum(study, name)
        if record is not None and before != now:
            problems.append(f"{name}: SHA-256 was {before or 'none'}, is {now or 'none, because the file is missing'}")
    if problems:
        raise WeightsError(_listed(f"First weights have changed since {source.path} was trained:", problems))


def _check_images(source: FinishedRun, store: ImageStore) -> None:
    """Check that the prepared images are the same as in the run; files that have changed are named."""
    from casewise.modalities.store.store import open_store

    folder, before = source.files.path, str(source.files.fingerprint.read()["decided"].get("tiles", ""))
    if before == store.address:
        return
    changed = []
    with suppress(RunError):  # the store of the run may have been removed since
        recorded = open_store(source.files.images(source.study.images.store).of("tiles")).index
        indexes = (index[["path", "sha256"]].astype(str) for index in (recorded, store.index))
        was, now = (dict(zip(index["path"], index["sha256"], strict=True)) for index in indexes)
        changed = [path for path, value in now.items() if was.get(path) != value]
    if changed:
        raise ImageError(_listed(f"{counted(len(changed), 'image')} changed after {folder} was made:", changed))
    raise ImageError(
        f"The images are not the same as in {folder}: their hash was {before[:12]} and is {store.address[:12]}. Either "
        "files have changed, or this version of casewise or of its libraries prepares them differently."
    )


def _listed(head: str, problems: Sequence[str]) -> str:
    rest = len(problems) - LISTED
    more = [f"and {rest:,} more"] if rest > 0 else []
    return "\n  ".join([head, *problems[:LISTED], *more])


def compared(run: RunFolder, repetition: RunFolder, study: Study, tolerance: float) -> Reproduction:
    """Compare two finished runs of a study.

    Raises:
        RunError: a file of one of them is missing or damaged.
    """
    predictions = compared_predictions(run.predictions.read(), repetition.predictions.read())
    weights_before, weights_now = _weights(run, study), _weights(repetition, study)
    before, now = _environment(run), _environment(repetition)
    return Reproduction(
        repetition.path,
        predictions.verdict(tolerance),
        tolerance,
        sorted((run.left_out.read_if_exists() or {"networks": {}})["networks"]),
        len(weights_before | weights_now),
        [name for name in weights_before | weights_now if weights_before.get(name) != weights_now.get(name)],
        predictions,
        {name: (before.get(name, "not recorded"), now[name]) for name in now if now[name] != before.get(name)},
    )


def compared_predictions(first: pd.DataFrame, second: pd.DataFrame) -> PredictionComparison:
    """Compare two tables of predictions."""
    keys, values = list(KEY), ["y_pred", *probability_columns(first)]
    tables = [table.assign(**{name: table[name].astype(str) for name in keys}) for table in (first, second)]
    both = tables[0].merge(tables[1], on=keys, how="outer", suffixes=("_0", "_1"), indicator="side")
    shared, sides = both[both["side"] == "both"], both["side"].value_counts()
    columns = [name for name in values if f"{name}_1" in both]

    def numbers(names: list[str], side: int) -> np.ndarray:
        return shared[[f"{name}_{side}" for name in names]].to_numpy(dtype=float, na_value=np.nan)

    before, now = numbers(columns, 0), numbers(columns, 1)
    equal = _same_bits(before, now) & (columns == values == ["y_pred", *probability_columns(second)])
    gaps = np.nan_to_num(np.abs(before - now), nan=0.0)
    gaps[np.isnan(before) != np.isnan(now)] = np.inf
    largest = float(gaps.max(initial=0.0))
    return PredictionComparison(
        rows=len(both),
        equal=int(equal.sum()),
        missing=int(sides["left_only"]),
        further=int(sides["right_only"]),
        largest_difference=largest if np.isfinite(largest) else None,
        equal_distances=bool(_same_bits(numbers(["distance"], 0), numbers(["distance"], 1)).all()),
    )


def _same_bits(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    bits = [np.ascontiguousarray(values).view(np.int64) for values in (first, second)]
    return np.asarray(((bits[0] == bits[1]) | (np.isnan(first) & np.isnan(second))).all(axis=1))


def _weights(folder: RunFolder, study: Study) -> dict[str, str]:
    """The checksums of the weights of the trained learners, of the folds and of all subjects."""
    jobs = [
        (name, "all folds" if fold == "all" else f"fold {fold}", job)
        for name, fold, job in finished(folder, study.learners)
    ]
    return {f"{name}, {fold}": job.weights_sha256() for name, fold, job in jobs if job.facts.exists()}


def _environment(folder: RunFolder) -> dict[str, str]:
    """What a run recorded of its machine and of its compute plans."""
    record = {name: str(value) for name, value in folder.environment.read().items()}
    for name, values in (folder.compute.read_if_exists() or {}).items():
        keys = ("device", "precision", "channels_last", "threads")
        record[f"compute plan of {name}"] = ", ".join(f"{key} {values[key]}" for key in keys if key in values)
    return record
