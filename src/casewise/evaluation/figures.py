"""The figures of a study as one table: each row is a value with its interval, found by its cell and its metric.

The columns of a cell are `stage`, `learner` and `target` (over all its regions, `composite`, or in one of them,
`composite[upper]`), and:

- `population`: empty for all cases, or what `group` names: a fold, a seed, a source that was left out of training, the
  value of a column (`by age`). `each image` are figures that treat images as subjects.
- `contrast`: empty for a figure, `mean`, `sd`, `min` or `max` for one over the groups, or what is subtracted from it:
  another learner, or the figure of the study itself (`internal`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from casewise.evaluation.record import Record

if TYPE_CHECKING:
    import pandas as pd

FOLD, SEED, IMAGES, READERS = "fold", "seed", "each image", "readers"
LEFT_OUT, KNOWN = "source left out", "known source"
# The reason of a difference that is not tested, because the primary contrast comes first (see `bootstrap.compare`).
DESCRIPTIVE = "descriptive: the primary comparison shows no difference"


class Estimate(Record):
    """A figure with its interval; `rough` if it rests on too few subjects; a reason if something is undefined.

    `n_subjects` are all subjects. A figure of a class rests on those with a case of the class. `n_cases` counts what is
    evaluated: cases, or regions or images where each has a prediction. A figure that is derived from others has no
    counts.
    """

    value: float | None
    low: float | None
    high: float | None
    n_subjects: int | None = None
    n_cases: int | None = None
    rough: bool | None = None
    reason: str | None = None

    @property
    def open(self) -> bool:
        """Whether a difference is not distinguished from 0: its interval includes 0, is missing, or is descriptive."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high or self.reason == DESCRIPTIVE


ByMetric: TypeAlias = dict[str, Estimate]


class Cell(NamedTuple):
    """The columns of a row without its metric."""

    stage: str = ""
    learner: str = ""
    target: str = ""
    population: str = ""
    group: str = ""
    contrast: str = ""


class Figures:
    """The rows by cell and metric, in order.

    >>> figures = Figures({Cell("test", "net", "label"): {"auroc": Estimate(0.9, 0.8, 0.95)}})
    >>> figures.of("test", "net", "label")["auroc"].value, figures.names("learner", stage="test")
    (0.9, ['net'])
    """

    def __init__(self, cells: Mapping[Cell, ByMetric] | Iterable[tuple[Cell, ByMetric]] = ()) -> None:
        self.cells = dict(cells)

    def of(
        self, stage: str, learner: str, target: str, population: str = "", group: str = "", contrast: str = ""
    ) -> ByMetric:
        """The figures of one cell by metric; empty where it was not evaluated."""
        return self.cells.get(Cell(stage, learner, target, population, group, contrast), {})

    def select(self, **columns: str) -> Figures:
        """The rows with these values."""
        return Figures((cell, own) for cell, own in self.cells.items() if _has(cell, columns))

    def names(self, column: str, **columns: str) -> list[str]:
        """The values of a column in the rows with these values, in order; by default of figures of all cases."""
        columns = {"population": "", "contrast": ""} | columns
        return list(dict.fromkeys(getattr(cell, column) for cell in self.cells if _has(cell, columns)))

    def placed(self, **columns: str) -> Figures:
        """The rows with other values of these columns."""
        return Figures((cell._replace(**columns), own) for cell, own in self.cells.items())

    def contrasts(self, stage: str, target: str) -> Figures:
        """The differences of learners for one target."""
        own = self.select(stage=stage, target=target, population="", group="").cells.items()
        return Figures((cell, by_metric) for cell, by_metric in own if cell.contrast)

    def best(self, metric: str) -> str:
        """The learner with which all others are compared, whose own difference is 0; empty without a comparison."""
        own = (cell for cell, by_metric in self.cells.items() if cell.learner == cell.contrast and metric in by_metric)
        return next((cell.learner for cell in own), "")

    def gap(self, metric: str, learner: str, other: str) -> Estimate | None:
        """A learner's figure minus another learner's, among the contrasts of one target; None without this pair.

        There are the pairs with the best learner and the pairs with a baseline.
        """
        pairs = {(cell.learner, cell.contrast): own[metric] for cell, own in self.cells.items() if metric in own}
        gap = pairs.get((learner, other))
        if gap is not None or (mirrored := pairs.get((other, learner))) is None or mirrored.value is None:
            return gap
        low, high = (None if end is None else -end for end in (mirrored.high, mirrored.low))
        return Estimate(-mirrored.value, low, high, mirrored.n_subjects, rough=mirrored.rough, reason=mirrored.reason)

    def frame(self) -> pd.DataFrame:
        """The table with a row for each cell and metric."""
        import pandas as pd

        rows = [
            {**cell._asdict(), "metric": metric, **vars(figure)}
            for cell, by_metric in self.cells.items()
            for metric, figure in by_metric.items()
        ]
        columns = [*("population", "group", "stage", "learner", "target", "metric", "contrast")]
        table = pd.DataFrame(rows, columns=[*columns, *Estimate.__dataclass_fields__])
        return table.astype(dict.fromkeys(("value", "low", "high"), float))

    def __or__(self, other: Figures) -> Figures:
        return Figures(self.cells | other.cells)

    def __bool__(self) -> bool:
        return bool(self.cells)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Figures) and self.cells == other.cells

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)


def _has(cell: Cell, columns: Mapping[str, str]) -> bool:
    return all(getattr(cell, name) == value for name, value in columns.items())
