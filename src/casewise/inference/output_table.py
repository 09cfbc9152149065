"""The table that a user gets, and its file: one row for each learner, case, region or image, and target."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.errors import RunError, counted
from casewise.files import csv_text, parquet_bytes, read_parquet, replacing, write_json
from casewise.inference.drift import Drift
from casewise.inference.flag_reasons import UNCONFIRMED, joined, reasons_of
from casewise.predictions.conformal import set_names
from casewise.predictions.table import FAR

if TYPE_CHECKING:
    from casewise.inference.case_chunks import PredictedChunk, RawCase
    from casewise.inference.model import TrainedModel
    from casewise.inference.new_cases import NewInput

UNITS = ("learner", "case", "subject", "visit", "region", "image", "target")
# What follows the probabilities.
INTERVAL = ("prediction low", "prediction high", "prediction set", "interval note")
FLAGS = (*INTERVAL, "spread", "distance", "beyond", "flags", "problem")
NOT_FINITE = "The networks gave no finite value."
WITHHELD = "probability and interval withheld: nobody has confirmed the model for images of this source"
UNLIKE = "calibrated for cases like the training cases, and this one is flagged; "
FLAGGED = "The case is unlike the training cases"


@dataclass(frozen=True)
class OutputTable:
    """The columns of predictions of new cases, and how rows are brought into them.

    Attributes:
        classes: the names of the classes of each predicted target; empty for numbers.
        scores: the names of the scores, which are numbers.
        intervals: the record of `casewise.predictions.conformal.fit`; empty where nothing was calibrated.
    """

    classes: Mapping[str, Sequence[str]]
    scores: Sequence[str]
    intervals: Mapping[str, Any] = field(default_factory=dict)

    @property
    def targets(self) -> list[str]:
        """The predicted targets, then the scores."""
        return [*self.classes, *(name for name in self.scores if name not in self.classes)]

    @property
    def probabilities(self) -> list[str]:
        """The columns of probabilities."""
        names = [name for classes in self.classes.values() for name in classes]
        return [f"probability of {name}" for name in dict.fromkeys(names)]

    @property
    def columns(self) -> list[str]:
        """Every column in order."""
        return [*UNITS, "prediction", *self.probabilities, *FLAGS]

    def of_rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of `casewise.inference.ensemble` as this table."""
        table = rows.rename(columns={"model": "learner"})[list(UNITS)].reset_index(drop=True)
        table["prediction"] = [
            self.classes[target][int(value)] if self.classes.get(target) and not math.isnan(value) else value
            for target, value in zip(rows["target"], rows["y_pred"], strict=True)
        ]
        for name in self.probabilities:
            table[name] = np.nan
        for target, names in self.classes.items():
            mask = (rows["target"] == target).to_numpy()
            for code, name in enumerate(names):
                table.loc[mask, f"probability of {name}"] = rows.loc[mask, f"p{code}"].to_numpy()
        table["prediction low"], table["prediction high"] = rows["low"].to_numpy(), rows["high"].to_numpy()
        table["prediction set"] = [
            set_names(text, self.classes.get(target, ()))
            for target, text in zip(rows["target"], rows["set"], strict=True)
        ]
        table["interval note"] = [
            self.interval_note(model, target) for model, target in zip(rows["model"], rows["target"], strict=True)
        ]
        table["spread"], table["distance"] = rows["spread"].to_numpy(), rows["distance"].to_numpy()
        table["beyond"] = (table["distance"] > FAR).astype("boolean").mask(table["distance"].isna())
        table["flags"] = rows["flags"].to_numpy() if "flags" in rows else ""
        calibrated = table["prediction low"].notna() | (table["prediction set"] != "")
        unlike = (table["flags"] != "") & calibrated
        notes = table["interval note"].mask(unlike, UNLIKE + table["interval note"])
        table["interval note"] = notes.str.removesuffix("; ")
        table["problem"] = np.where(rows["y_pred"].isna().to_numpy(), NOT_FINITE, "")
        return table[self.columns]

    def abstaining(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table without the predictions of flagged cases; `problem` then states the flags."""
        flagged = (table["flags"] != "").to_numpy()
        if not flagged.any():
            return table
        table = self._without_confidence(table, flagged, note="")
        table["prediction"] = table["prediction"].mask(flagged)
        reasons = FLAGGED + " (" + table["flags"] + ")."
        table["problem"] = table["problem"].mask(flagged, reasons)
        return table

    def of_source(self, table: pd.DataFrame, drift: Drift) -> pd.DataFrame:
        """The table of a batch after its test.

        After a warning that nobody answered, every prediction has one more flag and no probability, interval, set or
        spread; once the source is confirmed, `interval note` states by whom, when and why.
        """
        predicted = table["prediction"].notna().to_numpy()
        if drift.withholds and predicted.any():
            table = self._without_confidence(table, predicted, note=WITHHELD)
            flags = [joined([*reasons_of(text), UNCONFIRMED]) for text in table["flags"]]
            return table.assign(flags=table["flags"].mask(predicted, pd.Series(flags, index=table.index)))
        if not (drift.text and drift.confirmed):
            return table
        stated = "another source, confirmed by {by} ({at}): {reason}".format(**drift.confirmed)
        notes = (table["interval note"] + "; ").mask(table["interval note"] == "", "") + stated
        return table.assign(**{"interval note": table["interval note"].mask(predicted, notes)})

    def _without_confidence(self, table: pd.DataFrame, rows: NDArray[np.bool_], note: str) -> pd.DataFrame:
        """The table, in which these rows have no probability, interval, set or spread, but this interval note."""
        table = table.copy()
        for name in (*self.probabilities, "prediction low", "prediction high", "spread"):
            table[name] = table[name].mask(rows)
        for name, text in (("prediction set", ""), ("interval note", note)):
            table[name] = table[name].mask(rows, text)
        return table

    def interval_note(self, learner: str, target: str) -> str:
        """Why a number has no interval, or which classes are in every set; empty otherwise."""
        entry = self.intervals.get("learners", {}).get(learner, {}).get(target)
        if entry is None:
            return "no interval or set: none was calibrated"
        fewest = self.intervals["fewest"]
        if "classes" not in entry:
            few = entry["quantile"] is None
            return f"no interval: {counted(entry['subjects'], 'subject')} of {fewest} needed" if few else ""
        lacking = [
            f"{name} ({counted(of_class['subjects'], 'subject')} of {fewest} needed)"
            for name, of_class in zip(self.classes[target], entry["classes"], strict=True)
            if of_class["quantile"] is None
        ]
        return f"in every set: {', '.join(lacking)}" if lacking else ""

    def of_problems(self, cases: Sequence[tuple[RawCase, str]], learners: Sequence[str]) -> pd.DataFrame:
        """A row for each learner, case and target of cases without a prediction, with the reason."""
        rows = [
            {"learner": learner, "case": case.name, "subject": case.subject, "visit": case.visit, "target": target}
            | {"region": "", "image": case.image, "problem": reason}
            for learner in learners
            for case, reason in cases
            for target in self.targets
        ]
        table = pd.DataFrame(rows, columns=[*UNITS, "problem"])
        for name in (*self.probabilities, "prediction low", "prediction high", "spread", "distance"):
            table[name] = np.nan
        table["prediction set"] = table["interval note"] = table["flags"] = ""
        empty = pd.Series([None] * len(rows), dtype=object) if any(self.classes.values()) else np.nan
        return table.assign(prediction=empty, beyond=pd.array([pd.NA] * len(rows), dtype="boolean"))[self.columns]


ENDINGS = (".csv", ".parquet")


# Number of kinds of reasons shown, each with an example.
MOST_KINDS = 3


@dataclass(frozen=True)
class _Written:
    """What was written: the file, the number of cases, those without a prediction and flagged ones with a prediction.

    Each counts as a `unit`: a case, or an image where single images are predicted.

    `reasons` has an example of each kind of reason, the most frequent first, with their numbers where there are
    several; the first flags belong to the first flagged case. `drift`, whether all cases together differ from
    the training cases, is also in the file `record`.
    """

    path: Path
    unit: str
    cases: int
    without: int
    reasons: str
    flagged: int
    first_flags: str
    drift: Drift
    record: Path


def predict_to_file(
    model: TrainedModel,
    cases: NewInput,
    output: Path | str,
    *,
    receive: Callable[[PredictedChunk], None] | None = None,
    **options: Any,
) -> _Written:
    """Predict new cases in chunks and write their table (see `TrainedModel.predict_in_chunks`) in one step.

    The file next to it, such as `predictions.csv.json`, has the test of all cases together
    (`casewise.inference.drift`).

    Args:
        receive: called with every chunk, such as to write it in further formats.
        options: as in `TrainedModel.predict_in_chunks`.

    Raises:
        CasewiseError: the cases cannot be read as a whole; nothing is written.
        RunError: there is no such learner, or the file has another ending, holds something else or cannot be written.
    """
    output = Path(output)
    check_output(output)
    tables, drift = [model.table.of_problems([], [])], Drift()
    for chunk in model.predict_in_chunks(cases, **options):
        tables.append(chunk.table)
        drift = chunk.drift
        if receive is not None:
            receive(chunk)
    table = pd.concat([each for each in tables if len(each)] or tables, ignore_index=True)
    write_table(table, output)
    record = output.with_name(f"{output.name}.json")
    write_json(record, {"drift": asdict(drift)})
    # rows without a subject have no name, and differ in their reason
    unit = "image" if len(table) and (table["image"] != "").all() else "case"
    rows = table.assign(key=np.where(table["case"] == "", table["problem"], table[unit]))
    without = rows[rows["problem"] != ""].drop_duplicates("key")
    flagged = rows[(rows["problem"] == "") & (rows["flags"] != "")].drop_duplicates("key")
    first_flags = [f"{case} ({flags})" for case, flags in zip(flagged["case"][:1], flagged["flags"][:1], strict=True)]
    counts = (
        rows["key"].nunique(),
        len(without),
        _kinds(without["problem"].tolist()),
        len(flagged),
        "".join(first_flags),
    )
    return _Written(output, unit, *counts, drift, record)


def _kinds(reasons: Sequence[str]) -> str:
    """An example of each kind of reason; kinds differ in more than names and numbers.

    >>> _kinds(["row 1: there is no file a/1.png.", "row 2: there is no file b/2.png.", "row 3, visit: is empty."])
    '2 × row 1: there is no file a/1.png. 1 × row 3, visit: is empty.'
    """
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(re.sub(r"\S*[/\\]\S*|'[^']*'|\d+", "", reason), []).append(reason)
    several = sorted(kinds.values(), key=len, reverse=True)[:MOST_KINDS]
    return " ".join(f"{len(each)} × {each[0]}" if len(several) > 1 else each[0] for each in several)


def check_output(path: Path) -> None:
    """Check that a file may be written: it is new, or contains predictions.

    Raises:
        RunError: it has another ending, is a folder, or holds something else.
    """
    problem = ""
    if path.suffix.casefold() not in ENDINGS:
        problem = f"must end in {' or '.join(ENDINGS)}"
    elif path.is_dir():
        problem = f"is a folder. Give the name of a file, such as {path / 'predictions.csv'}"
    elif path.exists() and not _is_predictions(path):
        problem = "exists and holds something else. Choose another file"
    if problem:
        raise RunError(f"--output: {path} {problem}.")


def _is_predictions(path: Path) -> bool:
    start = list(UNITS[:4])
    try:
        if path.suffix.casefold() == ".csv":
            with path.open("rb") as file:
                return file.read(200).decode("utf-8", "replace").startswith(",".join(start))
        return list(read_parquet(path).columns[:4]) == start
    except (OSError, ValueError):
        return False


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write predictions as CSV or Parquet, in one step.

    Cells of a CSV file that a spreadsheet would run as a formula get an apostrophe in front. In Parquet, predictions
    are text where some target has classes.
    """
    if path.suffix.casefold() == ".csv":
        content = csv_text(table).encode()
    else:
        table = table.copy()
        for name in table.columns[[table[name].dtype.kind == "O" for name in table]]:
            cells = [None if cell is None or cell != cell else str(cell) for cell in table[name]]
            table[name] = pd.array(cells, dtype="string")
        content = parquet_bytes(table)
    with replacing(path, unlocked_folder=True) as temporary:
        temporary.write_bytes(content)
