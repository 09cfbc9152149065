"""Predictions of new cases as a file, CSV or Parquet, which appears in one step when all cases are predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from casewise.errors import RunError
from casewise.files import guarded, replacing
from casewise.inference.chunks import ROWS
from casewise.inference.ensemble import HEADLINE

if TYPE_CHECKING:
    import pandas as pd

    from casewise.console import Show
    from casewise.inference.chunks import PredictedChunk
    from casewise.inference.model import TrainedModel
    from casewise.inference.output_table import OutputTable

ENDINGS = (".csv", ".parquet")


@dataclass(frozen=True)
class Written:
    """What was written: the file, the number of cases, those without a prediction and flagged ones with a prediction.

    The first reason and flags are those of the first case of each.
    """

    path: Path
    cases: int
    without: int
    first_reason: str
    flagged: int
    first_flags: str


class Writer(Protocol):
    """Appends rows to a file."""

    def write(self, table: pd.DataFrame) -> None: ...

    def close(self) -> None: ...


def predict_to_file(
    model: TrainedModel,
    cases: Path | str | Sequence[Path | str] | pd.DataFrame,
    output: Path | str,
    *,
    learner: str = HEADLINE,
    columns: Mapping[str, str] | None = None,
    root: Path | str | None = None,
    size: int = ROWS,
    show: Show | None = None,
    receive: Callable[[PredictedChunk], None] | None = None,
    abstain: bool = False,
) -> Written:
    """Predict new cases in chunks and write their table (see `TrainedModel.predict_in_chunks`) in one step.

    Args:
        receive: called with every chunk, such as to write it in further formats.

    Raises:
        CasewiseError: the cases cannot be read as a whole; nothing is written.
        RunError: there is no such learner, or the file has another ending, holds something else or cannot be written.
    """
    output = Path(output)
    check_output(output, model.table)
    names: set[tuple[str, str]] = set()
    without: dict[tuple[str, str], str] = {}
    flagged: dict[str, str] = {}
    with opened(output, model.table) as writer:
        for chunk in model.predicted_chunks(
            cases, learner=learner, columns=columns, root=root, size=size, show=show, abstain=abstain
        ):
            table = chunk.table
            writer.write(table)
            if receive is not None:
                receive(chunk)
            for case, reason, flags in zip(table["case"], table["problem"], table["flags"], strict=True):
                # rows without a subject have no name, and differ in their reason
                key = (case, "" if case else reason)
                names.add(key)
                if reason:
                    without.setdefault(key, reason)
                elif flags:
                    flagged.setdefault(case, f"{case} ({flags})")
    first, first_flagged = next(iter(without.values()), ""), next(iter(flagged.values()), "")
    return Written(output, len(names), len(without), first, len(flagged), first_flagged)


def check_output(path: Path, table: OutputTable) -> None:
    """Check that a file may be written: it is new, or contains predictions of this kind.

    Raises:
        RunError: it has another ending, is a folder, or holds something else.
    """
    if path.suffix.casefold() not in ENDINGS:
        raise RunError(f"--output: {path} must end in {' or '.join(ENDINGS)}.")
    if path.is_dir():
        raise RunError(f"--output: {path} is a folder. Give the name of a file, such as {path / 'predictions.csv'}.")
    if path.exists() and not _is_predictions(path, table):
        raise RunError(f"--output: {path} exists and holds something else. Choose another file.")


def _is_predictions(path: Path, table: OutputTable) -> bool:
    start = list(table.columns[:4])
    try:
        if path.suffix.casefold() == ".csv":
            with path.open("rb") as file:
                return file.read(200).decode("utf-8", "replace").startswith(",".join(start))
        import pyarrow.parquet as parquet

        return bool(parquet.read_schema(path).names[:4] == start)
    except (OSError, ValueError):
        return False


@contextmanager
def opened(path: Path, table: OutputTable) -> Iterator[Writer]:
    """A writer of the rows of `path`, which takes its place when the block ends without an error."""
    make: dict[str, type[CsvWriter] | type[ParquetWriter]] = {".csv": CsvWriter, ".parquet": ParquetWriter}
    with replacing(path, unlocked_folder=True) as temporary:
        writer = make[path.suffix.casefold()](temporary, table)
        try:
            yield writer
        finally:
            writer.close()


class CsvWriter:
    """Rows as text; cells that a spreadsheet would run as a formula get an apostrophe in front."""

    def __init__(self, path: Path, table: OutputTable) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._file.write(",".join(_quoted(name) for name in table.columns) + "\n")

    def write(self, table: pd.DataFrame) -> None:
        """Append rows."""
        text = table.copy()
        for name in text.columns:
            if text[name].dtype == object or str(text[name].dtype) in ("str", "string"):
                text[name] = [guarded(cell) if isinstance(cell, str) else cell for cell in text[name]]
        text.to_csv(self._file, index=False, header=False, lineterminator="\n")

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def _quoted(name: str) -> str:
    cell = guarded(name)
    return '"' + cell.replace('"', '""') + '"' if any(character in cell for character in ',"\r\n') else cell


class ParquetWriter:
    """Rows as Parquet: numbers as floats; predictions as text where some target has classes."""

    def __init__(self, path: Path, table: OutputTable) -> None:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        text, number = arrow.string(), arrow.float64()
        floats = ("prediction low", "prediction high", "spread", "distance")
        numeric = dict.fromkeys((*table.probabilities, *floats), number)
        kinds = numeric | {"beyond": arrow.bool_()} | ({} if any(table.classes.values()) else {"prediction": number})
        self._schema = arrow.schema([(name, kinds.get(name, text)) for name in table.columns])
        self._writer: Any = parquet.ParquetWriter(path, self._schema)

    def write(self, table: pd.DataFrame) -> None:
        """Append rows."""
        import pyarrow as arrow

        if str(self._schema.field("prediction").type) == "string":
            values = [None if cell is None or cell != cell else str(cell) for cell in table["prediction"]]
            table = table.assign(prediction=values)
        self._writer.write_table(arrow.Table.from_pandas(table, schema=self._schema, preserve_index=False))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
