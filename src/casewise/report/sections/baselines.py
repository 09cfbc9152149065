"""How the shown learner compares with the best baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casewise.metrics.registry import metric_of
from casewise.report.target_kind_sections import kind_report
from casewise.study.learners import is_baseline, learner_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from casewise.study.schema import Study


def against(study: Study, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Values for one sentence; None where nothing was evaluated.

    `code` is `better`, `worse` or `open` (the interval of the difference includes 0) for the shown learner beside the
    baseline, `same` where both have the same figures in every resample, `few` with so few subjects that no difference
    is stated, `unknown` if the difference has no interval for another reason, `itself` if the shown learner is a
    baseline, `off` with the stated reason, and `absent` where none was fitted. `network` has the values of the best
    network, if the shown learner combines several; `chosen` is the number of networks among which it was chosen on the
    cases that are compared, else 0. `pooled`: the figures are those of all cases, while the headline is
    the mean within the sources that were left out.
    """
    main = metrics.get("main") or {}
    if main.get("learner") is None:
        return None
    if is_baseline(main["learner"]):
        return {"code": "itself", "what": learner_named(main["learner"]).title(study)}
    compared = metrics.get("against_baselines")
    if compared is None:
        return {"code": "off", "reason": study.baselines.off} if study.baselines.off else {"code": "absent"}
    return _values(study, metrics, compared) | {
        "network": _values(study, metrics, compared["network"]) if compared.get("network") else None
    }


def _values(study: Study, metrics: Mapping[str, Any], compared: Mapping[str, Any]) -> dict[str, Any]:
    main = metrics["main"]
    differences = compared["differences"]
    name = kind_report(main["kind"]).compared
    name = name if name in differences else next(iter(differences))
    difference = differences[name]
    stage = metrics["metrics"][compared["stage"]]
    figures = {key: stage[compared[key]][main["target"]][name] for key in ("learner", "baseline")}
    gain = difference["difference"] * (1 if metric_of(name).larger_is_better else -1)
    code = ""
    if compared["rough"]:
        code = "few"
    elif difference["low"] is None:
        code = "unknown"
    elif difference["low"] == difference["high"] == 0:
        code = "same"
    elif difference["indistinguishable"]:
        code = "open"
    return {
        "code": code or ("better" if gain > 0 else "worse"),
        "learner": compared["learner"],
        "baseline": compared["baseline"],
        "what": learner_named(compared["baseline"]).title(study),
        "metric": name,
        "figure": figures["learner"],
        "beside": figures["baseline"],
        "difference": difference,
        "subjects": compared["n_subjects"],
        "chosen": compared["chosen"],
        "pooled": compared["stage"] == "oof" and bool(metrics.get("site_means")),
    }
