"""The headline's learner against the best baseline, by the intervals that hold for all pairs of learners."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from casewise.evaluation.results import AgainstBaseline, Results
from casewise.study.learners import baselines_among, is_baseline
from casewise.targets import kind_named

if TYPE_CHECKING:
    from collections.abc import Sequence


def against_baselines(results: Results, *, networks: Sequence[str] = ()) -> AgainstBaseline | None:
    """The differences of the headline's learner from the best baseline; None without one of them.

    If the learner is none of the `networks`, it combines several; the best network by the merit is then compared as
    well. Both this network and the baseline are the best by the merit out of fold (or at the stage, if there is nothing
    out of fold). The intervals are those of `results.comparisons`: they hold for all pairs of learners at once, so also
    for the pair that was chosen. A difference is the learner's figure minus the baseline's.
    """
    main, learner, stage = results.main, results.main.learner, str(results.main.stage)
    chosen_on = "oof" if results.metrics.get("oof") else stage
    merit = kind_named(main.kind).merit

    def best(names: Sequence[str]) -> str | None:
        figures = {name: results.figures(chosen_on, name, main.target).get(merit) for name in names}
        defined = {name: figure.value for name, figure in figures.items() if figure and figure.value is not None}
        return max(defined, key=lambda name: defined[name]) if defined else None

    baseline = best(baselines_among(results.metrics.get(stage, {})))
    if learner is None or is_baseline(learner) or baseline is None:
        return None

    def compared(learner: str, chosen: int) -> AgainstBaseline | None:
        entries = results.comparisons.get(stage, {}).get(main.target, {})
        differences = {
            metric: entry.from_baseline[baseline][learner]
            for metric, entry in entries.items()
            if learner in entry.from_baseline.get(baseline, {})
        }
        if not differences:
            return None
        first = next(iter(entries.values()))
        return AgainstBaseline(learner, baseline, stage, merit, first.n_subjects, first.rough, chosen, differences)

    values = compared(learner, 0)
    if values is not None and learner not in networks and (network := best(networks)):
        return replace(values, network=compared(network, len(networks) if chosen_on == stage else 0))
    return values
