"""What a study predicts: recorded targets and scores computed from them."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, WithJsonSchema, model_validator

from casewise.errors import cut, none_of
from casewise.study.model import Level, Range, StudyModel, parse_range, refuse
from casewise.study.yaml_text import Values
from casewise.targets import DEFAULT, kind_named, kind_names

MOST_CLASSES = 1000


def _check_kind(name: str) -> str:
    """Return the name of a registered kind of target."""
    if name not in kind_names():
        raise ValueError(f"the kind of target {none_of(name, kind_names())}")
    return name


Kind = Annotated[str, AfterValidator(_check_kind), WithJsonSchema({"enum": kind_names(), "type": "string"})]


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
    """Makes an indicator from a text column: 1 if the cell has this text, 0 if another; empty stays empty."""

    decision: Literal["median", "mean", "kappa"] | None = None
    """How the probabilities of grades become one grade: the `median` (default), the rounded `mean` (default with a
    planned recipe), or `kappa`, by thresholds with the highest quadratic kappa out of fold. No network depends on it.
    [More](howto-classify.md#grades)."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_classes(cls, values: Any) -> Any:
        return _with_classes(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check(self) -> Target:
        low, high = self.range
        misnamed = self.positive is not None and (len(self.classes) != 2 or self.positive not in self.classes)
        problems: dict[str, object] = {
            f"range: a range goes from low to high, found {low:g}..{high:g}": not low < high,
            f"decision: {self.decision} is a rule for grades, and this is a {self.kind}": self.decision
            and self.decision not in kind_named(self.kind).decisions,
            f"positive names one of two classes, found {cut(self.positive)} of {list(self.classes)}": misnamed,
        }
        refuse(problems)
        return self


def _with_classes(values: Values) -> Values:
    """Fill in the kind, the range of class numbers and the spellings that follow from the classes of a target.

    >>> _with_classes({"classes": ["no", "yes"]})["range"]
    (0.0, 1.0)
    >>> list(_with_classes({"kind": "ordinal", "range": "0..2"})["classes"])
    ['0', '1', '2']
    """
    kind, classes, limits = values.get("kind"), values.get("classes"), values.get("range")
    registered = isinstance(kind, str) and kind in kind_names()
    has_classes = registered and kind_named(str(kind)).form == "classes"
    if not classes and not has_classes:
        text = "a number needs its range, from the smallest to the largest value that it can have, such as 0..4; "
        refuse({f"{text}predictions are clipped to it": limits is None and values.get("equals") is None})
        return values
    if not classes:
        grades = parse_range("0..1" if limits is None else limits)
        whole = isinstance(grades, tuple) and all(float(v).is_integer() for v in grades) and grades[0] < grades[1]
        refuse({f"a {kind} needs its classes, such as classes: [covid, no_finding]": kind != "ordinal"})
        refuse({"an ordinal target needs classes in rising order, or a range of whole numbers such as 0..4": not whole})
        refuse({f"a target has at most {MOST_CLASSES:,} grades": grades[1] - grades[0] >= MOST_CLASSES})
        classes = [str(grade) for grade in range(int(grades[0]), int(grades[1]) + 1)]
        limits = None
    if isinstance(classes, (list, tuple)) and len({*map(str, classes)}) == len(classes):
        classes = {str(name): [str(name)] for name in classes}
    count = len(classes) if isinstance(classes, (list, tuple, dict)) else 0
    named: dict[Any, Any] = classes if isinstance(classes, dict) else {}
    # a saved study states the range of class numbers next to the classes
    of_classes = isinstance(limits, (list, tuple)) and list(limits) == [0, count - 1]
    problems: dict[str, object] = {
        f"a {kind} has a range, not classes": registered and not has_classes,
        "a target has classes or a range, not both": limits is not None and count and not of_classes,
        f"a target has at most {MOST_CLASSES:,} classes, found {count:,}": count > MOST_CLASSES,
        "classes are a list of different names, or names with their spellings in the table": not named,
    }
    refuse(problems)
    spellings = {str(n): [str(s) for s in (v if isinstance(v, list) else [v])] for n, v in named.items()}
    every = Counter(spelling for of_class in spellings.values() for spelling in of_class)
    twice = next((spelling for spelling, times in every.items() if times > 1), "")
    refuse({f"{cut(twice)} is a spelling of two classes": twice in every and every[twice] > 1})
    refuse({"a target needs two classes or more": len(spellings) < 2})
    limits = (0.0, len(spellings) - 1.0)
    return {**values, "kind": kind or "classification", "classes": spellings, "range": limits, "integer": True}


def own_heading(target: Target | None, name: str) -> str:
    """The heading of a target's column, if the target's name has its letters and digits; empty if they are the same.

    >>> own_heading(Target(column="Befund (0-8)", range=(0, 8)), "Befund_0_8")
    'Befund (0-8)'
    """
    column = target.column if target else None
    if not isinstance(column, str) or column.replace("_", " ") == name.replace("_", " "):
        return ""
    return column if re.sub(r"[\W_]+", "", column) == re.sub(r"[\W_]+|^target_", "", name) else ""


class ScoreFormula(StudyModel):
    """A clinical score as a formula over targets and earlier scores."""

    formula: str
    """Names, numbers, `+ - * /`, parentheses, `sum()`, `mean()`, `min()`, `max()`, and `name[region]` at case level."""
    range: Range
    """Smallest and largest value; predictions are clipped to it."""
    level: Literal["region", "case"] = "case"
    """`region`: the score is computed for every region. `case`: once for each case."""
