"""Labels that a run contradicts most, as a blinded list of cases to be read again.

A network that was trained on a label tends to repeat it, so only predictions of held-out cases are evidence against it.
For classes and grades, the score of a label is the logarithm of how much more probable the most probable other label
is: the margin of confident learning, on a scale on which a certain contradiction is not cut off at 1. A label is a
candidate where confident learning counts another one: the case is at least as probable to be of another class as cases
with that label are on average (Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset
labels", Journal of Artificial Intelligence Research 2021). For numbers, the score is the distance between label and
prediction in robust standard deviations, which depend on the predicted value and on the error of the readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.errors import CasewiseError, RunError, SplitError, counted, none_of
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.readers.rating.readings import COLUMNS as READINGS
from casewise.plugins.readers.reader_columns import column_readings
from casewise.predictions.table import probability_columns
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.analysis.run import Run
    from casewise.plugins.readers.form import Form
    from casewise.plugins.readers.rating.sessions import Item

COLUMNS = (
    *("case", "subject", "target", "region", "image", "stage"),
    *("recorded", "predicted", "distance", "score", "candidate", "rank"),
)
STAGES = ("oof", "test")
# The neighbours by prediction whose errors give the scale of a number's error: a third of the cases within limits. The
# scale of all cases has the weight of this many neighbours (PRIOR_NEIGHBOURS).
FEWEST_NEIGHBOURS, MOST_NEIGHBOURS, PRIOR_NEIGHBOURS = 20, 400, 30
# A robust standard deviation below this share of the one over all cases is not evidence of a smaller error.
LEAST_SCALE = 0.1
# Of a normal distribution, the standard deviation in median absolute deviations.
IN_DEVIATIONS = 1.4826
CANDIDATE_DEVIATIONS = 3.0
LEAST_PROBABILITY = 1e-6
# Bands by rank of numbers, within which undoubted cases are matched to doubtful ones.
BANDS = 5


@dataclass(frozen=True)
class Doubts:
    """Every label of a target, the most doubtful first.

    Attributes:
        learner: whose predictions of held-out cases contradict the labels.
        table: `case`, `subject`, `target`, `region`, `image`, `stage` ('oof' or 'test'), `recorded` and `predicted`
            (numbers, or the codes of classes and grades), their `distance`, the `score`, whether the label is a
            `candidate` for an error, and the `rank`, from 1.
    """

    target: str
    kind: str
    learner: str
    table: pd.DataFrame


def doubtful_labels(run: FinishedRun, target: str = "") -> Doubts:
    """The labels of a target that the reported learner contradicts, out of fold and in the test set.

    Args:
        target: by default the primary outcome.

    Raises:
        RunError: the run has no such target, or no out-of-fold predictions of it.
        SplitError: a network predicted a subject on whom it may have been trained.
    """
    learner, name = str(run.results.main.learner), target or run.results.main.target
    of_target = run.final[run.final["target"] == name]
    if of_target.empty:
        raise RunError(f"{run.files.path}: {none_of(name, sorted(set(map(str, run.final['target']))))}")
    rows = of_target[(of_target["model"] == learner) & of_target["y_true"].notna()]
    stages = sorted(set(map(str, rows["stage"])))
    if "oof" not in stages:
        raise RunError(
            f"{run.files.path} has no out-of-fold predictions of {name} by {learner}, only of the stages "
            f"{', '.join(stages) or 'none'}. A network repeats the labels it was trained on, so labels are compared "
            "with predictions of held-out subjects. Run the study with `split: {folds: 5}`."
        )
    oof = rows[rows["stage"] == "oof"]
    own_fold = oof["subject"].map(run.splits.side) + 1
    if (wrong := oof[oof["outer_fold"].isna() | (own_fold != oof["outer_fold"].astype("float64"))]).size:
        raise SplitError(
            f"{run.files.path}: subject {wrong['subject'].iloc[0]} is in another fold than the network that held it "
            "out, which may have been trained on it. Run the study again."
        )
    rows = rows[rows["stage"].isin(STAGES)].reset_index(drop=True)
    return doubts_of(rows, learner=learner, readings=recorded_readings(run, name))


def recorded_readings(run: FinishedRun, target: str) -> pd.DataFrame:
    """The readings table of a target in the columns of `evaluation.readers`."""
    if target not in run.study.evaluation.readers:
        return pd.DataFrame(columns=READINGS)
    table = column_readings(run.study, Cohort(run.images, pd.DataFrame(), pd.DataFrame()))
    return table[table["target"] == target]


def doubts_of(rows: pd.DataFrame, *, learner: str, readings: pd.DataFrame | None = None) -> Doubts:
    """The doubts about the labels of one target, from final rows of the predictions table of one learner."""
    target, kind = str(rows["target"].iloc[0]), kind_named(str(rows["kind"].iloc[0]))
    recorded, predicted = (rows[name].to_numpy(dtype=float) for name in ("y_true", "y_pred"))
    if kind.form == "number":
        variance = None if readings is None or readings.empty else reader_variance(rows, recorded, readings)
        score = number_doubts(predicted, recorded, variance)
        candidate, distance = score > CANDIDATE_DEVIATIONS, np.abs(predicted - recorded)
    else:
        columns = [name for name in probability_columns(rows) if rows[name].notna().any()]
        score, other, candidate = class_doubts(rows[columns].to_numpy(dtype=float), recorded.astype(int))
        distance = np.abs(other - recorded) if kind.name == "ordinal" else (other != recorded).astype(float)
    facts = {"recorded": recorded, "predicted": predicted, "distance": distance, "score": score, "candidate": candidate}
    table = rows[[*COLUMNS[:6]]].assign(**facts)
    # of equal scores, the more distant label is read first
    table = table.sort_values(["score", "distance", "case"], ascending=[False, False, True], kind="stable")
    table = table.assign(rank=np.arange(1, len(table) + 1)).reset_index(drop=True)
    return Doubts(target, kind.name, learner, table[list(COLUMNS)])


def class_doubts(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much classes or grades contradict their labels.

    Args:
        probabilities: (N, K), of held-out cases.
        labels: (N,) codes from 0.

    Returns:
        (N,) the logarithm of the odds of the most probable other label, that label, and whether the case is counted
        off the diagonal of the confident joint.

    >>> probabilities = np.array([[0.8, 0.2], [0.9, 0.1], [0.3, 0.7], [0.9, 0.1]])
    >>> score, other, candidate = class_doubts(probabilities, np.array([0, 0, 1, 1]))
    >>> score.round(2).tolist(), other.tolist(), candidate.tolist()
    ([-1.39, -2.2, -0.85, 2.2], [1, 1, 0, 0], [False, False, False, True])
    """
    classes, row = probabilities.shape[1], np.arange(len(labels))
    own = probabilities[row, labels]
    others = np.where(np.arange(classes) == labels[:, None], -1.0, probabilities)
    other = others.argmax(axis=1)
    score = np.log(np.maximum(others[row, other], LEAST_PROBABILITY) / np.maximum(own, LEAST_PROBABILITY))
    thresholds = [own[labels == code].mean() if (labels == code).any() else np.inf for code in range(classes)]
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    candidate = (confident.max(axis=1) >= 0) & (confident.argmax(axis=1) != labels)
    return score, other, candidate


def number_doubts(predicted: np.ndarray, recorded: np.ndarray, variance: np.ndarray | None = None) -> np.ndarray:
    """How far numbers are from their labels, (N,), in robust standard deviations of cases with similar predictions.

    Args:
        predicted, recorded: (N,), of held-out cases.
        variance: (N,) of the error of the recorded values. The deviations of similar predictions contain its mean; each
            label gets its own variance instead.

    >>> predicted = np.arange(40.0)
    >>> scores = number_doubts(predicted, predicted + np.tile([1.0, -1.0], 20) + 9 * (predicted == 7))
    >>> int(scores.argmax()), round(float(scores.max()), 1)
    (7, 4.7)
    """
    residual, order = recorded - predicted, np.argsort(predicted, kind="stable")
    size = min(len(residual), max(FEWEST_NEIGHBOURS, min(MOST_NEIGHBOURS, len(residual) // 3)))
    windows = np.lib.stride_tricks.sliding_window_view(residual[order], size)
    centres = np.median(windows, axis=1)
    scales = IN_DEVIATIONS * np.median(np.abs(windows - centres[:, None]), axis=1)
    window = np.clip(np.arange(len(residual)) - size // 2, 0, len(windows) - 1)
    centre, scale = np.empty_like(residual), np.empty_like(residual)
    centre[order], scale[order] = centres[window], scales[window]
    typical = IN_DEVIATIONS * float(np.median(np.abs(residual - np.median(residual)))) or float(residual.std()) or 1.0
    prior = PRIOR_NEIGHBOURS / (PRIOR_NEIGHBOURS + size)
    scale = np.maximum(scale, LEAST_SCALE * typical) ** (1 - prior) * typical**prior
    if variance is not None:
        # the learner's own variance is at least a quarter of what was measured
        scale = np.sqrt(np.maximum(scale**2 - variance.mean(), scale**2 / 4) + variance)
    return np.asarray(np.abs(residual - centre) / scale)


def reader_variance(rows: pd.DataFrame, recorded: np.ndarray, readings: pd.DataFrame) -> np.ndarray | None:
    """The variance (N,) of the error of labels, from readers whose differences depend on the value; None without pairs.

    Where most labels are the means of their readings, it is divided by the number of readers.

    Args:
        rows: `case` and `region` of the labels.
        readings: `case`, `region` and `value`.
    """
    by_case = readings.groupby(["case", "region"])["value"].agg(["mean", "var", "size"])
    by_case = by_case.reindex(pd.MultiIndex.from_frame(rows[["case", "region"]]))
    mean, own, size = (by_case[name].to_numpy(dtype=float) for name in ("mean", "var", "size"))
    several = ~np.isnan(own)
    if several.sum() < FEWEST_NEIGHBOURS:
        return None
    value, variance = mean[several], own[several]
    order = np.argsort(value, kind="stable")
    width = max(FEWEST_NEIGHBOURS, len(order) // 3)
    smooth = np.lib.stride_tricks.sliding_window_view(variance[order], width).mean(axis=1)
    at = np.searchsorted(value[order], recorded)
    means = np.isclose(mean[several], recorded[several], atol=1e-6).mean() > 0.5
    return smooth[np.clip(at - width // 2, 0, len(smooth) - 1)] / (np.where(several, size, 1.0) if means else 1.0)


def blinded_list(doubts: Doubts, count: int, seed: int = 0) -> pd.DataFrame:
    """The most doubtful cases to be read again, mixed in random order with as many others of the same labels.

    The undoubted ones are drawn at random from all cases that are not among the most doubtful, in the shares in which
    the doubtful ones have each label (numbers: each fifth of the labels). Hard and easy cases are among them, so that
    the list does not tell the doubtful ones, and they show how many labels change where there is no doubt.

    Args:
        count: the number of doubtful cases, one or more.

    Returns:
        One row for each case: the columns of `Doubts.table`, `doubtful`, the `stratum` in which undoubted cases were
        drawn, and the `weight`: how many of the cases that are not on the list an undoubted one stands for.

    Raises:
        CasewiseError: there are too few cases.
    """
    table = doubts.table.drop_duplicates("case").reset_index(drop=True)  # of several labels of a case, the worst
    if 2 * count > len(table):
        raise CasewiseError(
            f"--count: {counted(len(table), 'case')} of {doubts.target} are too few for a list of {count} doubtful and "
            f"as many undoubted ones. Ask for {len(table) // 2} or fewer."
        )
    number_form = kind_named(doubts.kind).form == "number"
    band = table["recorded"].rank(pct=True).mul(BANDS).apply(np.ceil) if number_form else table["recorded"]
    table["stratum"] = band.astype(int).astype(str) + " " + table["region"]
    rng = np.random.default_rng(seed)
    doubtful, rest = table.iloc[:count], table.iloc[count:]
    pools = {str(name): rng.permutation(of_stratum.index) for name, of_stratum in rest.groupby("stratum")}
    drawn = _drawn(rng.permutation(doubtful["stratum"].to_numpy(dtype=str)), pools, count)
    key = table.loc[[*doubtful.index, *drawn]].assign(doubtful=lambda t: t.index < count)
    sampled = key.loc[~key["doubtful"], "stratum"].value_counts()
    weight = {name: len(pools[str(name)]) / drawn_cases for name, drawn_cases in sampled.items()}
    key["weight"] = np.where(key["doubtful"], 1.0, key["stratum"].map(weight).fillna(1.0))
    return key.iloc[rng.permutation(len(key))].reset_index(drop=True)


def blinded_of(run: Run, form: Form, count: int) -> tuple[Doubts, pd.DataFrame]:
    """The doubts of a run and its blinded list, with the study's seed.

    They are about the primary outcome or, if readers do not score it because it is computed, about their first target.
    The same run and count give the same list, so that it can be made again after it was read.

    Raises:
        CasewiseError: as `doubtful_labels` and `blinded_list`.
    """
    targets = [field.target for field in form.fields]
    target = run.study.primary_outcome if run.study.primary_outcome in targets else targets[0]
    doubts = doubtful_labels(run.finished, target)
    return doubts, blinded_list(doubts, count, run.study.seed)


def blinded_items(run: Run, form: Form, items: Mapping[str, Item], count: int) -> dict[str, None]:
    """The keys of the items of the blinded list of a run, for a session of them.

    Raises:
        CasewiseError: as `blinded_of`; or a case of the list is not among the items.
    """
    keys = {(item.case, item.image): key for key, item in items.items()}
    listed = blinded_of(run, form, count)[1]
    wanted = [(str(case), str(image)) for case, image in listed[["case", "image"]].itertuples(index=False)]
    if missing := [case for case, image in wanted if (case, image) not in keys and (case, "") not in keys]:
        raise CasewiseError(
            f"{counted(len(missing), 'case')} of the run {run.folder} are not in the table of the study, the first is "
            f"{missing[0]}. Give a run of this study."
        )
    return {keys.get((case, image)) or keys[case, ""]: None for case, image in wanted}


def _drawn(strata: np.ndarray, pools: Mapping[str, np.ndarray], number: int) -> list[int]:
    """Rows from the pools of these strata in turn, and from the other pools where they are exhausted."""
    left = {name: list(map(int, pool)) for name, pool in pools.items()}
    drawn: list[int] = []
    for name in np.resize(strata, number):
        pool = left.get(str(name)) or max(left.values(), key=len)
        drawn.append(pool.pop())
    return drawn
