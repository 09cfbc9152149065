"""Clinical scores declared as formulas over targets: a score is an entry in a study, never code of its own."""

from __future__ import annotations

import ast
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from casewise.errors import StudyError, nearest
from casewise.predictions.table import COLUMNS

Level: TypeAlias = Literal["region", "case"]
Reference: TypeAlias = tuple[str, str | None]
Array: TypeAlias = np.ndarray

FUNCTIONS: Mapping[str, Callable[..., Array]] = {"sum": np.sum, "mean": np.mean, "min": np.min, "max": np.max}
OPERATORS: Mapping[type[ast.operator], Callable[[Array, Array], Array]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
_ALLOWED = "names, numbers, + - * /, parentheses, name[region] and sum(), mean(), min(), max()"
_LONGEST, _DEEPEST = 2000, 100


@dataclass(frozen=True)
class Score:
    """A score computed from targets: its formula, the level it stands at, and the range it lies in.

    A formula at level 'region' is worked out in every region by itself, from names alone; one at level 'case' takes the
    value of a region as `name[region]`, or of a target that itself stands at case level as `name`.

    >>> Score("composite", "(erythema + induration + scaling) * area", "region", 0, 72).targets
    ('erythema', 'induration', 'scaling', 'area')
    >>> Score("pasi", "0.2*composite[upper] + 0.3*composite[trunk] + 0.4*composite[lower]", "case", 0, 64.8).regions
    ('upper', 'trunk', 'lower')
    """

    name: str
    formula: str
    level: Level
    low: float
    high: float

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\W\d]\w*", self.name):
            raise StudyError(f"Score '{self.name}': a name is made of letters, digits and _ and begins with a letter.")
        if self.level not in ("region", "case"):
            raise StudyError(f"Score '{self.name}': level must be 'region' or 'case', not '{self.level}'.")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise StudyError(f"Score '{self.name}': its range {self.low:g} to {self.high:g} is not a range.")
        _parse(self.name, self.formula)

    @property
    def references(self) -> tuple[Reference, ...]:
        """The (name, region or None) pairs that the formula takes, each once, in order."""
        return _parse(self.name, self.formula)[1]

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets and earlier scores that the formula takes."""
        return tuple(dict.fromkeys(name for name, _ in self.references))

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that the formula names."""
        return tuple(dict.fromkeys(region for _, region in self.references if region is not None))

    def value(self, values: Mapping[Reference, Array | float]) -> Array:
        """Work the formula out; NaN wherever it takes a NaN or divides by zero.

        >>> float(Score("mild", "(a + b) / 2", "case", 0, 3).value({("a", None): 1, ("b", None): 2}))
        1.5
        """
        arrays = {reference: np.asarray(value, dtype=float) for reference, value in values.items()}
        with np.errstate(all="ignore"):
            result = np.asarray(_value(_parse(self.name, self.formula)[0], arrays), dtype=float)
        return np.where(np.isfinite(result), result, np.nan)


def check_scores(scores: Sequence[Score], *, targets: Mapping[str, Level], regions: Iterable[str]) -> None:
    """Check that every formula can be worked out, given the targets with their levels and the regions there are.

    A score that is itself among the targets (the networks predict it) needs none of what its formula takes.

    Raises:
        StudyError: a name is no target and no earlier score, a region is unknown, a name stands at another level than
            the formula takes it at, or two scores share a name.
    """
    levels: dict[str, Level] = dict(targets)
    regions = list(regions)
    for number, score in enumerate(scores):
        where = f"Score '{score.name}'"
        if score.name in [earlier.name for earlier in scores[:number]]:
            raise StudyError(f"{where} is declared twice.")
        later = [s.name for s in scores[number + 1 :]]
        if score.name in score.targets:
            raise StudyError(f"{where}: its formula names the score itself.")
        if score.name in levels and not levels.keys() >= set(score.targets):
            continue
        for name, region in score.references:
            if name in later and name not in levels:
                raise StudyError(f"{where}: its formula names '{name}', which is only declared later.")
            if name not in levels:
                raise StudyError(
                    f"{where}: its formula names '{name}', which is no target and no earlier score; there are "
                    f"{', '.join(levels)}.{nearest(name, levels)}"
                )
            if region is not None and region not in regions:
                there = f"there are {', '.join(regions)}" if regions else "the study has no regions"
                raise StudyError(f"{where}: its formula names region '{region}'; {there}.{nearest(region, regions)}")
            if score.level == "region" and region is not None:
                raise StudyError(f"{where} is worked out in each region: write '{name}', not '{name}[{region}]'.")
            if score.level == "region" and levels[name] == "case":
                raise StudyError(
                    f"{where} is worked out in each region, but '{name}' stands at case or image level. "
                    "Say `level: case`, or panels by region."
                )
            if score.level == "case" and region is None and levels[name] == "region":
                example = regions[0] if regions else "region"
                raise StudyError(
                    f"{where} stands at case level: write '{name}[{example}]', since '{name}' has regions."
                )
            if score.level == "case" and region is not None and levels[name] == "case":
                raise StudyError(f"{where}: '{name}' stands at case level: write '{name}', not '{name}[{region}]'.")
        levels[score.name] = score.level


def apply_scores(
    table: pd.DataFrame,
    scores: Sequence[Score],
    *,
    missing_regions: Literal["refuse", "allow"] = "refuse",
    regions: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the table of predictions with rows added for each score, of the truth and the prediction alike.

    A score is worked out for every learner, stage, fold and case (and region and image, at region level). At case level
    the values of a case's images are averaged first, so that it is one row a case. A prediction is clipped to the
    score's range. A truth is given only where all truths that it needs are there. Where a learner predicted the score
    directly, its prediction is kept.

    A case that lacks a region gets no score with `missing_regions='refuse'`; with 'allow' the missing region's
    predicted value is taken as the mean of that case's other regions, and the case has no truth.
    `cases_with_missing_regions` lists them. `regions` are those of the study, by default those in the table.
    """
    known = list(regions) if regions is not None else _regions_of(table)
    check_scores(scores, targets=_levels_of(table), regions=known)
    table = table.reset_index(drop=True)
    for score in scores:
        table = _with_score(table, score, fill=missing_regions == "allow", regions=known)
    return table


def cases_with_missing_regions(table: pd.DataFrame, scores: Sequence[Score]) -> dict[str, dict[str, list[str]]]:
    """Return for each score that takes regions the cases that lack some, each with the regions it lacks."""
    present = table.groupby("case", sort=False)["region"].agg(set)
    found: dict[str, dict[str, list[str]]] = {}
    for score in (score for score in scores if score.regions):
        lacking = {str(case): [r for r in score.regions if r not in there] for case, there in present.items()}
        found[score.name] = {case: regions for case, regions in lacking.items() if regions}
    return found


def _with_score(table: pd.DataFrame, score: Score, *, fill: bool, regions: list[str]) -> pd.DataFrame:
    takes_regions = bool(score.regions)
    part = table[table["target"].isin([score.name, *score.targets])]
    if score.level == "region":
        part = part[part["region"] != ""]
    if part.empty:
        return table
    keys = ["model", "stage", "outer_fold", "inner_fold", "case"]
    keys += ["region", "image"] if score.level == "region" else []
    group = part.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    n_groups = int(group.max()) + 1
    target, region = part["target"].to_numpy(), part["region"].to_numpy()

    def column(name: str, where: str | None, values: Array) -> Array:
        mask = (target == name) if where is None else (target == name) & (region == where)
        total = np.bincount(group[mask], weights=values[mask], minlength=n_groups)
        with np.errstate(invalid="ignore"):
            return total / np.bincount(group[mask], minlength=n_groups)

    true, predicted = part["y_true"].to_numpy(dtype=float), part["y_pred"].to_numpy(dtype=float)
    truths = {reference: column(*reference, true) for reference in score.references}
    guesses = {reference: column(*reference, predicted) for reference in score.references}
    if fill:
        for name in score.targets if takes_regions else ():
            others = np.array([column(name, where, predicted) for where in regions])
            count = np.isfinite(others).sum(axis=0)
            mean = np.where(count > 0, np.nansum(others, axis=0) / np.maximum(count, 1), np.nan)
            for reference in (r for r in guesses if r[0] == name):
                guesses[reference] = np.where(np.isnan(guesses[reference]), mean, guesses[reference])

    y_true = score.value(truths)
    y_pred = np.clip(score.value(guesses), score.low, score.high)
    given = target == score.name
    first = np.full(n_groups, -1)
    first[group[::-1]] = np.arange(len(group))[::-1]
    new = np.isfinite(y_pred) & ~np.isin(np.arange(n_groups), group[given])
    rows = part.iloc[first[new]][list(COLUMNS)].copy()
    rows["target"], rows["y_true"], rows["y_pred"] = score.name, y_true[new], y_pred[new]
    if score.level == "case":
        rows["region"] = rows["image"] = ""
    if given.any():
        table = table.copy()
        where_given = part.index[given]
        table.loc[where_given, "y_true"] = np.where(np.isnan(true[given]), y_true[group[given]], true[given])
    return pd.concat([table, rows], ignore_index=True)


def _regions_of(table: pd.DataFrame) -> list[str]:
    return [str(region) for region in table["region"].unique() if region]


def _levels_of(table: pd.DataFrame) -> dict[str, Level]:
    regional = set(table.loc[table["region"] != "", "target"])
    return {str(t): "region" if t in regional else "case" for t in table["target"].unique()}


@functools.lru_cache(maxsize=256)
def _parse(name: str, formula: str) -> tuple[ast.expr, tuple[Reference, ...]]:
    """Return the formula's tree, with nothing in it but what is allowed, and the references in it."""
    where = f"Score '{name}'"
    if not formula.strip():
        raise StudyError(f"{where}: its formula is empty.")
    if len(formula) > _LONGEST:
        raise StudyError(f"{where}: its formula has {len(formula)} characters; {_LONGEST} are allowed.")
    try:
        tree = ast.parse(" ".join(formula.split()), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        told = error.msg if isinstance(error, SyntaxError) else "it is nested too deep"
        raise StudyError(
            f"{where}: its formula '{formula}' cannot be read ({told}); it may hold {_ALLOWED}."
        ) from error
    found: dict[Reference, None] = {}
    _collect(tree, where, found, 0)
    if not found:
        raise StudyError(f"{where}: its formula '{formula}' names no target.")
    return tree, tuple(found)


def _collect(node: ast.expr, where: str, found: dict[Reference, None], depth: int) -> None:
    if depth > _DEEPEST:
        raise StudyError(
            f"{where}: its formula is nested more than {_DEEPEST} deep; sum(a, b, ...) takes many at once."
        )
    parts: list[ast.expr] = []
    match node:
        case ast.Name() | ast.Subscript(value=ast.Name(), slice=ast.Name() | ast.Constant(value=str())):
            found[_reference(node)] = None
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and abs(number) < 1e300:
            pass
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            parts = [node.operand]
        case ast.BinOp() if type(node.op) in OPERATORS:
            parts = [node.left, node.right]
        case ast.Call(func=ast.Name(id=called), keywords=[]) if called in FUNCTIONS and node.args:
            parts = node.args
        case ast.Call(func=ast.Name(id=called)) if called not in FUNCTIONS:
            hint = nearest(called, FUNCTIONS)
            raise StudyError(f"{where}: its formula calls '{called}'; it may call {', '.join(FUNCTIONS)}.{hint}")
        case _:
            raise StudyError(f"{where}: its formula may not hold '{ast.unparse(node)}'; it may hold {_ALLOWED}.")
    for part in parts:
        _collect(part, where, found, depth + 1)


def _reference(node: ast.expr) -> Reference:
    match node:
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Name(id=region) | ast.Constant(value=str(region))):
            return name, region
        case ast.Name(id=name):
            return name, None
    raise TypeError(f"{ast.dump(node)} is no reference")


def _value(node: ast.expr, values: Mapping[Reference, Array]) -> Array:
    """Work out a tree that `_collect` has let through."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return np.asarray(float(number))
        case ast.UnaryOp():
            inner = _value(node.operand, values)
            return -inner if isinstance(node.op, ast.USub) else inner
        case ast.BinOp():
            return OPERATORS[type(node.op)](_value(node.left, values), _value(node.right, values))
        case ast.Call(func=ast.Name(id=called)):
            stacked = np.stack(np.broadcast_arrays(*(_value(part, values) for part in node.args)))
            return FUNCTIONS[called](stacked, axis=0)
        case _:
            return values[_reference(node)]
