"""What a clinician reads first: a few plain sentences and four figures. Every number is computed or cited here."""

from __future__ import annotations

from typing import Any

from casewise.report.context import ReportContext, is_number
from casewise.report.formatting import digits_for, interval, listed, number, signed
from casewise.report.sections import per_source as within
from casewise.report.sections.failures import failures
from casewise.report.sections.measures import measure_of
from casewise.report.sections.tables import Cell, responder_name
from casewise.report.sections.terminology import Words, judged_on

# figures of the named classes alone, which naming one class for everybody can lead in
OF_DECISIONS = ("accuracy", "balanced_accuracy", "f1", "kappa", "kappa_quadratic", "mae", "precision", "recall")
SIDES = {"test": "On the test set", "oof": "Out of fold", "external": "On the external cohort"}


def sentences(material: ReportContext) -> list[tuple[str, str]]:
    """Plain words, each with a head: how far off, how well it agrees, response, where it fails, who is shown."""
    words = Words(material)
    found = [
        (f"Within each {within.column(material)}.", within.sentence(material) if within.is_mixed(material) else ""),
        ("How far off.", _accuracy(material, words)),
        ("How well it agrees.", _agreement(material, words)),
        _groups(material, words),
        ("Where it fails.", failures(material)),
        ("Which model this is.", choice(material)),
    ]
    return [(head, text) for head, text in found if text]


def _accuracy(material: ReportContext, words: Words) -> str:
    rows = material.chosen
    mae = material.metric(material.stage, material.learner, "mae")
    if rows.empty:
        return "No prediction of the main outcome has a recorded value, so nothing can be judged."
    error = (rows["y_pred"] - rows["y_true"]).abs()
    where = judged_on(material, words, "value")
    value, bounds = mae["value"] if mae else float(error.mean()), interval(mae, words.digits, words=True)
    low, high = material.range_of(material.study.primary_outcome)
    told = f" ({words.confidence} interval {bounds})" if bounds else ""
    half, most = (number(float(error.quantile(share)), words.digits) for share in (0.5, 0.9))
    return (
        f"{where} the model is off by {words.points(value)} on average{told}, on a scale of {low:g} to {high:g}. "
        f"Half of the {words.noun}s are within {half} points of the physician, nine of ten within {most}."
    )


def _agreement(material: ReportContext, words: Words) -> str:
    ccc, bias = (material.metric(material.stage, material.learner, name) for name in ("ccc", "bias"))
    parts = []
    if ccc:
        bounds = interval(ccc, 2, words=True)
        told = f", interval {bounds}" if bounds else ""
        parts.append(
            f"The concordance with the physician (CCC) is {number(ccc['value'], 2)}{told}; 1 is perfect, 0 is none."
        )
    if bias and is_number(bias.get("low")) and is_number(bias.get("high")):
        bounds = f"{signed(bias['low'], words.digits)} to {signed(bias['high'], words.digits)}"
        if bias["low"] <= 0 <= bias["high"]:
            parts.append(f"No steady over- or underestimation is seen (mean difference {bounds} points).")
        else:
            way = "higher" if bias["value"] > 0 else "lower"
            parts.append(
                f"On average it scores {words.points(abs(bias['value']))} {way} than the physician (interval {bounds})."
            )
    return " ".join(parts)


def _groups(material: ReportContext, words: Words) -> tuple[str, str]:
    """Severity bands and response, in one sentence each, under a head that names what there is."""
    told = {"Bands": _bands(material, words), "Response": _response(material)}
    there = [name for name, text in told.items() if text]
    return f"{listed(there).capitalize()}.", " ".join(told[name] for name in there)


def _bands(material: ReportContext, words: Words) -> str:
    bands = (material.metrics.get("bands") or {}).get("stages", {}).get(material.stage, {}).get(material.learner)
    if not bands or not is_number(bands.get("agreement", {}).get("value")):
        return ""
    names = list(material.metrics["bands"]["lower_bounds"])
    physician, model = _groups_used(bands)
    if len(physician | model) == 1:
        return f"All {words.noun}s are in one band ({names[min(model)]}) by both; the bands cannot be judged here."
    why = _kappa(bands)
    if len(model) == 1:
        why = f"; the model puts all {words.noun}s in one band ({names[min(model)]})"
    elif len(physician) == 1:
        why = f"; the physician’s are all in one band ({names[min(physician)]})"
    share = 100 * bands["agreement"]["value"]
    return f"{share:.0f} % of the {words.noun}s fall into the physician’s severity band, {listed(names, 'or')}{why}."


def _response(material: ReportContext) -> str:
    told = material.metrics.get("response", {}).get(material.stage, {}).get(material.learner, {})
    found = {k: v for k, v in (told.get("responders") or {}).items() if is_number(v.get("agreement", {}).get("value"))}
    if not found:
        return ""
    threshold = "75" if "75" in found else list(found)[len(found) // 2]
    physician, model = _groups_used(found[threshold])
    if len(physician | model) == 1:
        which = "Every" if model == {1} else "No"
        return f"{which} later visit had fallen by {threshold} %, by either; response cannot be judged here."
    name = responder_name(material, threshold)
    also = f" ({name})" if not name[0].isdigit() else ""
    why = _kappa(found[threshold])
    if len(model) == 1:
        why = f"; the model sees {'all' if model == {1} else 'none'} of them fallen so far"
    elif len(physician) == 1:
        why = f"; the physician saw {'all' if physician == {1} else 'none'} of them fallen so far"
    few = ", judged on fewer than ten subjects" if told.get("rough") else ""
    share = 100 * found[threshold]["agreement"]["value"]
    return (
        f"Whether the score has fallen by {threshold} % from baseline{also}, model and physician judge alike at "
        f"{share:.0f} % of the later visits{why}{few}."
    )


def _groups_used(found: dict[str, Any]) -> tuple[set[int], set[int]]:
    """The groups that the physician and that the model put any case in."""
    rows = found["confusion"]
    cells = [(i, j) for i, row in enumerate(rows) for j, count in enumerate(row) if count]
    return {i for i, _ in cells}, {j for _, j in cells}


def _kappa(found: dict[str, Any]) -> str:
    kappa = found.get("kappa")
    if not kappa or not is_number(kappa.get("value")):
        return ""
    bounds = interval(kappa, 2, words=True)
    return f" (kappa {number(kappa['value'], 2)}{', interval ' + bounds if bounds else ''})"


def choice(material: ReportContext) -> str:
    """Which learner is shown and why, and who cannot be told apart from the best."""
    if len(material.learners) < 2:
        count = sum(job["model"] == material.learner for job in material.jobs)
        networks = f", as {count} networks on different training parts" if count > 1 else ""
        return f"One model was trained: {material.learner}{networks}."
    if material.stages == ["test", "oof"]:
        why = "the test set took no part in that choice"
    else:
        why = "it was chosen on the same cases that it is judged on, which flatters it a little"
    judged = "out-of-fold " if "oof" in material.stages else ""
    merit = "CCC" if material.kind == "regression" else measure_of(material.merit).words
    if within.is_mixed(material):
        name = within.column(material)
        return (
            f"Of {len(material.learners)} learners this page shows {material.learner}, chosen by the mean over each "
            f"{name} of its {merit} there; {why}. Learners are not compared on pooled figures."
        )
    chosen = (
        f"Of {len(material.learners)} learners this page shows {material.learner}, whose {judged}{merit} is the best"
    )
    return f"{chosen}; {why}. {comparison(material, material.stage)}".strip()


def comparison(material: ReportContext, stage: str, metric: str = "", most: int = 6) -> str:
    """Who has the best figure of a stage, and who cannot be told apart from it; never a winner inside the noise."""
    metric = metric or ("mae" if material.kind == "regression" else material.merit)
    told = material.metrics.get("comparisons", {}).get(stage, {}).get(material.study.primary_outcome, {}).get(metric)
    if not told or not told.get("differences") or within.is_mixed(material, stage):
        return ""
    best, alike = told["best"], [name for name in told["not_told_apart"] if name != told["best"]]
    count = len(told["differences"])
    small = {"mae": "smallest mean error", "mse": "smallest MSE"}.get(metric, f"highest {metric.upper()}")
    if material.kind != "regression":
        measure = measure_of(metric)
        small = f"{'smallest' if measure.smaller else 'highest'} {measure.words}"
    begin = f"{SIDES.get(stage, stage)}, {best} has the {small}"
    only = material.classed(stage, best).get("names_only")
    if only and metric in OF_DECISIONS:
        begin += f" (it names every {Words(material).noun} {only.replace('_', ' ')})"
    if not alike:
        return f"{begin}, and the interval of its lead over every other learner leaves 0 out."
    few = " from fewer than ten subjects" if told.get("rough") else ""
    if len(alike) == count:
        others = "the other cannot" if count == 1 else f"none of the {count} others can"
        return f"{begin}, but {others} be told apart from it{few}: no learner is shown to be the best."
    left = len(alike) - most
    names = listed(alike) if left < 2 else f"{', '.join(alike[:most])} and {left} more"
    return f"{begin}, but {len(alike)} of {count} others cannot be told apart from it: {names}."


def tiles(material: ReportContext) -> list[tuple[str, Cell, str]]:
    """Four figures to remember: name, figure, unit or remark."""
    words = Words(material)
    stage, learner = material.stage, material.learner
    found: list[tuple[str, Cell, str]] = []
    for metric, title, unit in (("mae", "Mean error (MAE)", "points"), ("ccc", "Concordance (CCC)", "of 1")):
        figure = material.metric(stage, learner, metric)
        if figure:
            digits = digits_for(material.study, metric, material.study.primary_outcome)
            found.append((title, Cell(number(figure["value"], digits), interval(figure, digits, words=True)), unit))
    rows = material.chosen
    if not rows.empty:
        half, most = (
            number(float((rows["y_pred"] - rows["y_true"]).abs().quantile(q)), words.digits) for q in (0.5, 0.9)
        )
        found.append((f"Half of the {words.noun}s within", Cell(half, f"nine of ten within {most}"), "points"))
    same = (material.metrics.get("bands") or {}).get("stages", {}).get(stage, {}).get(learner, {}).get("agreement")
    if same and is_number(same.get("value")):
        bounds = {k: 100 * same[k] for k in ("low", "high") if is_number(same.get(k))}
        text = interval(bounds, 0, words=True)
        found.append(("Same severity band", Cell(f"{100 * same['value']:.0f} %", text and f"{text} %"), ""))
        return found
    low, high = (material.metric(stage, learner, name) for name in ("loa_low", "loa_high"))
    if low and high:
        text = f"{signed(low['value'], words.digits)} to {signed(high['value'], words.digits)}"
        found.append(("95 % of differences", Cell(text, "model − physician"), "points"))
    return found
