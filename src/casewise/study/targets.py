"""What a study predicts: recorded targets and scores computed from them."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, WithJsonSchema, field_validator, model_validator

from casewise.errors import cut, nearest
from casewise.study.model import Level, Range, StudyModel, parse_range
from casewise.targets import DEFAULT, kind_named, kind_names

MOST_CLASSES = 1000


def check_kind(name: str) -> str:
    """Return the name of a registered kind of target."""
    if name not in kind_names():
        raise ValueError(
            f"{cut(name)} is not a kind of target; there are {', '.join(kind_names())}.{nearest(name, kind_names())}"
        )
    return name


Kind = Annotated[str, AfterValidator(check_kind), WithJsonSchema({"enum": kind_names(), "type": "string"})]


class Target(StudyModel):
    """One recorded value: its column or columns in the cohort table, its kind, and its level.

    A number (`regression`) has a range; several columns are averaged. A `classification` has classes. An `ordinal`
    target has classes in rising order, or a range of whole numbers.
    """

    kind: Kind = DEFAULT
    """A number (`regression`), a class (`classification`), or a grade (`ordinal`: classes in rising order). A target
    with `classes` and no kind is a classification."""
    classes: dict[str, list[str]] = {}
    """The classes; grades from low to high. A class may have several spellings in the table: `{covid: [covid,
    COVID-19], other: none}`. Rows with other classes are left out and counted; a grade that is not listed is an error.
    [More](howto-classify.md)."""
    positive: str | None = None
    """For two classes, the one that sensitivity refers to. Default: the first class."""
    range: Range = (0.0, 1.0)
    """Smallest and largest value; every number needs it, except with `equals`. Predictions are clipped to it; a value
    outside it in the table is an error. For a grade without `classes`, the lowest and highest grade: `0..4`."""
    column: str | list[str] | None = None
    """Column of the table, if its name differs from the target's. For a list, the value is the mean of these columns,
    empty if one of them is empty; not for classes."""
    level: Level | None = None
    """The unit that has one value; all of its rows must agree. Default: the level of a panel (`panels.by`)."""
    integer: bool = False
    """Only whole numbers are allowed in the table."""
    equals: str | None = None
    """Makes an indicator from a text column: 1 if the cell has this text, 0 if it has another one, empty if it is
    empty."""

    decision: Literal["median", "mean", "kappa"] | None = None
    """How the probabilities of grades become one grade: the `median` (default), the rounded `mean` (default with a
    planned recipe), or `kappa`, by thresholds with the highest quadratic kappa out of fold. No network depends on it.
    [More](howto-classify.md#grades)."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_classes(cls, values: Any) -> Any:
        return with_classes(values) if isinstance(values, dict) else values

    @field_validator("range")
    @classmethod
    def _check_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(f"a range goes from low to high, found {value[0]:g}..{value[1]:g}")
        return value

    @model_validator(mode="after")
    def _check_decision(self) -> Target:
        if self.decision and self.decision not in kind_named(self.kind).decisions:
            raise ValueError(f"decision: {self.decision} is a rule for grades, and this is a {self.kind}")
        return self

    @model_validator(mode="after")
    def _check_positive(self) -> Target:
        if self.positive is not None and (len(self.classes) != 2 or self.positive not in self.classes):
            raise ValueError(f"positive names one of two classes, found {cut(self.positive)} of {list(self.classes)}")
        return self


def with_classes(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in the kind, the range of class numbers and the spellings that follow from the classes of a target.

    >>> with_classes({"classes": ["no", "yes"]})["range"]
    (0.0, 1.0)
    >>> list(with_classes({"kind": "ordinal", "range": "0..2"})["classes"])
    ['0', '1', '2']
    """
    kind, classes = values.get("kind"), values.get("classes")
    registered = isinstance(kind, str) and kind in kind_names()
    has_classes = registered and kind_named(str(kind)).form == "classes"
    if registered and not has_classes and classes:
        raise ValueError(f"a {kind} has a range, not classes")
    if not classes and not has_classes:
        if values.get("range") is None and values.get("equals") is None:
            raise ValueError(
                "a number needs its range, from the smallest to the largest value that it can have, such as 0..4; "
                "predictions are clipped to it"
            )
        return values
    if not classes:
        if kind != "ordinal":
            raise ValueError(f"a {kind} needs its classes, such as classes: [covid, no_finding]")
        limits = parse_range(values.get("range", "0..1"))
        if not (isinstance(limits, tuple) and all(float(v).is_integer() for v in limits) and limits[0] < limits[1]):
            raise ValueError(
                "an ordinal target needs classes in rising order, or a range of whole numbers such as 0..4"
            )
        if limits[1] - limits[0] >= MOST_CLASSES:
            raise ValueError(f"a target has at most {MOST_CLASSES:,} grades")
        classes = [str(grade) for grade in range(int(limits[0]), int(limits[1]) + 1)]
    elif (
        "range" in values
        and isinstance(classes, (list, tuple, dict))
        and not _is_of_classes(values["range"], len(classes))
    ):
        raise ValueError("a target has classes or a range, not both")
    if isinstance(classes, (list, tuple, dict)) and len(classes) > MOST_CLASSES:
        raise ValueError(f"a target has at most {MOST_CLASSES:,} classes, found {len(classes):,}")
    if isinstance(classes, (list, tuple)):
        classes = {str(name): [str(name)] for name in classes} if len({*map(str, classes)}) == len(classes) else classes
    if not isinstance(classes, dict):
        raise ValueError("classes are a list of different names, or names with their spellings in the table")
    spellings = {str(n): [str(s) for s in (v if isinstance(v, list) else [v])] for n, v in classes.items()}
    every = [spelling for of_class in spellings.values() for spelling in of_class]
    duplicate = next((spelling for spelling, count in Counter(every).items() if count > 1), None)
    if duplicate is not None:
        raise ValueError(f"{cut(duplicate)} is a spelling of two classes")
    if len(spellings) < 2:
        raise ValueError("a target needs two classes or more")
    return {
        **values,
        "kind": kind or "classification",
        "classes": spellings,
        "range": (0.0, float(len(spellings) - 1)),
        "integer": True,
    }


def _is_of_classes(value: Any, count: int) -> bool:
    """Whether a range is that of class numbers, as a saved study states it beside its classes."""
    return isinstance(value, (list, tuple)) and list(value) == [0, count - 1]


class ScoreFormula(StudyModel):
    """A clinical score as a formula over targets and earlier scores."""

    formula: str
    """Names, numbers, `+ - * /`, parentheses, `sum()`, `mean()`, `min()`, `max()`, and `name[region]` at case level."""
    range: Range
    """Smallest and largest value; predictions are clipped to it."""
    level: Literal["region", "case"] = "case"
    """`region`: the score is computed for every region. `case`: once for each case."""
