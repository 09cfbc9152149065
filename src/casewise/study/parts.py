"""The parts of a study file, each with its allowed values and defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from casewise.errors import nearest
from casewise.metrics.registry import metric_names


def parse_range(value: Any) -> Any:
    """Read `0..4` as (0.0, 4.0); anything else is left to the type check.

    >>> parse_range("0..4")
    (0.0, 4.0)
    """
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*\.\.\s*(-?\d+(?:\.\d+)?)\s*", value)
        if not found:
            raise ValueError("a range is written as two numbers, such as 0..4")
        return float(found[1]), float(found[2])
    return value


def parse_grid(value: Any) -> str:
    """Rows and columns of a panel, such as 3x3; the sign × and blanks are read, too.

    >>> parse_grid("3 × 3")
    '3x3'
    """
    text = re.sub(r"\s", "", str(value)).lower().replace("×", "x")
    if not re.fullmatch(r"[1-8]x[1-8]", text):
        raise ValueError(f"{value!r} is no grid; write rows x columns from 1 to 8, such as 3x3")
    return text


def parse_fraction(value: Any) -> Any:
    """Read `10%` as 0.1.

    >>> parse_fraction("10%")
    0.1
    """
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            raise ValueError("a fraction is written as 10% or 0.1") from None
    return value


def texts(value: Any) -> Any:
    """Table cells are compared as text: numbers in `where` become text.

    >>> texts({"known": 1, "site": ["a", 2]})
    {'known': '1', 'site': ['a', '2']}
    """
    if not isinstance(value, dict):
        return value
    return {k: [str(i) for i in v] if isinstance(v, list) else str(v) for k, v in value.items()}


Where = Annotated[dict[str, str | list[str]], BeforeValidator(texts)]
Range = Annotated[tuple[float, float], BeforeValidator(parse_range)]
Fraction = Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, lt=1)]


def check_metric(name: str) -> str:
    """A metric that the registry knows."""
    if name not in metric_names():
        raise ValueError(
            f"{name!r} is no metric; there are {', '.join(metric_names())}.{nearest(name, metric_names())}"
        )
    return name


MetricName = Annotated[str, AfterValidator(check_metric), WithJsonSchema({"enum": metric_names(), "type": "string"})]
Level = Literal["image", "region", "case", "subject"]
Kind = Literal["regression", "classification", "ordinal"]
STACKERS = {
    "linear": "meta_learner",
    "linear+intercept": "meta_learner_w_intercept",
    "ridge": "meta_learner_ridge",
    "ridge+intercept": "meta_learner_ridge_w_intercept",
    "logistic": "meta_learner_logistic",
    "mean": "mean_of_learners",
}


class Part(BaseModel):
    """A part of the study file: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Target(Part):
    """One recorded value: its column(s) in the cohort table, what kind of value it is, and its level.

    A number (`regression`) has a range; several columns are averaged. A `classification` has classes; an `ordinal` one
    has classes in rising order, or a range of whole numbers. A class may be spelt in several ways in the table:
    `classes: {covid: [covid, COVID-19], other: [pneumonia, none]}`. Rows of other classes are left out, and counted.
    `equals` makes an indicator of a text column: 1 where the column holds that text, else 0.
    """

    kind: Kind = "regression"
    classes: dict[str, list[str]] = {}
    positive: str | None = None
    range: Range = (0.0, 1.0)
    column: str | list[str] | None = None
    level: Level | None = None
    integer: bool = False
    equals: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _classed(cls, values: Any) -> Any:
        return with_classes(values) if isinstance(values, dict) else values

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(f"a range goes from low to high, found {value[0]:g}..{value[1]:g}")
        return value

    @model_validator(mode="after")
    def _positive(self) -> Target:
        if self.positive is not None and (len(self.classes) != 2 or self.positive not in self.classes):
            raise ValueError(f"positive names one of two classes, found {self.positive!r} of {list(self.classes)}")
        return self


def with_classes(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in what a target's classes say: its kind, its range of class numbers, every class with its spellings.

    >>> with_classes({"classes": ["no", "yes"]})["range"]
    (0.0, 1.0)
    >>> list(with_classes({"kind": "ordinal", "range": "0..2"})["classes"])
    ['0', '1', '2']
    """
    kind, classes = values.get("kind"), values.get("classes")
    if kind == "regression" and classes:
        raise ValueError("a regression has a range, not classes")
    if not classes and kind not in ("classification", "ordinal"):
        return values
    if not classes:
        if kind == "classification":
            raise ValueError("a classification needs its classes, such as classes: [covid, no_finding]")
        found = parse_range(values.get("range", "0..1"))
        if not (isinstance(found, tuple) and all(float(v).is_integer() for v in found) and found[0] < found[1]):
            raise ValueError(
                "an ordinal target needs classes in rising order, or a range of whole numbers such as 0..4"
            )
        classes = [str(grade) for grade in range(int(found[0]), int(found[1]) + 1)]
    elif "range" in values and not (values["range"] and tuple(values["range"]) == (0, len(classes) - 1)):
        raise ValueError("a target has classes or a range, not both")
    if isinstance(classes, (list, tuple)):
        classes = {str(name): [str(name)] for name in classes} if len({*map(str, classes)}) == len(classes) else classes
    if not isinstance(classes, dict):
        raise ValueError("classes are a list of different names, or names with their spellings in the table")
    spelt = {str(n): [str(s) for s in (v if isinstance(v, list) else [v])] for n, v in classes.items()}
    every = [spelling for spellings in spelt.values() for spelling in spellings]
    twice = next((spelling for spelling in every if every.count(spelling) > 1), None)
    if len(spelt) < 2 or twice is not None:
        raise ValueError(
            f"{twice!r} stands for two classes" if twice is not None else "a target needs two classes or more"
        )
    known = kind or "classification"
    return {**values, "kind": known, "classes": spelt, "range": (0.0, float(len(spelt) - 1)), "integer": True}


class ScoreFormula(Part):
    """A clinical score as a formula over targets and earlier scores."""

    formula: str
    range: Range
    level: Literal["region", "case"] = "case"


class External(Part):
    """Another cohort on which the trained networks are tested; nothing is learned from it.

    No subject may have a name of the study's own, unless `subjects: distinct` says that they are other people.
    """

    cohort: Path
    name: str = ""
    root: Path | None = None
    columns: dict[str, str] = {}
    where: Where = {}
    where_not: Where = {}
    subjects: Literal["named_apart", "distinct"] = "named_apart"


class Audit(Part):
    """What the audit looks at: columns that should not tell the label, beside the usual ones that are there."""

    columns: list[str] | None = None
    mask: str | None = None
    permutations: int = Field(999, ge=99, le=100_000)


class Evaluation(Part):
    """How predictions are judged."""

    bootstrap_resamples: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    bands: dict[str, float] = {}
    response: bool = True
    baseline: str = "first"
    missing_baseline: Literal["refuse", "leave_out"] = "refuse"
    responders: list[Annotated[float, Field(gt=0, le=100)]] = [50, 75, 90, 100]
    readers: dict[str, dict[str, str]] = {}
    references: dict[str, dict[str, dict[MetricName, float]]] = {}
    target_sensitivities: list[Annotated[float, Field(gt=0, lt=1)]] = [0.9]

    @field_validator("bands")
    @classmethod
    def _banded(cls, value: dict[str, float]) -> dict[str, float]:
        if value and (len(value) < 2 or len(set(value.values())) < len(value)):
            raise ValueError("bands need two names or more, each with a lower bound of its own")
        return value
