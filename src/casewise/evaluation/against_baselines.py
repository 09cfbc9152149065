"""The headline's learner against the best baseline, by the intervals that hold for all pairs of learners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casewise.study.learners import baselines_among, is_baseline
from casewise.targets import kind_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def against_baselines(results: Mapping[str, Any], *, networks: Sequence[str] = ()) -> dict[str, Any] | None:
    """The differences of the headline's learner from the best baseline; None without one of them.

    If the learner is none of the `networks`, it combines several; the best network by the merit is then compared as
    well. Both this network and the baseline are the best by the merit out of fold (or at the stage, if there is nothing
    out of fold). The intervals are those of `results["comparisons"]`: they hold for all pairs of learners at once, so
    also for the pair that was chosen.

    Returns:
        `learner`, `baseline`, `stage`, `merit`, `n_subjects`, `rough`, `chosen`, and `differences[metric]` =
        {difference, low, high, indistinguishable}: the learner's figure minus the baseline's. `chosen` is the number of
        networks among which the learner was chosen on the cases that are compared, else 0. `network`: the same of the
        best network.
    """
    main = results["main"]
    stage, target, learner = str(main.get("stage")), main["target"], main.get("learner")
    chosen_on = "oof" if results["metrics"].get("oof") else stage
    merit = kind_named(main["kind"]).merit

    def best(names: Sequence[str]) -> str | None:
        values = {
            name: results["metrics"].get(chosen_on, {}).get(name, {}).get(target, {}).get(merit, {}).get("value")
            for name in names
        }
        defined = {name: value for name, value in values.items() if value is not None}
        return max(defined, key=lambda name: defined[name]) if defined else None

    baseline = best(baselines_among(results["metrics"].get(stage, {})))
    if learner is None or is_baseline(learner) or baseline is None:
        return None

    def compared(learner: str, chosen: int) -> dict[str, Any] | None:
        entries = results["comparisons"].get(stage, {}).get(target, {})
        differences = {
            metric: entry["from_baseline"][baseline][learner]
            for metric, entry in entries.items()
            if learner in entry["from_baseline"].get(baseline, {})
        }
        if not differences:
            return None
        first = next(iter(entries.values()))
        return {
            "learner": learner,
            "baseline": baseline,
            "stage": stage,
            "merit": merit,
            "n_subjects": first["n_subjects"],
            "rough": first["rough"],
            "chosen": chosen,
            "differences": differences,
        }

    values = compared(learner, 0)
    if values is not None and learner not in networks and (network := best(networks)):
        values["network"] = compared(network, len(networks) if chosen_on == stage else 0)
    return values
