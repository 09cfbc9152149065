"""Clinical scores as formulas over targets, stated in the study."""

from __future__ import annotations

import ast
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from casewise.errors import StudyError, cut, nearest

if TYPE_CHECKING:
    from casewise.study.schema import Study

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
    """A score computed from targets: its formula, its level and its range.

    At level 'region' a formula is computed in every region, from plain names. At level 'case' it refers to the value of
    a region as `name[region]`, and to a target at case level as `name`.

    Attributes:
        name: letters, digits and `_`, beginning with a letter.
        formula: names, numbers, `+ - * /`, parentheses, `name[region]`, `sum()`, `mean()`, `min()` and `max()`.
        level: `region` or `case`.
        low: the lower end of its range, in points.
        high: the upper end, to which predictions are clipped, too.

    Raises:
        StudyError: the name, the level, the range or the formula is not one.

    Examples:
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
            raise StudyError(
                f"Score {cut(self.name)}: a name is made of letters, digits and _ and begins with a letter."
            )
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise StudyError(f"Score {cut(self.name)}: its range {self.low:g} to {self.high:g} is not a range.")
        _parse(self.name, self.formula)

    @property
    def references(self) -> tuple[Reference, ...]:
        """The (name, region or None) pairs of the formula, each once, in order."""
        return _parse(self.name, self.formula)[1]

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets and earlier scores of the formula."""
        return tuple(dict.fromkeys(name for name, _ in self.references))

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions of the formula."""
        return tuple(dict.fromkeys(region for _, region in self.references if region is not None))

    def value(self, values: Mapping[Reference, Array | float]) -> Array:
        """Compute the formula; NaN if a value is NaN or a divisor is zero.

        Args:
            values: by each of `references`, a number or an array; arrays have the same shape.

        Returns:
            An array of that shape, `float64`, in the points of the formula and not clipped to the range.

        Examples:
            >>> float(Score("mild", "(a + b) / 2", "case", 0, 3).value({("a", None): 1, ("b", None): 2}))
            1.5
        """
        arrays = {reference: np.asarray(value, dtype=float) for reference, value in values.items()}
        with np.errstate(all="ignore"):
            result = np.asarray(_value(_parse(self.name, self.formula)[0], arrays), dtype=float)
        return np.where(np.isfinite(result), result, np.nan)


def study_scores(study: Study) -> list[Score]:
    """The study's scores in their order."""
    return [Score(name, s.formula, s.level, *s.range) for name, s in study.scores.items()]


def check_study_scores(study: Study) -> None:
    """`check_scores` for the scores, outputs and regions of a study."""
    levels = {name: "region" if study.level_of(name) == "region" else "case" for name in study.outputs}
    check_scores(study_scores(study), targets=levels, regions=study.regions)  # type: ignore[arg-type]


def check_scores(scores: Sequence[Score], *, targets: Mapping[str, Level], regions: Iterable[str]) -> None:
    """Check that every formula can be computed from the targets with their levels and the regions.

    A score among the targets, which the networks predict directly, needs none of the values of its formula.

    Raises:
        StudyError: a name is neither a target nor an earlier score, a region is unknown, a name has another level than
            the formula needs, or two scores have the same name.
    """
    levels: dict[str, Level] = dict(targets)
    regions = list(regions)
    for number, score in enumerate(scores):
        where, later = f"Score {cut(score.name)}", [s.name for s in scores[number + 1 :]]
        if score.name in [earlier.name for earlier in scores[:number]]:
            raise StudyError(f"{where} is declared twice.")
        if score.name in score.targets:
            raise StudyError(f"{where}: its formula names the score itself.")
        if score.name in levels and not levels.keys() >= set(score.targets):
            continue
        for name, region in score.references:
            target, in_region = cut(name), f"'{name}[{region or next(iter(regions), 'region')}]'"
            per_region, level = score.level == "region", levels.get(name)
            existing = f"there are {', '.join(regions)}" if regions else "the study has no regions"
            problems: dict[str, object] = {
                f"{where}: its formula names {target}, which is only declared later.": name in later and not level,
                f"{where}: its formula names {target}, which is neither a target nor an earlier score; there are "
                f"{', '.join(levels)}.{nearest(name, levels)}": not level,
                f"{where}: its formula names region {cut(region)}; {existing}.{nearest(region, regions)}": region
                is not None
                and region not in regions,
                f"{where} is computed in each region: write {target}, not {in_region}.": per_region and region,
                f"{where} is computed in each region, but {target} is at case or image level. Write `level: case`, or "
                "panels by region.": per_region and level == "case",
                f"{where} is at case level: write {in_region}, since {target} has regions.": not per_region
                and region is None
                and level == "region",
                f"{where}: {target} is at case level: write {target}, not {in_region}.": not per_region
                and region
                and level == "case",
            }
            if problem := next((message for message, is_so in problems.items() if is_so), ""):
                raise StudyError(problem)
        levels[score.name] = score.level


@functools.lru_cache(maxsize=256)
def _parse(name: str, formula: str) -> tuple[ast.expr, tuple[Reference, ...]]:
    """The syntax tree of a formula, checked for allowed elements, and its references."""
    where = f"Score {cut(name)}"
    if not formula.strip():
        raise StudyError(f"{where}: its formula is empty.")
    if len(formula) > _LONGEST:
        raise StudyError(f"{where}: its formula has {len(formula)} characters; {_LONGEST} are allowed.")
    try:
        tree = ast.parse(" ".join(formula.split()), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        problem = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
        raise StudyError(
            f"{where}: its formula {cut(formula)} cannot be read ({problem}); it may contain {_ALLOWED}."
        ) from error
    references: dict[Reference, None] = {}
    _collect(tree, where, references, 0)
    if not references:
        raise StudyError(f"{where}: its formula {cut(formula)} names no target.")
    return tree, tuple(references)


def _collect(node: ast.expr, where: str, references: dict[Reference, None], depth: int) -> None:
    if depth > _DEEPEST:
        raise StudyError(
            f"{where}: its formula is nested more than {_DEEPEST} levels deep; sum(a, b, ...) takes several values."
        )
    operands: list[ast.expr] = []
    match node:
        case ast.Name() | ast.Subscript(value=ast.Name(), slice=ast.Name() | ast.Constant(value=str())):
            references[_reference(node)] = None
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and abs(number) < 1e300:
            pass
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            operands = [node.operand]
        case ast.BinOp() if type(node.op) in OPERATORS:
            operands = [node.left, node.right]
        case ast.Call(func=ast.Name(id=called), keywords=[]) if called in FUNCTIONS and node.args:
            operands = node.args
        case ast.Call(func=ast.Name(id=called)) if called not in FUNCTIONS:
            hint = nearest(called, FUNCTIONS)
            raise StudyError(f"{where}: its formula calls {cut(called)}; it may call {', '.join(FUNCTIONS)}.{hint}")
        case _:
            try:
                written = ast.unparse(node)
            except RecursionError:
                written = f"{type(node).__name__} …"
            raise StudyError(f"{where}: its formula may not contain {cut(written)}; it may contain {_ALLOWED}.")
    for operand in operands:
        _collect(operand, where, references, depth + 1)


def _reference(node: Any) -> Reference:
    """The reference of a name, or of a name with a region in brackets."""
    if isinstance(node, ast.Name):
        return node.id, None
    region = node.slice
    return node.value.id, str(region.value if isinstance(region, ast.Constant) else region.id)


def _value(node: ast.expr, values: Mapping[Reference, Array]) -> Array:
    """Compute a tree that `_collect` has checked."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return np.asarray(float(number))
        case ast.UnaryOp():
            inner = _value(node.operand, values)
            return -inner if isinstance(node.op, ast.USub) else inner
        case ast.BinOp():
            return OPERATORS[type(node.op)](_value(node.left, values), _value(node.right, values))
        case ast.Call(func=ast.Name(id=called)):
            stacked = np.stack(np.broadcast_arrays(*(_value(argument, values) for argument in node.args)))
            return FUNCTIONS[called](stacked, axis=0)
        case _:
            return values[_reference(node)]
