"""The figures and terms of the page, in a sentence each."""

from __future__ import annotations

from casewise.metrics.registry import columns, metric_of
from casewise.report.blocks import Facts, Fold, Section
from casewise.report.context import ReportContext, terms_of, without_folds
from casewise.report.formatting import capital

OUT_OF_FOLD = "Out of fold, test set"
TERMS: tuple[tuple[str, str], ...] = (
    (
        "Interval",
        "How much a figure would vary with other subjects of the same kind, from how much it changes without each"
        " subject. Intervals of differences between learners come from resamples of subjects. A model's error is"
        " compared with a guess's error on the same cases, an AUROC with a fixed value: 0.5, or a column's AUROC."
        " Rough: too few subjects for the interval to be reliable; in verdicts it counts at twice its width.",
    ),
    (
        OUT_OF_FOLD,
        "Each fold of the training subjects is predicted by models that this study did not train on it. Subjects of a"
        " test set are used for no training and no choice.",
    ),
    (
        "Learner, network, combined",
        "A network (backbone) predicts from images. Where a backbone has several networks that were not trained on a"
        " case, its prediction is their mean. A combined learner weights the predictions of others.",
    ),
)
HELD_OUT = (
    "Training, validation, test set",
    "Networks are fitted on the training set. The validation set compares learners and, where the page says so, stopped"
    " the training; its figures are then too optimistic. The test set is used for no training and no choice.",
)
AGREEMENT = (
    "Limits of agreement, bias",
    "The bias is the mean of model minus reference. About 95 % of normally distributed differences lie between the two"
    " limits. Where errors grow with the score, the limits are too wide for low scores and too narrow for high ones.",
)
OF_CLASSES = (
    (
        "Recall (sensitivity), specificity",
        "Recall: of the cases with a class, the share that is predicted as this class. Specificity: of the cases with"
        " another class, the share that is not predicted as this class. Where a class is rarer than in this study, its"
        " precision is lower.",
    ),
    (
        "Operating point",
        "A threshold that turns a probability into a decision, chosen on other cases than those it is evaluated on. The"
        " Youden index is sensitivity plus specificity minus 1.",
    ),
    (
        "Temperature scaling",
        "Divides the logarithms of all probabilities by one number, which makes all of them less or more extreme and"
        " does not change the ranking of the classes within a case.",
    ),
)
AUDIT = (
    "Shortcut, near-duplicate, permutation p",
    "A shortcut is information other than the disease that predicts the label and that a network can use; the audit"
    " cannot always tell it from the disease. Near-duplicates: two files with the same picture. The p-value: the share"
    " of random permutations of the labels over subjects with a value as high.",
)


def section(context: ReportContext) -> Section:
    """The metrics of the tables, and the terms that the page uses."""
    facts = [(metric_of(name).title, metric_of(name).glossary) for name in _glossary_names(context)]
    facts += OF_CLASSES if context.classes else [AGREEMENT]
    facts += [AUDIT] if context.audit else []
    confidence, unit = terms_of(context).confidence, context.study.unit
    facts += [
        (f"{confidence} interval" if name == "Interval" else name, text)
        for name, text in TERMS
        if not (context.holdout and name == OUT_OF_FOLD)
    ]
    facts += [HELD_OUT] if context.holdout else []
    facts = [
        (name, without_folds(context, text).replace("subject", unit).replace("Subject", capital(unit)))
        for name, text in facts
    ]
    blocks = [Fold("Figures and terms of this page", [Facts(facts)])]
    return Section("glossary", "How to read this report", blocks, page_only=True)


def _glossary_names(context: ReportContext) -> list[str]:
    """The metrics that the page explains: all in its tables."""
    tables = ("learners", "external", "targets", "classes") if context.classes else ("learners", "targets")
    stage = context.choosing_stage
    names = dict.fromkeys(name for table in tables for name in context.columns(table, stage))
    names |= dict.fromkeys(columns("points", context.kind) if context.classes else [])
    return [name for name in names if name != "bias"]
