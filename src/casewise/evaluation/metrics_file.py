"""`metrics.json`, format 1: written from the results and read into them.

Figures are nested by the columns of their cells. Means over sources, values by fold and seed, differences of learners
and drops on an external cohort have entries of their own kinds, some of whose values follow from other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, NamedTuple

from casewise.errors import DamagedError
from casewise.evaluation.figures import FOLD, IMAGES, KNOWN, LEFT_OUT, READERS, SEED, ByMetric, Cell, Estimate, Figures
from casewise.evaluation.record import from_json, plain
from casewise.evaluation.results import PrimaryContrast, Results
from casewise.study.learners import is_baseline
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.run_folder import RunFolder

Json = dict[str, Any]


# The entry of a figure, and the rows of an entry of a cell.
def _entry(figures: Figures, cell: Cell, metric: str) -> Json:
    entry: Json = plain(figures.cells[cell][metric])
    return entry


def _row(entry: Json, cell: Cell) -> Iterator[tuple[Cell, Estimate]]:
    fields = _renamed(entry, "difference", "value")
    yield cell, from_json(Estimate, {name: fields[name] for name in fields if name not in _DERIVED})


_DERIVED = ("sources", "undefined", "internal", "external", "internal_stage", "indistinguishable")


def _mean_entry(figures: Figures, cell: Cell, metric: str) -> Json:
    """With the sources where the figure is defined, and the others."""
    defined: dict[bool, list[str]] = {True: [], False: []}
    for source in figures.names("group", population=cell.population):
        own = figures.cells.get(cell._replace(group=source, contrast=""), {}).get(metric)
        defined[own is not None and own.value is not None].append(source)
    return _entry(figures, cell, metric) | {"sources": defined[True], "undefined": defined[False]}


def _drop_entry(figures: Figures, cell: Cell, metric: str) -> Json:
    """With the figure on the external cohort and in the study, at the stage that is the group."""
    at = {"external": cell.stage, "internal": cell.group}
    values = {name: plain(figures.of(stage, cell.learner, cell.target)[metric].value) for name, stage in at.items()}
    entry = _entry(figures, cell, metric)
    return values | {"difference": entry.pop("value"), "internal_stage": cell.group} | entry


def _drop_row(entry: Json, cell: Cell) -> Iterator[tuple[Cell, Estimate]]:
    yield from _row(entry, cell._replace(group=entry["internal_stage"]))


def _series_entry(key: str, summary: Sequence[str], figures: Figures, cell: Cell, metric: str) -> Json:
    """The values of all groups and their summary."""
    columns = {name: value for name, value in cell._asdict().items() if name != "group"}
    groups = figures.select(**{**columns, "contrast": ""}).cells.values()
    ends = {name: plain(figures.cells[cell._replace(contrast=name)][metric].value) for name in summary}
    return {key: [plain(own[metric].value) for own in groups], **ends}


def _series_rows(
    key: str, summary: Sequence[str], seeds: Sequence[int], entry: Json, cell: Cell
) -> Iterator[tuple[Cell, Estimate]]:
    names = seeds if cell.population == SEED else range(1, len(entry[key]) + 1)
    for number, value in zip(names, entry[key], strict=True):
        yield cell._replace(group=str(number), contrast=""), Estimate(value, None, None)
    for name in summary:
        yield cell._replace(contrast=name), Estimate(entry[name], None, None)


class _Block(NamedTuple):
    """Where the figures of some cells are: how they are nested, and the values of the other columns."""

    path: str
    columns: tuple[str, ...]
    fixed: Json
    entry: Callable[..., Json] = _entry
    rows: Callable[..., Iterator[tuple[Cell, Estimate]]] = _row


_WHOLE = ("stage", "learner", "target")


def _blocks(target: str, seeds: Sequence[int] = ()) -> Iterator[_Block]:
    """All blocks of results with this primary outcome."""
    yield _Block("metrics", _WHOLE, {"population": "", "contrast": ""})
    for above, population in (("", LEFT_OUT), ("known_sources.", KNOWN)):
        own = {"stage": "oof", "target": target, "population": population}
        yield _Block(f"{above}by_site", ("group", "learner"), {**own, "contrast": ""})
        yield _Block(f"{above}site_means", ("learner",), {**own, "contrast": "mean"}, _mean_entry)
    external = {"stage": "external", "target": target}
    yield _Block("external_by", ("population", "group", "learner"), {**external, "contrast": ""})
    yield _Block("external_drop", ("learner",), {**external, "contrast": "internal"}, _drop_entry, _drop_row)
    yield _Block("image_split.metrics", _WHOLE, {"population": IMAGES})
    yield _Block(
        "readers.between", ("stage", "target", "group"), {"population": READERS, "learner": "", "contrast": ""}
    )
    yield _Block("readers.learners", (*_WHOLE, "contrast"), {"population": READERS, "group": ""})
    for path, columns, population, key, summary in (
        ("over_folds", ("target", "learner"), FOLD, "folds", ("mean", "sd")),
        ("seeds.metrics", _WHOLE, SEED, "by_seed", ("mean", "min", "max", "sd")),
    ):
        fixed = {"population": population, "contrast": "mean"} | ({} if "stage" in columns else {"stage": "oof"})
        entry, rows = partial(_series_entry, key, summary), partial(_series_rows, key, summary, seeds)
        yield _Block(path, columns, fixed, entry, rows)


def encoded(results: Results) -> Json:
    """The content of `metrics.json`."""
    figures, main = results.figures, results.main
    values: Json = {"metrics": {}, "comparisons": {}, "over_folds": {}}
    for block in _blocks(main.target):
        for cell, own in figures.select(**block.fixed).cells.items():
            keys = [getattr(cell, column) for column in block.columns]
            if all(keys) and ("population" not in block.columns or keys[0].startswith("by ")):
                keys = [key.removeprefix("by ") if key == cell.population else key for key in keys]
                _put(values, [*block.path.split("."), *keys], {name: block.entry(figures, cell, name) for name in own})
    if seeds := figures.names("group", population=SEED):
        values["seeds"]["seeds"] = [int(seed) for seed in seeds]
    for stage in results.stages:
        for target in figures.names("target", stage=stage):
            if entries := _comparisons(figures.contrasts(stage, target)):
                _put(values, ["comparisons", stage, target], entries)
    if results.primary:
        values["against_baselines"] = _against(results, plain(results.primary))
    rest = {name: value for name, value in plain(results).items() if name not in ("figures", "image_split", "primary")}
    for group in _groups(rest.get("subgroups")):
        group["differences"] = {
            name: _renamed(gap, "value", "difference") for name, gap in group["differences"].items()
        }
    rest["main"] |= {"metrics": plain(results.headline) if main.stage else None}
    if results.image_split:
        rest["image_split"] = {"metrics": {}} | values.get("image_split", {}) | plain(results.image_split)
    return values | rest


def _groups(subgroups: Json | None) -> list[Json]:
    """The entries of all subgroups, whose differences have a key of their own instead of `value`."""
    return [group for column in (subgroups or {}).get("columns", ()) for group in column["groups"]]


def _renamed(entry: Json, before: str, after: str) -> Json:
    return {after if name == before else name: value for name, value in entry.items()}


def _put(values: Json, keys: Sequence[str], entry: Any) -> None:
    *above, last = keys
    reduce(lambda inner, key: inner.setdefault(key, {}), above, values)[last] = entry


def _comparisons(gaps: Figures) -> Json:
    """The entries of the differences of learners for one stage and target, by metric."""
    entries: Json = {}
    for cell, own in gaps.cells.items():
        for metric, gap in own.items():
            pairs = entries.setdefault(metric, {}).setdefault(cell.contrast, {})
            pairs[cell.learner] = {"difference": plain(gap.value), "low": plain(gap.low), "high": plain(gap.high)}
            pairs[cell.learner]["indistinguishable"] = gap.open
            if gap.reason:
                pairs[cell.learner]["reason"] = gap.reason
    for metric, pairs in entries.items():
        best = gaps.best(metric)
        size = next(own[metric] for cell, own in gaps.cells.items() if cell.learner == cell.contrast == best)
        del pairs[best][best]
        open_to = [name for name, gap in pairs[best].items() if gap["indistinguishable"]]
        entries[metric] = {
            "best": best,
            "indistinguishable": [best, *open_to],
            "n_subjects": size.n_subjects,
            "rough": size.rough,
            "differences": pairs[best],
            "from_baseline": {name: of_other for name, of_other in pairs.items() if is_baseline(name)},
        }
    return entries


def _against(results: Results, primary: Json) -> Json:
    """The entry of the primary contrast."""
    main, learner = results.main, primary["learner"]
    entries = _comparisons(results.figures.contrasts(primary["stage"], main.target))
    pairs = {metric: entry["from_baseline"].get(primary["baseline"], {}) for metric, entry in entries.items()}
    return primary | {
        "merit": kind_named(main.kind).merit,
        **{name: next(iter(entries.values()))[name] for name in ("n_subjects", "rough")},
        "differences": {name: own[learner] for name, own in pairs.items() if learner in own},
    }


def decoded(values: Json) -> Results:
    """The results of the content of `metrics.json`.

    Raises:
        ValueError: it is of another format.
    """
    cells: dict[Cell, ByMetric] = {}
    target, seeds = str(values["main"]["target"]), values.get("seeds", {}).get("seeds", ())
    for block in _blocks(target, seeds):
        entries: Json = reduce(lambda inner, key: inner.get(key) or {}, block.path.split("."), values)
        for keys, by_metric in _leaves(entries, len(block.columns)):
            cell = Cell(**block.fixed, **dict(zip(block.columns, keys, strict=True)))
            if "population" in block.columns:
                cell = cell._replace(population=f"by {cell.population}")
            for metric, entry in by_metric.items():
                for at, figure in block.rows(entry, cell):
                    cells.setdefault(at, {})[metric] = figure
    for (stage, key), by_metric in _leaves(values["comparisons"], 2):
        for metric, entry in by_metric.items():
            best, size = entry["best"], {name: entry[name] for name in ("n_subjects", "rough")}
            itself = {best: {"difference": 0.0, "low": None, "high": None}}
            for other, pairs in ({best: {}} | entry["from_baseline"]).items():
                for learner, gap in (itself | entry["differences"] if other == best else pairs).items():
                    for at, figure in _row({**gap, **size}, Cell(stage, learner, key, contrast=other)):
                        cells.setdefault(at, {})[metric] = figure
    record = {name: value for name, value in values.items() if name not in _READ_FROM_ROWS}
    record["main"] = {name: value for name, value in values["main"].items() if name != "metrics"}
    if primary := values.get("against_baselines"):
        record["primary"] = {name: primary[name] for name in PrimaryContrast.__dataclass_fields__ if name in primary}
    if split := values.get("image_split"):
        record["image_split"] = {name: value for name, value in split.items() if name != "metrics"}
    record["subgroups"] = deepcopy(values.get("subgroups"))
    for group in _groups(record["subgroups"]):
        group["differences"] = {
            name: _renamed(gap, "difference", "value") for name, gap in group["differences"].items()
        }
    return from_json(Results, record | {"figures": Figures(cells)})


_READ_FROM_ROWS = {block.path.partition(".")[0] for block in _blocks("")} | {"comparisons", "against_baselines"}


def _leaves(block: Json, depth: int) -> Iterator[tuple[tuple[str, ...], Json]]:
    """The entries at a depth of nested mappings, with their keys."""
    if not depth:
        yield (), block
        return
    for key, inner in block.items():
        for keys, leaf in _leaves(inner, depth - 1):
            yield (key, *keys), leaf


def as_stored(results: Results) -> Results:
    """The results with the digits with which they are stored."""
    return decoded(encoded(results))


def read_results(folder: RunFolder) -> Results:
    """The results of a finished run.

    Raises:
        RunError: there are none, or they cannot be read.
        DamagedError: they were changed after they were written, or were written by another version of casewise.
    """
    from pydantic import ValidationError

    values = folder.metrics.read()
    try:
        return decoded(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = repr(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg']}"
        raise DamagedError(
            f"{folder.metrics.path} does not hold results of this version of casewise ({why}). {folder.metrics.remedy}"
        ) from error


def write_results(folder: RunFolder, results: Results) -> Results:
    """Write the results of a run; return them as they are stored."""
    values = encoded(results)
    folder.metrics.write(values)
    return decoded(values)
