"""The effects of a treatment: the change over time by arm, by the reference and by the model."""

from __future__ import annotations

from casewise.evaluation.figures import Estimate
from casewise.evaluation.results import ResponseRates, Trial
from casewise.evaluation.trial import FEWEST_AT_VISIT, OUTCOMES
from casewise.report.blocks import Block, Cell, Facts, Fold, Row, Section, Table, Text
from casewise.report.context import RESPONSE_SIDES, ReportContext, terms_of
from casewise.report.formatting import MISSING, capital, counted, display_name, plain, response_name
from casewise.report.sections.agreement import responder_cells
from casewise.report.tables import figure_cell
from casewise.study.learners import learner_name

HEADS = ("Reference", "Model", "Model − reference")
EFFECT = (
    "{side}. Effect on {outcome} in points: the change since {baseline} minus that in the arm {control}; below 0, the"
    " score fell more; in parentheses the subjects of both arms. Brackets: {confidence} intervals, each visit on its"
    " own."
)
CHANGE = "{side}. Change of {outcome} in points since {baseline}. Brackets: {confidence} intervals."
RESPONDERS = "{side}. Responders since {baseline}, reference / model; in parentheses the subjects with both changes."
RISKS = (
    "{side}. Responders in the arm minus those in {control}, with Newcombe's {confidence} intervals; above 0, more"
    " responded in the arm; in parentheses the subjects of both arms."
)
HOW = (
    "It is an effect of the treatment only where the arms were assigned at random. Reference and model: a mixed model"
    " of the score, a mean for each visit in each arm, and random effects of each subject, with intervals robust by"
    " subject; missing visits are assumed to be missing at random. The last column is paired: changes of both scores"
    " in those who have the visit, with intervals of t-tests. Where subjects drop out, it is not exactly the difference"
    " of the other columns. An interval that includes 0 does not show that both find the same effect."
)
WHY = {
    "too_few": "no figures: fewer than {few} subjects of an arm have the baseline, or a visit after it",
    "singular": "no figures: the fit of its model is singular, since the subjects do not differ beyond their visits",
    "constant": "no figures: the scores do not vary",
}


def section(context: ReportContext) -> Section | None:
    """Effects and changes of each stage, the reported one first; None without arms."""
    trials = context.metrics.trials or {}
    blocks: list[Block] = []
    for stage in (stage for stage in dict.fromkeys([context.stage, *RESPONSE_SIDES]) if stage in trials):
        of_stage = blocks_of(context, trials[stage], stage)
        blocks += [Fold(capital(RESPONSE_SIDES[stage]), of_stage)] if blocks else of_stage
    return Section("trial", "Effects of the treatment", [*blocks, Text(HOW, note=True)]) if blocks else None


def blocks_of(context: ReportContext, entry: Trial, stage: str) -> list[Block]:
    """The table of effects, the table of changes and the facts of a stage."""
    digits, names = terms_of(context).digits + 1, list(entry.subjects)
    texts = {"side": capital(RESPONSE_SIDES[stage]), "baseline": entry.baseline, "control": plain(entry.control)}
    texts |= {"confidence": terms_of(context).confidence, "outcome": display_name(context.study, context.outcome)}
    effects = [
        Row(
            f"{visit.visit}: {plain(arm)} ({visit.subjects[arm] + visit.subjects[entry.control]})",
            cells(figures, digits),
        )
        for visit in entry.visits
        for arm, figures in visit.effect.items()
    ]
    changes = [
        Row(f"{visit.visit}: {plain(arm)} ({visit.subjects[arm]})", cells(figures, digits))
        for visit in entry.visits
        for arm, figures in visit.change.items()
    ]
    responders = [
        Row(f"{visit.visit}: {plain(arm)} ({rates.n_subjects})", responder_cells(rates))
        for visit in entry.visits
        for arm, by_visit in entry.responders.items()
        if (rates := by_visit.get(visit.visit))
    ]
    risks = [
        Row(f"{visit.visit}: {plain(arm)}, {side} ({risk.n_subjects})", _risk_cells(risk, side))
        for visit in entry.visits
        for arm, by_visit in entry.risk_differences.items()
        if (risk := by_visit.get(visit.visit))
        for side in OUTCOMES[:2]
    ]
    named = [response_name(context.study, f"{percent:g}") for percent in context.study.evaluation.responders]
    blocks = [
        Table(["Visit, arm and subjects", *HEADS], effects, EFFECT.format(**texts)),
        Table(["Visit, arm and subjects", *HEADS], changes, CHANGE.format(**texts)),
        Table(["Visit, arm and subjects", *named], responders, RESPONDERS.format(**texts)),
        Table(["Visit, arm, score and subjects", *named], risks, RISKS.format(**texts)),
    ]
    facts = [("Reported model", learner_name(context.learner))]
    facts += [(f"Subjects, {plain(name)}", f"{count:,}") for name, count in entry.subjects.items()]
    if len(names) == 1:
        facts.append(("Effect", "none: the subjects of these cases are in one arm"))
    for outcome, head in zip(OUTCOMES, HEADS, strict=True):
        if code := entry.problems.get(outcome):
            facts.append((head, WHY[code].format(few=FEWEST_AT_VISIT)))
        elif outcome in entry.slopes:
            facts.append((f"Random effects, {head}", f"intercept{' and slope' if entry.slopes[outcome] else ''}"))
    for code, noun in (("no_arm", "subject"), ("no_baseline", "subject"), ("visits", "visit")):
        if count := entry.left_out.get(code):
            why = {"no_arm": "no arm", "no_baseline": "no score at the baseline", "visits": "too few subjects"}[code]
            facts.append((f"Left out: {why}", counted(count, noun)))
    return [*blocks, Facts(facts)]


def cells(figures: dict[str, Estimate], digits: int) -> list[Cell]:
    """The cells of the reference, the model and their difference; a dash where the fit has no figure."""
    return [figure_cell(figures[name], digits, sign=True) if name in figures else Cell(MISSING) for name in OUTCOMES]


def _risk_cells(risk: ResponseRates, side: str) -> list[Cell]:
    """The differences of responders by one score, in percentage points, one cell per threshold."""
    return [figure_cell(by_side[side], 0, percent=True, sign=True) for by_side in risk.rates.values()]
