"""Repeating a finished run: the checks of its inputs before anything is trained, and the comparison of both runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.console import Silent
from casewise.errors import CohortError, ImageError, RunError, StudyError, WeightsError, counted, cut
from casewise.files import checksum, parquet_bytes, read_parquet
from casewise.pipeline.read import plan, prepare, read, split
from casewise.pipeline.train import finished, weights
from casewise.plugin import repeated
from casewise.predictions.table import KEY, probability_columns
from casewise.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from casewise.console import Show
    from casewise.modalities.base import ImageStore
    from casewise.pipeline.finished import FinishedRun
    from casewise.study.schema import Study

EQUAL, WITHIN, DIFFERENT = "equal", "within_tolerance", "different"
# How many differences, and how many changed images or cells, a message names.
SHOWN, LISTED = 5, 10
SHORT_HASH = 12


@dataclass(frozen=True)
class Reproduction:
    """A run that was repeated, and what of it is the same.

    Attributes:
        folder: the folder of the repetition.
        record: the content of its `reproduction.json`.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def same(self) -> bool:
        """Whether all predictions are equal, bit by bit or within the stated tolerance."""
        return bool(self.record["verdict"] != DIFFERENT)

    def lines(self) -> list[str]:
        """What is the same and what is not, in sentences."""
        record = self.record
        return [
            *_input_lines(record["inputs"]),
            *_left_out_lines(record["left_out"]),
            _network_line(record["networks"]),
            _prediction_line(record["predictions"], record["tolerance"]),
            _figure_line(record["figures"]),
            *_machine_lines(record["environment"]),
            _verdict(record),
        ]


def begin_reproduction(
    source: FinishedRun, output: Path | str | None, tolerance: float, show: Show
) -> tuple[Study, RunFolder]:
    """Check the inputs of a run; return the study to run again, and the folder for it.

    Raises:
        CasewiseError: as `casewise.reproduce`.
    """
    if not 0 <= tolerance < float("inf"):
        raise StudyError(f"The tolerance must be a number of at least 0, not {cut(tolerance)}.")
    files = source.files
    study = _again(source.study, files)
    target = RunFolder(Path(output or files.path.resolve().with_name(f"{files.path.resolve().name}-reproduced")))
    mark = _mark(files)
    _check_target(files, target, mark)
    with target.lock():
        target.reproduction.write({**mark, "finished": False})
        _check_inputs(study, files, target, show)
        _repeat_parts(study, files, target)
    return study, target


def finish_reproduction(source: FinishedRun, target: RunFolder, study: Study, tolerance: float) -> Reproduction:
    """Compare a run with its repetition, and write the comparison."""
    record = {**_mark(source.files), "finished": True, **compared(source.files, target, study, tolerance)}
    with target.lock():
        target.reproduction.write(record)
    return Reproduction(target.path, record)


def _mark(files: RunFolder) -> dict[str, Any]:
    """Which run is repeated."""
    return {"run": str(files.path.resolve()), "predictions_sha256": checksum(files.predictions.path)}


def _again(study: Study, source: RunFolder) -> Study:
    """The study with the compute plan that the run recorded, which prepares its images anew and tells no tracker."""
    from casewise.jobs.compute_plans import recorded_plans

    source.compute.read_if_exists()  # a damaged one must not be set aside in another run's folder
    plans = recorded_plans(source, study.learners)  # of baselines, the threads matter
    if missing := [name for name in study.networks if name not in plans]:
        raise RunError(f"{source.compute.path} has no compute plan of {missing[0]}, so it cannot be repeated.")
    compute: dict[str, Any] = {"plan": plans or None}
    compute |= dict.fromkeys(("device", "precision", "memory_format", "threads"), "auto") if plans else {}
    return repeated(study).model_copy(
        update={
            "compute": study.compute.model_copy(update=compute),
            "images": study.images.model_copy(update={"store": None}),
        }
    )


def _repeat_parts(study: Study, source: RunFolder, target: RunFolder) -> None:
    """Compute batches in as many parts as in the run, where its memory did not suffice for whole ones."""
    for name, fold, job in finished(source, study.learners):
        record = job.record.read()
        again = target.final_job(name) if fold == "all" else target.job(name, int(fold) - 1)
        # an interrupted reproduction may need more parts by now; they count only for a job with the same fingerprint
        if record.get("parts", 1) > 1 and not (again.parts.exists() or again.record.exists()):
            again.parts.write({"parts": record["parts"], "fingerprint": record["fingerprint"]})


def _check_target(source: RunFolder, target: RunFolder, mark: Mapping[str, Any]) -> None:
    """Check that the folder is new, or has an interrupted reproduction of the same run.

    Raises:
        RunError: it is the run's own folder or within it, or has other files.
    """
    paths = source.path.resolve(), target.path.resolve()
    if paths[0] == paths[1] or paths[0] in paths[1].parents:
        raise RunError(f"{target.path} is in the run that is reproduced. Choose another folder with --output.")
    if target.path.exists() and not target.path.is_dir():
        raise RunError(f"{target.path} is a file. Choose a new folder with --output.")
    if not target.path.is_dir() or all(entry.name.startswith(".") for entry in target.path.iterdir()):
        return
    present = target.reproduction.read_if_exists()
    if present is None or {name: present.get(name) for name in mark} != mark:
        raise RunError(
            f"{target.path} holds other files than a reproduction of {source.path}. Choose a new folder with --output."
        )
    if present["finished"]:
        raise RunError(
            f"{target.path} already holds a reproduction of {source.path}; its result is in "
            f"{target.reproduction.path.name}. Remove it to run the study once more, or choose a new folder with "
            "--output."
        )


def _check_inputs(study: Study, source: RunFolder, target: RunFolder, show: Show) -> None:
    """Check that table, first weights and images are those of the run, before anything is trained.

    The images are prepared for this, in the new folder, where the run finds them.

    Raises:
        CohortError, WeightsError, ImageError: naming what has changed.
    """
    if study.recipe.auto and source.recipe_plan.exists() and not target.recipe_plan.exists():
        # another machine, with other cores, would plan another recipe
        target.recipe_plan.write(source.recipe_plan.read())
    cohort = read(study, target, Silent())
    _check_table(study, source, cohort.images)
    weights(study, target, show)
    _check_weights(study, source)
    splits = split(study, cohort, target, Silent())
    store = prepare(plan(study, cohort, splits, target, Silent()), cohort, target, show)
    _check_images(study, source, store)


def _check_table(study: Study, source: RunFolder, images: pd.DataFrame) -> None:
    """Check that the table has the rows and values that the run read."""
    recorded, present = source.cohort.read(), read_parquet(parquet_bytes(images))
    problems = []
    for names, text in (
        ([name for name in recorded if name not in present], "the column {} is missing"),
        ([name for name in present if name not in recorded], "the column {} is new"),
    ):
        problems += [text.format(cut(name)) for name in names]
    if len(recorded) != len(present):
        problems.append(f"there are {counted(len(present), 'image')}, and the run had {len(recorded):,}")
    else:
        for name in [name for name in recorded if name in present]:
            before, now = recorded[name], present[name]
            for row in (~((before == now) | (before.isna() & now.isna()))).to_numpy().nonzero()[0]:
                case = present["case"].iloc[row]
                problems.append(
                    f"{name} of image {row + 1} (case {case}) was {_cell(before, row)}, is {_cell(now, row)}"
                )
    if problems:
        raise CohortError(_listed(f"{study.cohort} is not the table of {source.path}:", problems))


def _cell(column: pd.Series, row: int) -> str:
    value = column.iloc[row]
    return cut(value.item() if hasattr(value, "item") else value)


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
        raise WeightsError(_listed(f"First weights are not those of {source.path}:", problems))


def _check_images(study: Study, source: RunFolder, store: ImageStore) -> None:
    """Check that the prepared images are those of the run; files that have changed are named."""
    before = str(source.fingerprint.read()["decided"].get("tiles", ""))
    if before == store.address:
        return
    changed = _changed_files(study, source, store)
    if not changed:
        raise ImageError(
            f"The images are not those of {source.path}: their hash was {before[:12]} and is {store.address[:12]}. "
            "Either files have changed, or this version of casewise or of its libraries prepares them otherwise."
        )
    raise ImageError(_listed(f"{counted(len(changed), 'image')} changed after {source.path} was made:", changed))


def _changed_files(study: Study, source: RunFolder, store: ImageStore) -> list[str]:
    """The files whose content was another one in the run, as far as its store of pictures still says so."""
    from casewise.modalities.store.store import open_store

    try:
        recorded = open_store(source.images(_stated_store(source)).of("tiles")).index
    except RunError:
        return []
    before = dict(zip(recorded["path"].astype(str), recorded["sha256"].astype(str), strict=True))
    now = dict(zip(store.index["path"].astype(str), store.index["sha256"].astype(str), strict=True))
    return [path for path, value in now.items() if before.get(path, "") != value]


def _stated_store(source: RunFolder) -> Path | None:
    """The folder of the run's image store that its study states, if it does."""
    stated = (source.study.read().get("images") or {}).get("store")
    return Path(stated) if stated else None


def _listed(head: str, problems: list[str]) -> str:
    rest = len(problems) - LISTED
    more = [f"and {rest:,} more"] if rest > 0 else []
    return "\n  ".join([head, *problems[:LISTED], *more])


def compared(run: RunFolder, repetition: RunFolder, study: Study, tolerance: float) -> dict[str, Any]:
    """Compare two finished runs of a study; the content of `reproduction.json`.

    Raises:
        RunError: a file of one of them is missing or damaged.
    """
    folders = (run, repetition)
    predictions = compared_predictions(*(folder.predictions.read() for folder in folders))
    different = predictions["rows"] != predictions["equal"]
    beyond = predictions["missing"] or predictions["further"] or predictions["largest_difference"] is None
    beyond = beyond or predictions["largest_difference"] > tolerance
    return {
        "verdict": DIFFERENT if different and beyond else WITHIN if different else EQUAL,
        "tolerance": tolerance,
        "inputs": _inputs(run, repetition),
        "left_out": sorted((run.left_out.read_if_exists() or {"networks": {}})["networks"]),
        "networks": _networks(run, repetition, study),
        "predictions": predictions,
        "figures": compared_figures(*(_figures(folder) for folder in folders)),
        "environment": _environments(run, repetition, study),
    }


def compared_predictions(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any]:
    """Compare two tables of predictions row by row: values and probabilities, and the distances apart.

    Returns:
        `rows` of either table; how many are `equal` bit by bit; those `missing` in the second table and `further` ones
        of it; the `largest_difference` of the rows in both (None if a value is missing in one of them); and
        `equal_distances`.
    """
    keys = list(KEY)
    values = ["y_pred", *probability_columns(first)]
    tables = [table.assign(**{name: table[name].astype(str) for name in keys}) for table in (first, second)]
    both = tables[0].merge(tables[1], on=keys, how="outer", suffixes=("_0", "_1"), indicator="side")
    shared = both[both["side"] == "both"]
    columns = [name for name in values if f"{name}_1" in both]
    pairs = [(shared[f"{name}_0"], shared[f"{name}_1"]) for name in columns]
    equal = np.logical_and.reduce([_same_bits(*pair) for pair in pairs])
    if columns != values or columns != ["y_pred", *probability_columns(second)]:
        equal = np.zeros(len(shared), dtype=bool)
    gaps = np.max([_gaps(*pair) for pair in pairs], axis=0)
    return {
        "rows": len(both),
        "equal": int(equal.sum()),
        "missing": int((both["side"] == "left_only").sum()),
        "further": int((both["side"] == "right_only").sum()),
        "largest_difference": _largest(gaps),
        "equal_distances": bool(_same_bits(shared["distance_0"], shared["distance_1"]).all()),
    }


def _same_bits(first: pd.Series, second: pd.Series) -> np.ndarray:
    values = [column.to_numpy(dtype=float, na_value=np.nan) for column in (first, second)]
    return (values[0].view(np.int64) == values[1].view(np.int64)) | (np.isnan(values[0]) & np.isnan(values[1]))


def _gaps(first: pd.Series, second: pd.Series) -> np.ndarray:
    """The absolute differences; infinite where one value is missing."""
    values = [column.to_numpy(dtype=float, na_value=np.nan) for column in (first, second)]
    lacking = np.isnan(values[0]) != np.isnan(values[1])
    return np.where(lacking, np.inf, np.nan_to_num(np.abs(values[0] - values[1]), nan=0.0))


def _largest(gaps: np.ndarray) -> float | None:
    largest = float(gaps.max(initial=0.0))
    return largest if np.isfinite(largest) else None


def _figures(folder: RunFolder) -> dict[str, Any]:
    """The metrics of a run without its note on left-out networks, which a repetition does not try to train."""
    metrics = folder.metrics.read()
    notes = [note for note in metrics["notes"] if note["code"] != "networks_left_out"]
    return {**metrics, "notes": notes, "made_from": None}


def compared_figures(first: Any, second: Any) -> dict[str, Any]:
    """Compare the numbers, texts and other single values of two nested objects by their names.

    Returns:
        the number of `figures`, how many are `equal`, and of the others the `largest` differences, as `name`, `run`,
        `reproduction` and `difference` (None unless both are numbers).

    >>> compared_figures({"a": {"b": 1.0, "c": "x"}}, {"a": {"b": 1.5, "c": "x"}})["largest"]
    [{'name': 'a.b', 'run': 1.0, 'reproduction': 1.5, 'difference': 0.5}]
    """
    leaves = dict(_leaves(first)), dict(_leaves(second))
    names = [*leaves[0], *(name for name in leaves[1] if name not in leaves[0])]
    different: list[dict[str, Any]] = []
    for name in names:
        pair = [of_run.get(name) for of_run in leaves]
        if pair[0] != pair[1] or (name in leaves[0]) != (name in leaves[1]):
            numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in pair)
            gap = abs(float(pair[0] or 0) - float(pair[1] or 0)) if numbers else None
            different.append({"name": name, "run": pair[0], "reproduction": pair[1], "difference": gap})
    different.sort(key=lambda entry: np.inf if entry["difference"] is None else entry["difference"], reverse=True)
    return {"figures": len(names), "equal": len(names) - len(different), "largest": different[:SHOWN]}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Mapping, list)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _inputs(run: RunFolder, repetition: RunFolder) -> dict[str, Any]:
    decided = [folder.fingerprint.read()["decided"] for folder in (run, repetition)]
    hashes = {name: [str(values.get(key, "")) for values in decided] for name, key in _HASHES.items()}
    table = repetition.cohort.read(["case"])
    external = [folder.external_cohort for folder in (run, repetition)]
    same_external = [file.exists() for file in external] == [False, False] or (
        all(file.exists() for file in external) and external[0].read().equals(external[1].read())
    )
    counts = {"rows": len(table), "cases": int(table["case"].nunique())}
    return {**counts, "same_external": bool(same_external), "hashes": hashes}


# What the fingerprint of a run says about its inputs.
_HASHES = {
    "the cohort": "cohort",
    "the images": "tiles",
    "the split": "split",
    "the cohort to pretrain on": "pretraining",
}


def _networks(run: RunFolder, repetition: RunFolder, study: Study) -> dict[str, Any]:
    """Which trained learners of the folds, and of all subjects, have the same weights, bit by bit."""
    weights = [folder.weights_sha256(study.learners) for folder in (run, repetition)]
    pairs = {
        f"{name}, fold {fold + 1}": [of_run[name][fold] if fold < len(of_run[name]) else "" for of_run in weights]
        for name in study.learners
        for fold in range(max(len(of_run[name]) for of_run in weights))
    }
    if study.final == "refit":
        final = {name: [folder.final_job(name) for folder in (run, repetition)] for name in study.learners}
        pairs |= {
            f"{name}, all subjects": [job.weights_sha256() if job.facts.exists() else "" for job in jobs]
            for name, jobs in final.items()
        }
    return {"all": len(pairs), "different": [name for name, pair in pairs.items() if pair[0] != pair[1]]}


def _environments(run: RunFolder, repetition: RunFolder, study: Study) -> dict[str, list[str]]:
    """Versions, machine, compute plans and numbers of parts that differ: in the run, and now."""
    before, now = (_environment_of(folder, study) for folder in (run, repetition))
    return {name: [before.get(name, "not recorded"), now[name]] for name in now if now[name] != before.get(name)}


def _environment_of(folder: RunFolder, study: Study) -> dict[str, str]:
    """What a run recorded of its machine, of its compute plans, and of batches that memory made it divide."""
    record = {name: str(value) for name, value in folder.environment.read().items()}
    for name, values in (folder.compute.read_if_exists() or {}).items():
        record[f"compute plan of {name}"] = ", ".join(f"{key} {values[key]}" for key in _PLAN if key in values)
    for name, fold, job in finished(folder, study.learners):
        subjects = "all subjects" if fold == "all" else f"fold {fold}"
        record[f"batches of {name}, {subjects}"] = counted(int(job.record.read().get("parts", 1)), "part")
    return record


_PLAN = ("device", "precision", "channels_last", "threads")


def _input_lines(inputs: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, (before, now) in inputs["hashes"].items():
        verb = "are" if name == "the images" else "is"
        if before == now and before not in ("", "None"):
            count = f", {counted(inputs['cases'], 'case')}" if name == "the cohort" else ""
            lines.append(f"{name.capitalize()} {verb} the same (SHA-256 {now[:SHORT_HASH]}{count}).")
        elif before != now:
            hashes = f"{before[:SHORT_HASH] or 'not recorded'} in the run, {now[:SHORT_HASH]} in the reproduction"
            lines.append(f"{name.capitalize()} {verb} not the same: SHA-256 {hashes}.")
    return lines if inputs["same_external"] else [*lines, "The external cohort is not the same."]


def _network_line(networks: Mapping[str, Any]) -> str:
    count, different = networks["all"], networks["different"]
    if not different:
        return f"All {count} trained learners have the same weights, bit by bit."
    named = "; ".join(different[:SHOWN]) + (f" and {len(different) - SHOWN} more" if len(different) > SHOWN else "")
    return f"{len(different)} of {count} trained learners have other weights: {named}."


def _left_out_lines(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [
        f"{', '.join(names)} could not be trained in the run, and {'was' if len(names) == 1 else 'were'} not repeated."
    ]


def _prediction_line(predictions: Mapping[str, Any], tolerance: float) -> str:
    rows, largest = predictions["rows"], predictions["largest_difference"]
    if predictions["equal"] == rows:
        distances = "" if predictions["equal_distances"] else " Distances from the training cases differ."
        return f"All {counted(rows, 'prediction')} are equal, bit by bit.{distances}"
    lines = [f"{rows - predictions['equal']:,} of {counted(rows, 'prediction')} differ."]
    if predictions["missing"]:
        lines.append(f"{predictions['missing']:,} of the run are missing in the reproduction.")
    if predictions["further"]:
        lines.append(f"{predictions['further']:,} of the reproduction are missing in the run.")
    if largest is not None:
        lines.append(f"The largest difference is {largest:.3g}; the tolerance is {tolerance:g}.")
    return " ".join(lines)


def _figure_line(figures: Mapping[str, Any]) -> str:
    different = figures["figures"] - figures["equal"]
    if not different:
        return f"All {figures['figures']:,} figures of metrics.json are equal."
    first = figures["largest"][0]
    values = f"{_value(first['run'])} in the run, {_value(first['reproduction'])} in the reproduction"
    count = f"{different:,} of {figures['figures']:,} figures of metrics.json differ"
    return f"{count}, most of all {first['name']}: {values}."


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _machine_lines(environment: Mapping[str, Sequence[str]]) -> list[str]:
    lines = [f"Different: {name}, {before} in the run, {now} now." for name, (before, now) in environment.items()]
    return lines or ["Versions, processor and threads are the same."]


def _verdict(record: Mapping[str, Any]) -> str:
    return {
        EQUAL: "Reproduced: all predictions are equal, bit by bit.",
        WITHIN: f"Reproduced: all predictions are equal within {record['tolerance']:g}.",
        DIFFERENT: "Not reproduced: predictions differ.",
    }[str(record["verdict"])]
