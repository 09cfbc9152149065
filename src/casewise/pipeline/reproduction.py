"""The comparison of a run with its repetition: inputs, networks, predictions, figures, and the machine of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.errors import counted
from casewise.pipeline.train import finished
from casewise.predictions.table import KEY, probability_columns

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study

EQUAL, WITHIN, DIFFERENT = "equal", "within_tolerance", "different"
SHOWN = 5
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
        return [
            *_input_lines(self.record),
            *_left_out_lines(self.record["left_out"]),
            _network_line(self.record["networks"]),
            *_parts_lines(self.record["parts"]),
            _prediction_line(self.record["predictions"], self.record["tolerance"]),
            _figure_line(self.record["figures"]),
            *_machine_lines(self.record["environment"]),
            _verdict(self.record),
        ]


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
        "parts": _parts(run, repetition, study),
        "predictions": predictions,
        "figures": compared_figures(*(_figures(folder) for folder in folders)),
        "environment": _environments(run, repetition),
    }


def compared_predictions(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any]:
    """Compare two tables of predictions row by row: values and probabilities, and the distances apart.

    Returns:
        `rows` of either table; how many are `equal` bit by bit; those `missing` in the second table and `further` ones
        of it; the `largest_difference` of the rows in both (None if a value is missing in one of them), and the same
        `by_learner`; `equal_distances`.
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
    by_learner = {
        str(name): {
            "rows": int(own.sum()),
            "equal": int(equal[own].sum()),
            "largest_difference": _largest(gaps[own]),
        }
        for name in dict.fromkeys(shared["model"])
        for own in [(shared["model"] == name).to_numpy()]
    }
    return {
        "rows": len(both),
        "equal": int(equal.sum()),
        "missing": int((both["side"] == "left_only").sum()),
        "further": int((both["side"] == "right_only").sum()),
        "largest_difference": _largest(gaps),
        "by_learner": by_learner,
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


def _parts(run: RunFolder, repetition: RunFolder, study: Study) -> dict[str, list[int]]:
    """The trainings whose batches were computed in other numbers of parts, after memory had run out in one of both."""
    parts = [
        {(name, fold): int(job.record.read().get("parts", 1)) for name, fold, job in finished(folder, study.learners)}
        for folder in (run, repetition)
    ]
    pairs = {
        f"{name}, {'all subjects' if fold == 'all' else f'fold {fold}'}": [before, parts[1].get((name, fold), before)]
        for (name, fold), before in parts[0].items()
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _environments(run: RunFolder, repetition: RunFolder) -> dict[str, Any]:
    """Versions, machine and compute plans: what was recorded of both runs and differs, and what was not recorded."""
    recorded = [_environment_of(folder) for folder in (run, repetition)]
    names = [name for name in recorded[1] if recorded[1][name] != recorded[0].get(name)]
    return {
        "different": {name: [recorded[0][name], recorded[1][name]] for name in names if name in recorded[0]},
        "not_recorded": [name for name in names if name not in recorded[0]],
    }


def _environment_of(folder: RunFolder) -> dict[str, str]:
    """What a run recorded of its machine; runs of earlier versions recorded the versions of some libraries only."""
    record = folder.environment.read_if_exists()
    if record is None:
        values = folder.fingerprint.read()
        record = {name: value for name, value in values.items() if name not in ("fingerprint", "decided")}
    plans = folder.compute.read_if_exists() or {}
    by_network = {
        f"compute plan of {name}": ", ".join(f"{key} {plan[key]}" for key in _PLAN if key in plan)
        for name, plan in plans.items()
    }
    return {name: str(value) for name, value in record.items()} | by_network


_PLAN = ("device", "precision", "channels_last", "threads")


# ---------------------------------------------------------------------------------------------------------- sentences


def _input_lines(record: Mapping[str, Any]) -> list[str]:
    inputs = record["inputs"]
    lines = []
    for name, (before, now) in inputs["hashes"].items():
        if before == now and before not in ("", "None"):
            count = f", {counted(inputs['cases'], 'case')}" if name == "the cohort" else ""
            lines.append(f"{name.capitalize()} {_are(name)} the same (SHA-256 {now[:SHORT_HASH]}{count}).")
        elif before != now:
            hashes = f"{before[:SHORT_HASH] or 'not recorded'} in the run, {now[:SHORT_HASH]} in the reproduction"
            lines.append(f"{name.capitalize()} {_are(name)} not the same: SHA-256 {hashes}.")
    return lines if inputs["same_external"] else [*lines, "The external cohort is not the same."]


def _are(name: str) -> str:
    return "are" if name == "the images" else "is"


def _network_line(networks: Mapping[str, Any]) -> str:
    count, different = networks["all"], networks["different"]
    if not different:
        return f"All {count} trained learners have the same weights, bit by bit."
    named = "; ".join(different[:SHOWN]) + (f" and {len(different) - SHOWN} more" if len(different) > SHOWN else "")
    return f"{len(different)} of {count} trained learners have other weights: {named}."


def _left_out_lines(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"{', '.join(names)} could not be trained in the run, and {_was(names)} not repeated."]


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _parts_lines(parts: Mapping[str, Sequence[int]]) -> list[str]:
    return [
        f"Different: batches of {name} were computed in {counted(before, 'part')} in the run, in {now} now."
        for name, (before, now) in parts.items()
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
        worst = max(predictions["by_learner"].items(), key=lambda item: item[1]["largest_difference"], default=None)
        of = f" ({worst[0]})" if worst else ""
        lines.append(f"The largest difference is {largest:.3g}{of}; the tolerance is {tolerance:g}.")
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


def _machine_lines(environment: Mapping[str, Any]) -> list[str]:
    different, unknown = environment["different"], environment["not_recorded"]
    lines = [f"Different: {name}, {before} in the run, {now} now." for name, (before, now) in different.items()]
    if unknown:
        lines.append(f"The run did not record: {', '.join(unknown)}.")
    return lines or ["Versions, processor and threads are the same."]


def _verdict(record: Mapping[str, Any]) -> str:
    return {
        EQUAL: "Reproduced: all predictions are equal, bit by bit.",
        WITHIN: f"Reproduced: all predictions are equal within {record['tolerance']:g}.",
        DIFFERENT: "Not reproduced: predictions differ.",
    }[str(record["verdict"])]
