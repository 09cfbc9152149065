"""The sentences of the report that depend on the result: one function each, with its condition.

Everything else on the page is a number in a table or figure, or a fixed caption. `KINDS` is the whole list. A statement
is about the reported model, and it must stay true when a class is missing, a group is tiny or nothing was learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from casewise.audit.findings import Audit
from casewise.audit.sentences import untested
from casewise.console import duration
from casewise.evaluation.headline import FITTED
from casewise.evaluation.intervals import ROUGH_BELOW
from casewise.evaluation.results import AlteredAnswers, AlteredNumbers, Note
from casewise.evaluation.robustness import MOST_CHANGED, MOST_MOVED, affects
from casewise.predictions.table import CHOOSING
from casewise.report.caveats import external_result, within_values
from casewise.report.context import EXTERNAL, SIDES, ReportContext, counted_cases, terms_of, unlearned
from casewise.report.formatting import MISSING, capital, class_name, counted, listed, number
from casewise.report.guess import beside_guess, commonest
from casewise.report.sections import audit as audit_section
from casewise.report.sections.counterfactuals import alteration
from casewise.report.tables import SHARE_FREE, kind_report, verdict_beside
from casewise.splits.learnable import missing_classes
from casewise.study.learners import learner_name, the_learner
from casewise.study.weight_origins import origins_sentence, unknown_origin

# A flag stands below the title. The other levels are marks of the fourth card.
MARKS = {"bad": "✗", "warning": "!", "good": "✓", "open": "?", "note": "i"}
MEANINGS = {"bad": "against it", "warning": "with caution", "good": "for it", "open": "not known", "note": "note"}


@dataclass(frozen=True)
class Statement:
    """A sentence that depends on the result.

    Attributes:
        id: its kind, a name of `KINDS`.
        level: `flag`, `bad`, `warning`, `good`, `open` or `note`.
        text: the sentence.
        link: the section with the evidence; empty without one.
    """

    id: str
    level: str
    text: str
    link: str = ""

    @property
    def mark(self) -> str:
        """The sign before the sentence."""
        return MARKS.get(self.level, "")

    @property
    def meaning(self) -> str:
        """The sign and what it means; empty without one."""
        return f"{self.mark} {MEANINGS[self.level]}" if self.mark else ""


# Predictions that move by this share of their change in one direction rise or fall.
ONE_WAY = 0.8
# A class is hardly found where the interval of its recall ends below this.
HARDLY = 0.25
# So many cases of a class without a correct prediction are named whatever their interval is.
NONE_OF = 5
# The level of a statement, its sentence, and its link; None where it does not hold.
Found = tuple[str, str, str] | None


def statements(context: ReportContext) -> list[Statement]:
    """The statements that hold for a run, the gravest first."""
    holding = [Statement(name, *statement) for name, find in KINDS.items() if (statement := find(context))]
    order = ["flag", *MARKS]
    return sorted(holding, key=lambda statement: order.index(statement.level))


def synthetic(context: ReportContext) -> Found:
    pictures = terms_of(context).picture
    text = f"Synthetic {pictures}s: these figures say nothing about patients."
    return ("flag", text, "") if context.study.synthetic else None


def nothing_learned(context: ReportContext) -> Found:
    """The reported model predicts nearly the same for every case, or it or its networks are not better than a guess."""
    facts = unlearned(context)
    if facts is None:
        beside = beside_guess(context)
        if beside is None or beside.verdict == "better":
            return _beside_commonest(context)
        level = "open" if beside.rough or beside.verdict == "untested" else "bad"
        twice = " (a rough interval counts at twice its width)" * beside.rough
        return level, f"{capital(the_learner(context.learner))} is not shown to be better than a guess{twice}.", ""
    name = the_learner(context.learner)
    if facts.constant:
        where = "On the validation set" if context.holdout else f"In {facts.count} of {counted(facts.of, 'fold')}"
        same = f"{where}, {name} predicts nearly the same for every case"
        return "flag", f"{same}: it did not learn to distinguish cases there.", "training"
    count = f"{facts.count} of {counted(facts.of, 'inner network' if facts.inner else 'network')}"
    whose = {"own": f" of {name}", "combined": f" that {name} uses", "study": " of this study"}[facts.whose]
    never = "never had a lower loss in training than a guess without images"
    text = f"{count}{whose} {'did on average no better than guessing' if facts.inner else never}."
    return "bad" if facts.whose == "study" else "flag", text, "training"


def _beside_commonest(context: ReportContext) -> Found:
    """The model is not shown to be right more often than the name of the commonest class; of grades kappa says it."""
    if not context.classes or kind_report(context.kind).ordered or context.by_site:
        return None
    figure, named = context.metric(context.stage, context.learner, "accuracy"), commonest(context)
    if figure is None or figure.value is None or len(named.classes) != 1:
        return None
    if verdict_beside(figure, named.share, "accuracy") == "better":
        return None
    name = class_name(context.study, context.outcome, named.classes[0])
    right, most = (context.write.text("accuracy", value, short=True) for value in (figure.value, named.share))
    bounds = context.write.bounds("accuracy", figure, words=True, short=True)
    text = f"Not shown to be right more often than always naming “{name}” ({right}"
    return "warning", f"{text}{f', {bounds}' if bounds else ''}, against {most}).", "classes"


def first_weights(context: ReportContext) -> Found:
    """Where first weights come from; above all if they may have been trained on the cases of the study."""
    text = origins_sentence(context.origins, context.study.unit)
    if unknown_origin(context.origins):
        return "flag", f"{text} If they were, the figures are too optimistic.", "training"
    return ("note", text, "training") if text else None


def external_cohort(context: ReportContext) -> Found:
    """How the model does on an external cohort, or that it was not tested on one."""
    entry = external_result(context.study, context.metrics, context.learner, context.stage)
    if entry is None and (context.predictions["stage"] == EXTERNAL).any():
        return "open", "The external cohort has no reference values to evaluate.", "external"
    if entry is None:
        text = f"Not tested on {context.study.unit}s of another hospital or source."
        return None if context.by_site else ("bad", text, "")
    write, metric = context.write, entry.metric
    bounds = write.bounds(metric, entry.figure, words=True, short=True)
    bounds = f" ({bounds}{', rough' * bool(entry.figure.rough)})" if bounds else ""
    text = f"On {context.study.external_name} ({counted_cases(context, context.rows(EXTERNAL, context.learner))}):"
    text += f" {write.phrase(metric)} {write.text(metric, entry.figure.value, short=True)}{bounds}"
    words = {"worse": "worse than", "better": "better than", "open": "no clear difference from", "same": "equal to"}
    of_shares = bool(context.classes) and metric not in SHARE_FREE and entry.inside is not None
    if entry.inside is not None:
        side = f"within each {context.site}" if context.by_site else SIDES[context.stage]
        here = write.text(metric, entry.inside, short=True)
        compared = "beside" if of_shares and entry.absent else words.get(entry.code, "not tested against")
        text += f", {compared} {here} {side}"
        text += "; shares of classes may differ" * (of_shares and not entry.absent)
    unlike = ", so that both cannot be compared" * (of_shares and entry.inside is not None)
    text += f"; no case there is {listed(entry.absent, 'or')}{unlike}" if entry.absent else ""
    level = {"worse": "flag", "better": "open" if of_shares else "good"}.get(entry.code, "open")
    level = "open" if of_shares and entry.absent else level
    return level, f"{text}.", "external"


def _external_confidence(context: ReportContext) -> Found:
    if (note := _note(context, "confident_outside")) is None:
        return None
    sure, right = (f"{100 * note[key]['external']:.0f} %" for key in ("confidence", "accuracy"))
    text = f"On the external cohort it is {sure} sure on average, where {right} of its predictions are right."
    return "bad", text, "external"


def unlike_training(context: ReportContext) -> Found:
    """How many external cases are further from the training cases than at least 19 of 20 held-out cases are."""
    if context.metrics.drift is None:
        return None
    figures = context.metrics.drift.learners.get(context.learner)
    if figures is None:
        return "open", "It is not known how many external cases are far from the training cases.", ""
    count, total = figures.outside.answers, counted(figures.external.answers, terms_of(context).noun)
    level = "bad" if _note(context, "external_outside") else "note"
    return level, f"{count:,} of {total} of {context.study.external_name} are far from the training cases.", "external"


def _subjects_apart(context: ReportContext) -> Found:
    """Whether the split keeps subjects apart; the pictures too, if the audit compared them."""
    if not context.study.subjects_known:
        text = f"{context.study.not_known}: the figures may be too optimistic."
        return "bad", text, ""
    codes = {finding["id"] for finding in (context.audit or {}).get("findings", [])}
    doubted = any(code.startswith(("twins-across", "subject-names", "subject-suffixes")) for code in codes)
    if context.cohort_images["subject"].is_unique and not doubted:
        compared = "no two were found to show the same picture" if context.audit else "this was not tested"
        text = f"Every image is of another subject, as the table states it; {compared}."
        return "note", text, "audit" if context.audit else ""
    if context.audit is None:
        return "good", "No subject is on both sides of the split.", ""
    if codes & {"twins-across-subjects", "twins-across-splits", "subjects-across-splits"}:
        return None  # an error of the audit says so
    if codes & {"subject-names", "subject-suffixes"}:
        text = "By their names in the table, no subject is on both sides of the split; some names may be of one person."
        return "open", text, "audit"
    return "good", "No subject, and no picture found, is on both sides of the split.", "audit"


def audited(context: ReportContext) -> Found:
    """The number of errors and warnings of the audit, and the first of them."""
    if context.audit is None:
        return "warning", "No audit was made: shortcuts to the reference were not looked for.", ""
    audit, accepted = Audit.from_json(context.audit), context.audit["accepted"]
    errors, warnings = audit.of("error"), audit.of("warning")
    if not errors and not warnings:
        if untested(audit.facts):
            return "open", "The audit could not test for shortcuts: too few subjects or too little variation.", "audit"
        notes = f", and {counted(len(audit.of('note')), 'note')}" if audit.of("note") else ""
        its = f"its tests use one image a {context.study.unit} and" if context.one_image_each else "it"
        text = f"The audit found no error and no warning{notes}; {its} cannot show that there is no shortcut."
        without = [str(item) for item in audit.facts.get("not_examined") or []]
        return "good", f"{text} Not tested: {listed(without)}." if without else text, "audit"
    gravest = errors or warnings
    targets = (None, context.outcome, *context.study.parts_of(context.outcome))
    own = [finding for finding in gravest if finding.figures.get("target") in targets]
    # of a column that no network sees, and that may follow from the disease, last
    first = next(
        (
            finding
            for finding in own
            if not audit_section.of_other_column(finding, context) and finding.id != "blank-images"
        ),
        (own or gravest)[0],
    )
    about, size = audit_section.about(first, audit), audit_section.size(first, audit)
    counts = [counted(len(findings), noun) for findings, noun in ((errors, "error"), (warnings, "warning")) if findings]
    text = f"Audit: {listed(counts)}. First: {about}{f' ({size})' if size != MISSING else ''}"
    text += f", accepted by the study: “{accepted[first.id].rstrip('.')}”" if first.id in accepted else ""
    return "bad" if errors else "warning", f"{text}.{within_values(context.study, context.metrics)}", "audit"


def altered(context: ReportContext) -> Found:
    """The largest effect on the reported model of alterations that should not matter."""
    figures = context.metrics.counterfactuals or {}
    own = figures.get(context.learner)
    if figures and own is None:
        return "open", "Altered images were tested for other learners, not for this model.", "altered-images"
    if not own:
        off = not context.study.evaluation.counterfactual_cases
        return ("open", "Altered images were not tested (`counterfactual_cases: 0`).", "") if off else None
    name, entry = max(own.items(), key=lambda item: (affects(item[1]), item[1].effect))
    if isinstance(entry, AlteredAnswers):
        where = " of the validation set" if context.holdout else " out of fold"
        where = where if context.stage == "test" else ""
        effect = f"{entry.changed} of {counted(entry.answers, 'prediction')}{where} change{_fewer_right(entry)}."
        lost, count, share = entry.lost
        if share / 2 >= MOST_CHANGED and share / 2 > (entry.share.value or 0.0):
            name_lost = class_name(context.study, context.outcome, lost)
            effect = f"{count} of {entry.before[lost]} predicted as {name_lost} become another class; in all, {effect}"
    else:
        rough = f", rough: {counted(entry.cases, 'case')}" * bool(entry.moved.rough)
        moved, shift = (number(abs(each.value or 0.0), terms_of(context).digits) for each in (entry.moved, entry.shift))
        way = "rise" if (entry.shift.value or 0.0) > 0 else "fall"
        one_way = abs(entry.shift.value or 0.0) >= ONE_WAY * (entry.moved.value or 0.0)
        effect = f"its predictions {way} by {shift}" if one_way else f"its predictions move by {moved}"
        effect += f" points on average{rough}"
        back = own.get(f"{name}_stretched")
        if isinstance(back, AlteredNumbers) and not affects(back):
            back_by = number(back.moved.value, terms_of(context).digits)
            effect += f"; by {back_by} where the image keeps its shape"
        effect += "."
    kinds = {key.removesuffix("_stretched"): key for key in reversed(own) if affects(own[key])}
    kinds.pop(name.removesuffix("_stretched"), None)
    effect += f" Also: {'; '.join(map(alteration, reversed(kinds.values())))}." if kinds else ""
    text = f"{capital(alteration(name))}: {effect}"
    figure = entry.share if isinstance(entry, AlteredAnswers) else entry.moved
    limit = MOST_CHANGED if isinstance(entry, AlteredAnswers) else MOST_MOVED * (entry.mae or 0.0)
    # few changes among few cases show nothing
    shown = not figure.rough and figure.high is not None and figure.high < limit
    return "warning" if affects(entry) else "good" if shown else "open", text, "altered-images"


def _fewer_right(entry: AlteredAnswers) -> str:
    """How many more or fewer of the answers are right after an alteration; empty without references."""
    if not entry.correct["of"]:
        return ""
    before = entry.correct["before"]
    if not (fewer := before - entry.correct["after"]):
        return f", and as many are right ({before:,})"
    return f", and {abs(fewer):,} {'fewer' if fewer > 0 else 'more'} are right"


def networks_left_out(context: ReportContext) -> Found:
    if note := _note(context, "networks_left_out"):
        names = listed([learner_name(name) for name in note["networks"]])
        return "bad", f"Could not be trained, and not in these results: {names}.", "training"
    if note := _note(context, "no_time_for_networks"):
        times = f"{duration(note['budget'])}, and about {duration(note['needed'])} would have been needed"
        return "open", f"No network was trained, only the baselines: there were {times}.", "training"
    return None


def _classes_missing(context: ReportContext) -> Found:
    missing = missing_classes(context.splits)
    return ("bad", f"{capital('; '.join(missing))}.", "") if missing else None


def _classes_not_found(context: ReportContext) -> Found:
    """All cases are of one class by the model, or it names few cases of a class, by the upper ends of the intervals."""
    if not context.classes:
        return None
    noun = terms_of(context).noun
    if only := _only_class(context, context.stage):
        return "flag", f"It predicts {only} for every {noun}.", ""
    texts, link = list[str](), "external"
    for stage, where in ((context.stage, ""), (EXTERNAL, f"on {context.study.external_name} ")):
        if only := _only_class(context, stage):
            texts.append(f"{where}it predicts {only} for every {noun}")
            continue
        hardly, none = _hardly_found(context, stage)
        found = [f"hardly finds {listed(hardly)}"] if hardly else []
        found += [f"finds {listed(none)}"] if none else []
        texts += [f"{where}it {' and '.join(found)}"] if found else []
        link = "classes" if found and stage == context.stage else link
    return ("bad", f"{capital('; '.join(texts))}.", link) if texts else None


def _only_class(context: ReportContext, stage: str) -> str:
    """The class that is predicted for every case, as within a sentence; empty if there are several."""
    only = context.constant_class(stage, context.learner)
    return class_name(context.study, context.outcome, only) if only else ""


def _hardly_found(context: ReportContext, stage: str) -> tuple[list[str], list[str]]:
    """The classes with few correct predictions by the upper end of the interval, and others with none of `NONE_OF`."""
    hardly, none = list[str](), list[str]()
    entry, noun = context.class_figures(stage, context.learner), terms_of(context).noun
    for name, count in zip(entry.names, entry.support, strict=True) if entry else ():
        own = context.metric(stage, context.learner, f"recall[{name}]")
        if own is None or own.value is None:
            continue
        of_class = class_name(context.study, context.outcome, name)
        sure = own.high is not None and own.high < HARDLY
        if own.value == 0 and (sure or count >= NONE_OF):
            none.append(f"none of {counted(count, noun)} of “{of_class}”")
        elif sure:
            hardly.append(f"“{of_class}” ({context.write.text('recall', own.value, short=True)})")
    return hardly, none


def apart_on_test(context: ReportContext) -> Found:
    """The figure of the test set lies beyond what chance explains from the one out of fold, on either side."""
    notes = (_note(context, code) for code in ("test_below_oof", "test_above_oof"))
    note = next((note for note in notes if note and note["learner"] == context.learner), None)
    if note is None:
        return None
    values = [note[side]["value"] for side in ("test", "oof")]
    tested, inside = (context.write.text(note["metric"], value, short=True) for value in values)
    text = f"Its {context.write.phrase(note['metric'])} is {tested} on the test set and {inside} out of fold"
    way = "lower" if values[0] < values[1] else "higher"
    return "bad", f"{text}: {way} by more than chance explains.", ""


def stopped_on_fold(context: ReportContext) -> Found:
    if context.stopped_on_validation:
        text = "The validation set stopped the training and is not held out: the figures are too optimistic."
        return "flag", text, "learners"
    if context.stopped_on != "fold" or context.stage != "oof":
        return None
    text = "Training stopped at the epoch that suited the predicted fold best: the figures are too optimistic."
    return "bad", text, ""


def few_subjects(context: ReportContext) -> Found:
    subjects = int(context.headline_rows["subject"].nunique())
    if not 0 < subjects < ROUGH_BELOW or not context.study.subjects_known:
        return None
    consequence = "intervals are rough" if subjects > 2 else "there are no intervals"
    return "note", f"{counted(subjects, 'subject')} {'is' if subjects == 1 else 'are'} few: {consequence}.", ""


def chosen(context: ReportContext) -> Found:
    """How the reported model was chosen among several."""
    how = str(context.metrics.main.chosen_on)
    # combinations with fitted weights may have no figure where the model was chosen
    count = sum(how not in CHOOSING or bool(context.metric(how, name, context.merit)) for name in context.candidates)
    by = context.write.phrase(context.merit)
    words = {
        "stated": "The reported model follows from a rule that was fixed before, not from these results.",
        "oof": f"Chosen among {count} out of fold by {by}, without the test set.",
        "validation": f"Chosen among {count} on the validation set by {by}, without the test set.",
        "inner folds": "The reported model was chosen in inner folds, on training subjects only.",
    }
    if count < 2 or context.metrics.main.learner != context.learner or how not in words:
        return None
    fitted = (
        " Its weights may make these figures and comparisons too good; by how much was not measured"
        if weights_fitted(context)
        else ""
    )
    fitted += f"{f'; {unlike}' if (unlike := unlike_folds(context)) else ''}." if fitted else ""
    return "note", words[how] + fitted, "learners" if fitted else ""


def weights_of(context: ReportContext) -> list[dict[str, float]]:
    """The weights of the learners that the reported model combines, for each part of the outcome."""
    return [dict(fit.get("weights") or {}) for fit in _fits_of(context)]


def _fits_of(context: ReportContext) -> list[dict[str, Any]]:
    """The fitted weights of the reported model, for each part of the outcome; empty for models that have none."""
    fits = context.stackers.get(context.learner) or {}
    return [fits[name] for name in context.study.parts_of(context.outcome) if isinstance(fits.get(name), dict)]


def unlike_folds(context: ReportContext) -> str:
    """Of how many folds the weights are equal where those for new cases are not, or the other way; else empty."""
    pairs = [
        (_are_equal(fit["weights"]), _are_equal(fold))
        for fit in _fits_of(context)
        for fold in fit.get("weights_by_fold", {}).values()
    ]
    unlike = [own for new, own in pairs if own != new]
    if not unlike:
        return ""
    kind = "fitted and equal" if len(set(unlike)) > 1 else "equal" if unlike[0] else "fitted"
    if len(_fits_of(context)) > 1:
        return f"the weights of some folds are {kind}, unlike those for new cases"
    return f"the weights of {len(unlike)} of {len(pairs)} folds are {kind}, unlike those for new cases"


def _are_equal(weights: Mapping[str, float]) -> bool:
    """Whether all learners that have a part in a combination have the same part."""
    return len({round(weight, 6) for weight in weights.values() if weight}) == 1


def weights_fitted(context: ReportContext) -> bool:
    """Whether unequal weights rest on networks that were trained on the cases of a fold."""
    of_folds = (fit.get("weights_by_fold", {"new": fit.get("weights", {})}) for fit in _fits_of(context))
    unequal = any(len(set(weights.values())) > 1 for by_fold in of_folds for weights in by_fold.values())
    return context.stage == "oof" and context.learner.startswith(FITTED) and unequal


def weights_differ(context: ReportContext) -> str:
    """How many folds have other weights than new cases; empty if none has, or figures are not out of fold."""
    pairs = [(fit["weights"], fold) for fit in _fits_of(context) for fold in fit.get("weights_by_fold", {}).values()]
    others = sum(new != fold for new, fold in pairs)
    if context.stage != "oof" or not others:
        return ""
    if len(_fits_of(context)) > 1:
        return "folds have others"
    return f"{others} of {len(pairs)} folds {'has' if others == 1 else 'have'} others"


def _note(context: ReportContext, code: str) -> Note | None:
    return next((note for note in context.metrics.notes if note["code"] == code), None)


KINDS: dict[str, Callable[[ReportContext], Found]] = {
    find.__name__.lstrip("_"): find
    for find in (
        synthetic,
        nothing_learned,
        _classes_not_found,
        first_weights,
        external_cohort,
        _external_confidence,
        unlike_training,
        _subjects_apart,
        apart_on_test,
        stopped_on_fold,
        _classes_missing,
        networks_left_out,
        audited,
        altered,
        few_subjects,
        chosen,
    )
}
