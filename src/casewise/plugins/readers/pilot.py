"""How many subjects and readers a study needs, from a pilot run: widths of intervals, a learning curve, readers.

The width of an interval follows from how much each subject influences the figure (the jackknife, as for every interval
of a report). A study of n subjects is expected to have n such influences, drawn from the run's influences and scaled
from its number of subjects to n; the report's scheme makes an interval from them. In subsets of the run's subjects,
where the interval can be computed, its mean width is given as well. With more subjects than the run, the width is an
extrapolation: from 25 simulated pilots of 60 subjects to studies of 240, the mean width was right within 9 % (MAE, CCC,
AUROC and accuracy), and single pilots differed with a standard deviation of 6 to 26 % of it.

The learning curve fits the best baseline of the run again, in the same folds and on the same frozen features, on some
of the training subjects, and evaluates it on the same held-out cases.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.console import Show
from casewise.errors import CasewiseError, RunError, counted
from casewise.evaluation import intervals
from casewise.evaluation.bootstrap import Plan, basis_of
from casewise.evaluation.classification import left_out, widen
from casewise.evaluation.intervals import Basis
from casewise.evaluation.judges import ClassJudge, Judge, judge_of
from casewise.metrics.numbers import moments, number_metrics, sum_by_subject
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.readers.doubtful import recorded_readings
from casewise.plugins.readers.statistics.agreement import MeanOfReaders, agreement
from casewise.predictions.decisions import decide_grades
from casewise.predictions.scores import scored
from casewise.predictions.table import CHOOSING, SAMPLE_KEY, final_rows
from casewise.splits.grouped import Splits
from casewise.study.learners import baselines_among
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study

FEWEST_SUBJECTS, MOST_SUBJECTS = 10, 100_000
# Sizes of a study, in numbers of subjects of the run.
SIZES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
# Shares of the training subjects, and how often each is drawn.
SHARES, DRAWS = (0.25, 0.5, 0.75), 3
# Subsets in which a width is measured, and draws of influences over which one is expected.
SUBSETS, INFLUENCE_DRAWS = 10, 40


@dataclass(frozen=True)
class ExpectedInterval:
    """The interval of a metric that a study of this many subjects is expected to have; `measured`: its width in subsets
    of the run's subjects. The ends are NaN where it has none."""

    metric: str
    subjects: int
    low: float
    high: float
    measured: float
    extrapolated: bool

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass(frozen=True)
class _CurvePoint:
    """The metric of a baseline that was fitted on a share of the training subjects, `subjects` on average over folds.

    `value` is the mean over draws of subjects, which lie from `lowest` to `highest`; `low` and `high` are the interval
    by held-out subject, NaN where there is none.
    """

    share: float
    subjects: float
    value: float
    low: float
    high: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class SizePlan:
    """The sizes of a study.

    Attributes:
        metric: the primary metric of the primary outcome; models are compared by it.
        subjects: the run's subjects that its intervals rest on.
        expected: the intervals of each metric of the headline by number of subjects.
        needed: the number of subjects for each wanted width of the interval of `metric`; None if no number is enough.
        baseline, curve: a baseline and its learning curve; empty without one, for the reason `no_curve`.
        gain: how much better the baseline is with all training subjects than with half, with its interval.
        readers: the precision of the mean of several readers; empty without readings by several.
    """

    study: Study
    learner: str
    stage: str
    metric: str
    subjects: int
    expected: list[ExpectedInterval]
    needed: dict[float, int | None]
    baseline: str
    curve: list[_CurvePoint]
    gain: tuple[float, float, float]
    no_curve: str
    readers: list[MeanOfReaders]


def size_plan(
    run: FinishedRun, widths: Sequence[float], show: Show, *, readings: pd.DataFrame | None = None
) -> SizePlan:
    """The sizes of a study that is like this run.

    Args:
        widths: wanted widths of the interval of the primary metric, upper minus lower end.
        readings: a readings table; by default the columns of readers of the study.

    Raises:
        RunError: the run has no predictions of held-out cases, or fewer than ten subjects.
        CasewiseError: a wanted width is not above 0.
    """
    if wrong := [width for width in widths if not 0 < width < math.inf]:
        raise CasewiseError(f"An interval cannot have the width {wrong[0]:g}. Ask for one above 0, such as 0.1.")
    study, main, target = run.study, run.results.main, run.results.main.target
    kind, settings = kind_named(main.kind), study.evaluation
    low, high = (0.0, math.inf) if study.classes_of(target) else study.range_of(target)
    plan = Plan(settings.bootstrap_resamples, settings.confidence, study.seed, study.unit, high - low)
    of_target = run.final[(run.final["target"] == target) & run.final["y_true"].notna()]
    own = of_target[of_target["model"] == main.learner]
    stage = next((name for name in (*CHOOSING, "test") if (own["stage"] == name).any()), "")
    rows = own[own["stage"] == stage]
    subjects = int(rows["subject"].nunique())
    if subjects < FEWEST_SUBJECTS:
        raise RunError(
            f"{run.files.path}: {counted(subjects, 'subject')} with a held-out prediction of {target} are too few; "
            f"{FEWEST_SUBJECTS} are needed to plan a study. Add subjects to the pilot."
        )
    judge = judge_of(rows, study.classes_of(target) or None, study.positive_of(target))
    _, points, basis = figures_of(rows, judge, plan)
    expected = expected_intervals(rows, judge, list(dict.fromkeys([kind.merit, *kind.headline])), plan)
    needed = {width: subjects_for(width, kind.merit, points, basis, subjects) for width in widths}
    baseline, curve, gain, no_curve = "", list[_CurvePoint](), (math.nan,) * 3, "the run has no baselines"
    of_stage = of_target[of_target["stage"] == stage]
    if baselines := [name for name in baselines_among(of_stage["model"].astype(str)) if name in study.learners]:
        # fitting baselines needs the images, which may be elsewhere
        try:
            names, points, _ = figures_of(of_stage[of_stage["model"].isin(baselines)], judge, plan)
            baseline = names[int(np.nanargmax(points[kind.merit]))]
            curve, gain = _learning_curve(run, of_stage[of_stage["model"] == baseline], judge, kind.merit, plan, show)
            no_curve = ""
        except CasewiseError as error:
            baseline, no_curve = "", str(error)
    if readings is None:
        readings = recorded_readings(run, target)
    of_readers = readings[readings["target"] == target]
    several = kind.name != "classification" and of_readers["reader"].nunique() > 1
    means = agreement(of_readers, kind.name, len(study.classes_of(target)), plan).means if several else []
    return SizePlan(
        *(study, str(main.learner), stage, kind.merit, subjects, expected, needed),
        *(baseline, curve, gain, no_curve, means),
    )


def figures_of(rows: pd.DataFrame, judge: Judge, plan: Plan) -> tuple[list[str], dict[str, np.ndarray], Basis]:
    """The learners of the rows of one stage, their metrics (L,), and those without each subject."""
    if isinstance(judge, ClassJudge):
        wide = widen(rows, judge.classes, {}, crossed=bool((rows["stage"] == "oof").all()))
        points, basis, _ = left_out(wide.samples, judge.classes, plan)
        return wide.learners, points, basis
    key = list(SAMPLE_KEY)
    wide_values = rows.pivot(index=key, columns="model", values="y_pred")
    facts = rows.drop_duplicates(key).set_index(key).loc[wide_values.index]
    truth = facts["y_true"].to_numpy(dtype=float)
    terms = moments(truth[:, None], wide_values.to_numpy(dtype=float), centre=float(truth.mean()))
    sums = sum_by_subject(terms, facts["subject"].to_numpy())
    metrics = partial(number_metrics, kind=kind_named(judge.kind).metrics_of)
    points = metrics(sums.sum(axis=0))
    rests_on = {name: np.full(point.shape, len(sums)) for name, point in points.items()}
    return list(map(str, wide_values.columns)), points, basis_of(sums, metrics, plan, rests_on)


# ---------------------------------------------------------------------------------------------- widths of intervals


def expected_ends(name: str, points: dict[str, np.ndarray], basis: Basis, ratio: float, seed: int) -> np.ndarray:
    """The expected ends (2,) of the first learner's interval in a study of `ratio` times as many subjects.

    The n influences of such a study are the run's influences, repeated as often as they fit, and a random sample of
    them; leaving out one of n subjects changes the figure less, by (subjects of the run − 1) / (n − 1).
    """
    groups, rng = len(basis.presence), np.random.default_rng(seed)
    size = max(round(groups * ratio), intervals.FEWEST)
    whole, rest = divmod(size, groups)
    changes = {
        key: points[key] + (basis.left_out[key] - points[key]) * (groups - 1) / (size - 1)
        for key in dict.fromkeys([name, *({"bias"} & set(points))])
    }
    rests_on = {name: np.maximum(np.rint(basis.rests_on[name] * size / groups), 1)}
    drawn = []
    for _ in range(INFLUENCE_DRAWS if rest and whole < 5 else 1):
        index = np.concatenate([np.tile(np.arange(groups), whole), rng.permutation(groups)[:rest]])
        left = {key: values[index] for key, values in changes.items()}
        resized = replace(basis, left_out=left, presence=basis.presence[index], rests_on=rests_on)
        drawn.append([end[0] for end in intervals.ends(name, points, resized)])
    return _mean(np.array(drawn))


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean (...) over the first axis; NaN where fewer than half of the values are defined."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.where(defined.mean(axis=0) >= 0.5, total / np.maximum(defined.sum(axis=0), 1), np.nan)


def expected_intervals(rows: pd.DataFrame, judge: Judge, names: list[str], plan: Plan) -> list[ExpectedInterval]:
    """The expected intervals of one learner's metrics in studies of several sizes, from its rows of one stage."""
    _, points, basis = figures_of(rows, judge, plan)
    count = int(rows["subject"].nunique())
    sizes = list(dict.fromkeys(max(round(count * ratio), FEWEST_SUBJECTS) for ratio in SIZES))
    measured = {size: _measured_widths(rows, judge, names, size, plan) for size in sizes if size <= count}
    expected = []
    for name in names:
        for size in sizes:
            low, high = map(float, expected_ends(name, points, basis, size / count, plan.seed))
            width = measured[size][name] if size in measured else math.nan
            expected.append(ExpectedInterval(name, size, low, high, width, size > count))
    return expected


def _measured_widths(rows: pd.DataFrame, judge: Judge, names: list[str], size: int, plan: Plan) -> dict[str, float]:
    """The mean widths of the intervals in random subsets of the subjects; with all subjects, the run's widths."""
    rng, subjects, widths = np.random.default_rng(plan.seed), np.sort(rows["subject"].unique()), []
    for _ in range(SUBSETS if size < len(subjects) else 1):
        chosen = rows["subject"].isin(rng.choice(subjects, size, replace=False))
        _, points, basis = figures_of(rows[chosen], judge, plan)
        widths.append([np.subtract(*intervals.ends(name, points, basis)[::-1])[0] for name in names])
    return dict(zip(names, map(float, _mean(np.array(widths))), strict=True))


def subjects_for(width: float, name: str, points: dict[str, np.ndarray], basis: Basis, subjects: int) -> int | None:
    """The least number of subjects whose interval is expected to be this narrow; None if it is above the limit.

    `subjects` is the number of subjects behind the figures.
    """

    def narrow(size: int) -> bool:
        low, high = expected_ends(name, points, basis, size / subjects, 0)
        return bool(high - low <= width)

    few, many = FEWEST_SUBJECTS, MOST_SUBJECTS
    if narrow(few):
        return few
    if not narrow(many):
        return None
    while many - few > max(1, few // 100):
        middle = math.isqrt(few * many) if many > 2 * few else (few + many) // 2
        few, many = (few, middle) if narrow(middle) else (middle, many)
    return many


# --------------------------------------------------------------------------------------------------- learning curve


@dataclass(frozen=True)
class _ThinnedSplits(Splits):
    """Splits in which only some subjects may be trained on; those that are held out stay the same."""

    kept: frozenset[str]

    def training(self, fold: int) -> list[str]:
        return [subject for subject in super().training(fold) if subject in self.kept]


def thinned(splits: Splits, labels: dict[str, int], share: float, seed: int, *, classes: bool = True) -> _ThinnedSplits:
    """Splits with a random share of the training subjects, as equal as possible for each side and label.

    With the same seed, a larger share contains the subjects of a smaller one. With `classes`, each label stays on two
    sides, so that no fold lacks it.
    """
    rng, strata = np.random.default_rng(seed), dict[tuple[int, int], list[str]]()
    for subject in map(str, rng.permutation(sorted(splits.side))):
        strata.setdefault((splits.side[subject], labels.get(subject, -1)), []).append(subject)
    order: dict[str, float] = {}
    for members in strata.values():
        start = rng.random()
        order |= {subject: (number + start) / len(members) for number, subject in enumerate(members)}
    kept = {subject for subject, position in order.items() if position < share}
    for label in {label for _, label in strata} if classes else ():
        sides = {side: members for (side, of_side), members in strata.items() if of_side == label}
        first = sorted((order[members[0]], members[0]) for members in sides.values())
        kept |= {subject for _, subject in first[:2]}
    return _ThinnedSplits(splits.side, splits.folds, splits.record, frozenset(kept))


def _learning_curve(
    run: FinishedRun, rows: pd.DataFrame, judge: Judge, metric: str, plan: Plan, show: Show
) -> tuple[list[_CurvePoint], tuple[float, float, float]]:
    """The metric of a baseline by the share of training subjects, and the gain from half of them to all.

    Args:
        rows: the rows of the baseline in the run, which was fitted on all training subjects.

    Raises:
        CasewiseError: the images are missing or have changed.
    """
    baseline, stage, target = (str(rows[name].iloc[0]) for name in ("model", "stage", "target"))
    subjects, tables = {}, [rows.assign(model="1 0")]
    with show.bar("learning") as bar:
        for number, (share, draw) in enumerate((share, draw) for draw in range(DRAWS) for share in SHARES):
            bar(number, len(SHARES) * DRAWS, f"{baseline} on {share:.0%} of the training subjects, draw {draw + 1}")
            subjects[share], predictions = refitted(run, baseline, share, draw)
            of_target = predictions[(predictions["target"] == target) & (predictions["stage"] == stage)]
            tables.append(of_target[of_target["y_true"].notna()].assign(model=f"{share:g} {draw}"))
    subjects[1.0] = float(np.mean([len(run.splits.training(fold)) for fold in range(run.splits.folds)]))
    names, points, basis = figures_of(pd.concat(tables, ignore_index=True), judge, plan)
    of_draw = np.array([float(name.split()[0]) for name in names])
    curve, without = [], {}
    for share in sorted(subjects):
        columns = np.flatnonzero(of_draw == share)
        values, without[share] = points[metric][columns], basis.left_out[metric][:, columns].mean(axis=1, keepdims=True)
        mean, rests_on = values.mean(keepdims=True), basis.rests_on[metric][columns[:1]]
        of_share = replace(basis, left_out={metric: without[share]}, rests_on={metric: rests_on})
        of_share = replace(of_share, presence=basis.presence[:, :1])
        low, high = (float(end[0]) for end in intervals.ends(metric, {metric: mean}, of_share))
        curve.append(
            _CurvePoint(share, subjects[share], float(mean[0]), low, high, float(values.min()), float(values.max()))
        )
    value = {point.share: point.value for point in curve}
    gain, changes = np.array([value[1.0] - value[0.5]]), without[1.0] - without[0.5]
    paired = replace(of_share, left_out={"gain": changes}, rests_on={"gain": of_share.rests_on[metric]})
    low, high = (float(end[0]) for end in intervals.ends("gain", {"gain": gain}, paired))
    return curve, (float(gain[0]), low, high)


def refitted(run: FinishedRun, baseline: str, share: float, draw: int) -> tuple[float, pd.DataFrame]:
    """The mean number of training subjects, and the predictions of a baseline that was fitted on some of them.

    Its jobs are the same as in the run: the same folds, features, inner choices and held-out cases.
    """
    from joblib import cpu_count

    from casewise.cohort.targets import label_table
    from casewise.jobs.job import run_job
    from casewise.jobs.plan import Job, JobInputs
    from casewise.modalities.base import StoreAddress
    from casewise.run_folder import JobFolder
    from casewise.training.compute_plan import ComputePlan

    study, prepared = run.study, run.prepared
    panels, name = prepared.cohort.panels, study.primary_outcome
    name = name if name in study.outputs else study.outputs[0]
    values = label_table(panels, study)[:, list(study.outputs).index(name)]
    labels = kind_named(study.kind_of(name)).fold_labels(values, *study.range_of(name), len(study.classes_of(name)))
    of_subject = dict(zip(panels["subject"].astype(str), map(int, labels), strict=True))
    classes = kind_named(study.kind_of(name)).form != "number"
    splits = thinned(run.splits, of_subject, share, study.seed + draw, classes=classes)
    store = prepared.store
    inputs = JobInputs(study, prepared.cohort, splits, StoreAddress(store.folder, store.address))
    counts, tables = [], []
    with tempfile.TemporaryDirectory(prefix="casewise-") as folder:
        for fold in range(splits.folds):
            job_folder = JobFolder(Path(folder) / f"fold{fold + 1}")
            run_job(Job(baseline, fold, job_folder, "", alone=splits.holdout), inputs, ComputePlan(threads=cpu_count()))
            tables.append(job_folder.predictions.read())
            counts.append(len(splits.training(fold)))
    rows, images = pd.concat(tables, ignore_index=True), prepared.cohort.images
    paths = images.set_index(images["image"].astype(str))["path"].astype(str)
    rows["image"] = rows["image"].where(rows["image"] == "", rows["image"].map(paths))  # as in the table of a run
    rows = decide_grades(rows, study.decisions).rows if study.decisions else rows
    return float(np.mean(counts)), final_rows(scored(rows, study))
