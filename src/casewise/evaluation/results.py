"""All figures of a study from its table of predictions, as plain values for metrics.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from casewise.errors import CasewiseError, nearest
from casewise.evaluation.agreement import (
    band_of,
    between_readers,
    by_key,
    check_bands,
    check_readers,
    group_agreement,
    with_readers,
)
from casewise.evaluation.bootstrap import ROUGH_BELOW, Estimate, Plan
from casewise.evaluation.caveats import Caveat, lower_on_test, reader_caveats, response_caveats, stage_caveats
from casewise.evaluation.headline import headline
from casewise.evaluation.judges import Judge, class_names, judge_of, shared_truth
from casewise.evaluation.response import check_baseline, response
from casewise.evaluation.thresholds import Threshold
from casewise.predictions.table import STAGES, check, final_rows
from casewise.targets import kind_named

_SAMPLE = ["target", "case", "region", "image"]
_DIGITS = 6


def evaluate(
    predictions: pd.DataFrame,
    *,
    targets: Iterable[str] | None = None,
    main: str,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    bands: Mapping[str, float] | None = None,
    baseline: str | None = "first",
    responders: Sequence[float] = (50, 75, 90, 100),
    clear_at: float | None = None,
    readers: pd.DataFrame | None = None,
    subjects_known: bool = True,
    classes: Mapping[str, Sequence[str]] | None = None,
    positive: Mapping[str, str] | None = None,
    sensitivities: Sequence[float] = (0.9,),
) -> dict[str, Any]:
    """Return every figure of the study with its interval by resampling subjects; nothing in it is NaN.

    Args:
        predictions: the table (see `casewise.predictions.table.check`), with its scores and meta learners.
        targets: the targets and scores to judge, in order; by default all in the table.
        main: the target or score that bands, response and the headline are about. Bands, response and readers are of
            numbers only.
        bands: severity bands of the main score, name -> lower bound.
        baseline: 'first', or a visit's name; None leaves the response out.
        responders: the percent reductions that count as response.
        clear_at: see `casewise.evaluation.response.response`.
        readers: one row a case, target and reader (see `casewise.evaluation.agreement.check_readers`); without a
            column `subject` it is taken from the predictions, and cases that are not there are left out.
        subjects_known: whether `subject` tells people apart; where it does not, the note on intervals says so.
        classes: the names of each target's classes, in order; by default their numbers.
        positive: of two classes, the one that sensitivity is about; by default the first.
        sensitivities: the least sensitivities that operating points are to reach, beside Youden's.

    Returns:
        `metrics[stage][learner][target key][metric]` = {value, low, high, n_subjects, n_cases, rough[, reason]}, the
        keys being a target over all its regions ('composite') and in each ('composite[upper]');
        `comparisons[stage][target][metric]` as `compare` gives them; `classes[stage][learner][target]` as
        `casewise.evaluation.classification.describe_classes` gives them, of targets with classes;
        `response[stage][learner]`;
        `bands[stages][stage][learner]` and `bands[lower_bounds]`; `readers[between][all or stage][target key][pair]`
        and `readers[learners][stage][learner][target key][reader]`; `main`, the headline
        (see `casewise.evaluation.headline`), whose learner is chosen out of fold where there is such a stage; `notes`,
        caveats (see `casewise.evaluation.caveats`).
    """
    plan = Plan(resamples, confidence, seed)
    rows = final_rows(check(predictions))
    known = [str(target) for target in rows["target"].unique()]
    wanted = list(targets) if targets is not None else known
    for target in [main, *wanted]:
        if target not in known:
            raise CasewiseError(
                f"evaluation: nobody predicted '{target}'; there are {', '.join(known)}.{nearest(target, known)}"
            )
    wanted += [main] if main not in wanted else []
    rows = rows[rows["target"].isin(wanted)]
    judges = {
        str(target): judge_of(
            own, (classes or {}).get(target), (positive or {}).get(target), sensitivities=sensitivities
        )
        for target, own in rows.groupby("target", sort=False)
    }
    classed = class_names(judges)
    if main in classed:
        bands = baseline = None
    if baseline is not None:
        check_baseline(rows["visit"], baseline)
    notes: list[Caveat] = []
    told: dict[str, Any] = {
        "metrics": {},
        "comparisons": {},
        "classes": {},
        "response": {},
        "bands": {},
        "readers": {},
    }
    if bands is not None:
        told["bands"] = {"lower_bounds": check_bands(bands), "stages": {}}
    if readers is not None:
        if "subject" not in readers.columns:
            subjects = rows.drop_duplicates("case").set_index("case")["subject"]
            readers = readers[readers["case"].isin(subjects.index)]
            readers = readers.assign(subject=readers["case"].map(subjects))
        readers = check_readers(readers, targets=known)
        readers = readers[~readers["target"].isin(classed)]
        told["readers"] = {"between": {"all": between_readers(readers, plan)}, "learners": {}}
    for stage in (stage for stage in STAGES if (rows["stage"] == stage).any()):
        part = shared_truth(rows[rows["stage"] == stage])
        scored = part[part["y_true"].notna()]
        if readers is not None and part["target"].isin(readers["target"].unique()).any():
            ours = readers[readers["target"].isin(part["target"].unique())]
            told["readers"]["between"][stage] = between_readers(ours, plan, only_cases=set(part["case"]))
            told["readers"]["learners"][stage] = with_readers(part, ours, plan)
            shared = not part.merge(ours[["case", "target"]].drop_duplicates()).empty
            notes += reader_caveats(any(told["readers"]["learners"][stage].values()), shared, stage)
        if scored.empty:
            notes.append(Caveat("stage_without_truth", stage=stage))
            continue
        notes += stage_caveats(part, scored, stage, wanted, classed)
        told["metrics"][stage], told["comparisons"][stage], blocks = _judge(scored, wanted, plan, judges)
        if classed:
            told["classes"][stage] = blocks
        if main in classed:
            continue
        cases = _one_row_a_case(part[part["target"] == main])
        if cases is None:
            continue
        if bands is not None:
            told["bands"]["stages"][stage] = _bands(cases[cases["y_true"].notna()], bands, plan)
        if baseline is not None:
            told["response"][stage] = _response(cases, plan, baseline, responders, clear_at)
            notes += response_caveats(next(iter(told["response"][stage].values())), stage)
    if main not in classed and (rows.loc[rows["target"] == main, "region"] != "").any():
        notes.append(Caveat("outcome_by_region", target=main))
    if not told["metrics"]:
        notes.append(Caveat("nothing_judged"))
    kind = judges[main].kind
    told["main"] = headline(told["metrics"], main, kind, notes)
    notes += lower_on_test(told["metrics"], main, told["main"]["learner"], kind_named(kind).merit)
    notes.append(
        Caveat(
            "intervals",
            confidence=confidence,
            resamples=resamples,
            seed=seed,
            subjects_known=subjects_known,
            rough_below=ROUGH_BELOW,
        )
    )
    notes += [Caveat("macro_means")] if told["classes"] else []
    told["notes"] = notes
    return dict(plain(told))


def _judge(
    scored: pd.DataFrame, wanted: list[str], plan: Plan, judges: Mapping[str, Judge]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the metrics of every learner and key, the learners compared, and what is drawn of targets with classes."""
    metrics: dict[str, Any] = {str(learner): {} for learner in scored["model"].unique()}
    comparisons: dict[str, Any] = {}
    blocks: dict[str, Any] = {learner: {} for learner in metrics}
    order = {target: number for number, target in enumerate(wanted)}
    scored = scored.sort_values("target", key=lambda names: names.map(order), kind="stable")
    for key, own in by_key(scored):
        target = str(own["target"].iloc[0])
        judged = judges[target].judge(own, plan, whole=key == target)
        for learner, figures in judged.metrics.items():
            metrics[learner][key] = figures
        for learner, block in judged.blocks.items():
            blocks[learner][key] = block
        comparisons |= {key: judged.comparison} if judged.comparison else {}
    return metrics, comparisons, blocks


def _one_row_a_case(part: pd.DataFrame) -> pd.DataFrame | None:
    """Return a case-level target's rows, images averaged; None where the target stands in regions."""
    if (part["region"] != "").any():
        return None
    if not part.duplicated(["model", "case"]).any():
        return part
    keys = ["model", "case", "subject", "visit"]
    return part.groupby(keys, sort=False)[["day", "y_true", "y_pred"]].mean().reset_index()


def _bands(cases: pd.DataFrame, bands: Mapping[str, float], plan: Plan) -> dict[str, Any]:
    return {
        str(learner): group_agreement(
            band_of(part["y_true"].to_numpy(dtype=float), bands),
            band_of(part["y_pred"].to_numpy(dtype=float), bands),
            part["subject"].to_numpy(),
            plan,
            n_groups=len(bands),
        )
        for learner, part in cases.groupby("model", sort=False)
    }


def _response(
    cases: pd.DataFrame, plan: Plan, baseline: str, thresholds: Sequence[float], clear_at: float | None
) -> dict[str, Any]:
    return {
        str(learner): response(part, plan, baseline=baseline, thresholds=thresholds, clear_at=clear_at)
        for learner, part in cases.groupby("model", sort=False)
    }


def plain(value: Any) -> Any:
    """Return plain values for JSON: floats of six digits, estimates as mappings."""
    if isinstance(value, Estimate):
        return plain(value.as_json())
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Threshold):
        return float(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{_DIGITS}g}")
    return int(value) if isinstance(value, np.integer) else value
