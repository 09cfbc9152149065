"""Change over time by arm: the treatment effect by the physician and by the model, from a mixed model.

The scores of an outcome are modelled by a mean for each visit in each arm, with a random intercept of each subject and,
from three visits on, a random slope over the visits where it varies (restricted maximum likelihood; `MixedLM` of
statsmodels). Missing visits are assumed to be missing at random. The change of an arm is the difference of its means
from its means at the baseline, the effect the difference of two changes. With two visits and no missing scores both
equal a t-test of the changes.

The intervals of the mixed model are robust by subject (Liang and Zeger 1986), so that they do not rest on the form of
the random effects; they have as many degrees of freedom as subjects less arms. The difference between both scores is
paired: its change at a visit is over the subjects who have the visit, from their own baselines, with intervals of
t-tests (Welch's between two arms). Shares of responders are compared by Newcombe's interval (1998).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

from casewise.errors import CasewiseError
from casewise.evaluation.bootstrap import PLAN, Plan
from casewise.evaluation.evaluate import FollowUp
from casewise.evaluation.figures import Estimate
from casewise.evaluation.response import FIRST_VISIT, by_visit, clear_limit, percent_change, visits_in_order
from casewise.evaluation.results import ResponseRates, Trial, TrialVisit

Array: TypeAlias = np.ndarray

# A visit is compared if this many subjects of every arm have it.
FEWEST_AT_VISIT = 5
# A random effect counts as one if its variance is this share of the residual variance.
SINGULAR = 1e-4
OUTCOMES = ("physician", "model", "difference")


def require_statsmodels(column: str) -> None:
    """Check that the optional part is installed that fits mixed models.

    Raises:
        CasewiseError: it is not.
    """
    try:
        import statsmodels  # noqa: F401
    except ImportError as error:
        raise CasewiseError(
            f"evaluation.arm: effects of {column} need an optional part of casewise: pip install 'casewise[trials]'."
        ) from error


@dataclass(frozen=True)
class _MixedFit:
    """The means of each arm at each visit, (A·V,) with arms outside, their covariance, and the random effects."""

    means: Array
    covariance: Array
    slope: bool


def trial(
    rows: pd.DataFrame, arms: Mapping[str, str], control: str, follow_up: FollowUp = FollowUp(), plan: Plan = PLAN
) -> Trial:
    """The change from baseline of each arm at each visit, its difference from the control's change, and responders.

    If more than half of the subjects begin with the same visit, the others have no baseline: their first score may
    have been taken under treatment.

    Args:
        rows: one row for each case of one learner: `subject, visit, day, y_true, y_pred`.
        arms: the arm of each subject; subjects without one are left out.
        control: the arm that others are compared with.
    """
    from scipy import stats

    change = percent_change(rows, baseline=follow_up.baseline)
    change = change[(change["since"] >= 0).fillna(False)].dropna(subset=["y_true", "y_pred"])
    subjects = sorted(map(str, rows["subject"].unique()))
    starts = change.loc[change["since"] == 0, ["subject", "visit"]].astype(str).set_index("subject")["visit"]
    if starts.value_counts(normalize=True).max() > 0.5:
        starts = starts[starts == starts.mode()[0]]
    started = set(starts.index)
    without = [name for name in subjects if name not in arms]
    left_out = {"no_arm": len(without), "no_baseline": len(set(subjects) - set(without) - started)}
    change = change[change["subject"].astype(str).isin([name for name in started if name in arms])]
    change = change.assign(arm=change["subject"].astype(str).map(dict(arms)), visit=_visit_names(change))
    names = [control, *sorted(set(change["arm"]) - {control})] if len(change) else []
    first = str(change.loc[change["since"] == 0, "visit"].iloc[0]) if len(change) else ""
    counts = change.groupby(["visit", "arm"])["subject"].nunique().unstack(fill_value=0).reindex(columns=names)
    enough = [str(visit) for visit in counts.index[(counts.fillna(0) >= FEWEST_AT_VISIT).all(axis=1)]]
    visits = [name for name in visits_in_order(change["visit"]) if name in enough and name != first]
    left_out["visits"] = len(counts) - len(visits) - 1 if len(counts) else 0
    sizes = {name: int(change.loc[change["arm"] == name, "subject"].nunique()) for name in names}
    if first not in enough or not visits:
        return Trial(control, sizes, first, [], left_out, dict.fromkeys(OUTCOMES, "too_few"), {}, {}, {})
    change = change[change["visit"].isin([first, *visits])].drop_duplicates(["subject", "visit"])
    change = change.assign(difference=change["y_pred"] - change["y_true"])
    fits: dict[str, _MixedFit] = {}
    problems: dict[str, str] = {}
    visit_number = change["visit"].map([first, *visits].index)
    cells = (change["arm"].map(names.index) * (1 + len(visits)) + visit_number).to_numpy()
    for outcome, column in zip(OUTCOMES[:2], ("y_true", "y_pred"), strict=True):
        fit = _fit_mixed(change[column].to_numpy(dtype=float), cells, change["subject"].to_numpy(), 1 + len(visits))
        if isinstance(fit, _MixedFit):
            fits[outcome] = fit
        else:
            problems[outcome] = fit
    width = stats.t.ppf((1 + plan.confidence) / 2, change["subject"].nunique() - len(names))
    later = change[change["visit"] != first].dropna(subset=["true_change", "predicted_change"])
    clear_at = clear_limit(rows["y_true"].to_numpy())
    rates = {name: by_visit(later[later["arm"] == name], follow_up.responders, clear_at, plan) for name in names}
    wide = change.pivot(index="subject", columns="visit", values="difference")
    of_arm = wide.index.map(change.drop_duplicates("subject").set_index("subject")["arm"])
    compared = []
    for number, visit in enumerate(visits, start=1):
        at = _visit(visit, number, names, fits, float(width), counts.loc[visit], 1 + len(visits))
        changes = (wide[visit] - wide[first]).groupby(of_arm)
        paired = {name: changes.get_group(name).dropna().to_numpy() for name in names}
        for name, values in paired.items():
            at.change[name]["difference"] = _t_interval(values, None, plan)
        for name in names[1:]:
            at.effect[name]["difference"] = _t_interval(paired[name], paired[control], plan)
        compared.append(at)
    slopes = {outcome: fit.slope for outcome, fit in fits.items()}
    risks = {
        name: {
            visit: _risk_difference(at, rates[control][visit], plan)
            for visit, at in rates[name].items()
            if visit in rates[control]
        }
        for name in names[1:]
    }
    return Trial(control, sizes, first, compared, left_out, problems, slopes, rates, risks)


def _t_interval(values: Array, control: Array | None = None, plan: Plan = PLAN) -> Estimate:
    """The mean, or its difference from the control's mean, with the interval of a t-test (Welch's for two).

    Equal values, or a single value, have no interval: that all are the same does not make the mean certain.

    >>> _t_interval(np.array([1.0, 2.0, 3.0])).value, _t_interval(np.zeros(5)).low
    (2.0, None)
    """
    from scipy import stats

    groups = [values] if control is None else [values, control]
    value = float(values.mean() - (0.0 if control is None else control.mean()))
    variances = np.array([group.var(ddof=1) / len(group) for group in groups])
    total, freedom = variances.sum(), np.array([len(group) - 1 for group in groups])
    if not total > (1e-9 * max(1.0, abs(value))) ** 2:
        return Estimate(value, None, None)
    welch = total**2 / (variances**2 / freedom).sum()
    half = float(stats.t.ppf((1 + plan.confidence) / 2, welch) * np.sqrt(total))
    return Estimate(value, value - half, value + half)


def _risk_difference(arm: ResponseRates, control: ResponseRates, plan: Plan = PLAN) -> ResponseRates:
    """The shares of responders in an arm minus those in the control, with Newcombe's intervals; of all subjects."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    def interval(threshold: str, side: str) -> Estimate:
        shares = [(rates.rates[threshold][side].value or 0.0, rates.n_subjects) for rates in (arm, control)]
        counts = [number for share, total in shares for number in (round(share * total), total)]
        low, high = confint_proportions_2indep(*counts, method="newcomb", compare="diff", alpha=1 - plan.confidence)
        return Estimate(shares[0][0] - shares[1][0], float(low), float(high))

    differences = {name: {side: interval(name, side) for side in by_side} for name, by_side in arm.rates.items()}
    return ResponseRates(arm.n_subjects + control.n_subjects, differences)


def _visit_names(change: pd.DataFrame) -> pd.Series:
    """The names of visits; their numbers after the baseline where subjects begin with visits of several names."""
    if change.loc[change["since"] == 0, "visit"].nunique() <= 1:
        return change["visit"].astype(str)
    numbers = change["since"].astype(int)
    return numbers.map(lambda number: f"visit {number} after the baseline" if number else FIRST_VISIT)


def _visit(
    visit: str,
    number: int,
    arms: Sequence[str],
    fits: Mapping[str, _MixedFit],
    width: float,
    counts: pd.Series,
    visits: int,
) -> TrialVisit:
    """The changes and effects at one visit, the `number`-th of `visits` with the baseline."""
    contrasts = np.zeros((len(arms), len(arms) * visits))
    for arm in range(len(arms)):
        contrasts[arm, arm * visits + number], contrasts[arm, arm * visits] = 1.0, -1.0

    def intervals(contrast: Array) -> dict[str, Estimate]:
        entries = {}
        for outcome, fit in fits.items():
            value = float(contrast @ fit.means)
            half = width * float(np.sqrt(contrast @ fit.covariance @ contrast))
            entries[outcome] = Estimate(value, value - half, value + half)
        return entries

    return TrialVisit(
        visit,
        {name: int(counts[name]) for name in arms},
        {name: intervals(contrasts[arm]) for arm, name in enumerate(arms)},
        {name: intervals(contrasts[arm] - contrasts[0]) for arm, name in enumerate(arms) if arm},
    )


def _fit_mixed(scores: Array, cells: Array, subjects: Array, visits: int) -> _MixedFit | str:
    """Fit the means (A·V,) of the `cells` of each score; or the code of why there is none.

    The codes are `constant`, if scores hardly vary, and `singular`, if the fit did not converge or the subjects do not
    differ more than their visits do, so that there is no random effect.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM

    spread = float(scores.std())
    if not spread > 1e-9 * max(1.0, float(np.abs(scores).max())):
        return "constant"
    means = np.eye(int(cells.max()) + 1)[cells]
    ones, position = np.ones((len(scores), 1)), (cells % visits)[:, None].astype(float)
    for slope in (True, False) if visits > 2 else (False,):
        random = np.hstack([ones, position - position.mean()]) if slope else ones
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = MixedLM(scores / spread, means, groups=subjects, exog_re=random).fit(reml=True)
            except (np.linalg.LinAlgError, ValueError):
                continue
        between = np.atleast_2d(result.cov_re)
        smallest = float(np.linalg.eigvalsh(between).min())
        residuals = scores / spread - means @ np.asarray(result.fe_params)
        assumed = random @ between @ random.T + result.scale * np.eye(len(scores))
        covariance = _robust_covariance(means, residuals, subjects, assumed, arms=means.shape[1] // visits)
        if result.converged and smallest > SINGULAR * result.scale and bool((np.diag(covariance) > 0).all()):
            return _MixedFit(np.asarray(result.fe_params) * spread, covariance * spread**2, slope)
    return "singular"


def _robust_covariance(means: Array, residuals: Array, subjects: Array, assumed: Array, *, arms: int) -> Array:
    """The covariance of the means that holds however the scores of a subject vary (Liang and Zeger 1986).

    Without missing scores and with arms of one size it equals the covariance of a t-test of the changes.

    Args:
        assumed: (N, N) the covariance of the scores that the fit assumed; only each subject's own block is read.
    """
    names, size = np.unique(subjects), means.shape[1]
    bread, meat = np.zeros((size, size)), np.zeros((size, size))
    for name in names:
        own = subjects == name
        weighted = np.linalg.solve(assumed[np.ix_(own, own)], means[own])
        bread += means[own].T @ weighted
        meat += np.outer(weighted.T @ residuals[own], weighted.T @ residuals[own])
    inverse = np.linalg.inv(bread)
    return np.asarray(len(names) / (len(names) - arms) * inverse @ meat @ inverse)
