"""What a run says on the items about its models: architecture, training, weights, output."""

from __future__ import annotations

from pathlib import Path

from casewise.evaluation.headline import FITTED
from casewise.plugins.checklist.data_facts import span_of
from casewise.plugins.checklist.reading import facts_in, left_out_site, named_classes, tables_headed, without_test
from casewise.predictions.table import CHOOSING
from casewise.report.context import EXTERNAL, ReportContext
from casewise.report.first_screen import coverage, model, weights
from casewise.report.formatting import capital, counted, display_name, listed, plain
from casewise.report.sections import classes, training
from casewise.report.sections.classes import DECISIONS
from casewise.report.sections.preparation import augmentation
from casewise.report.statements import unlike_folds, weights_differ
from casewise.run_folder import RunFolder
from casewise.study.learners import (
    JOINED,
    LinearLearner,
    baselines_among,
    combined_learners,
    learner_name,
    learner_named,
    the_learner,
    without_baselines,
)
from casewise.study.weight_origins import origins_sentence
from casewise.targets import Classes

# Facts about training that are settings, in the order of the report.
HYPERPARAMETERS = (
    *("Learning rate", "Loss of numbers", "Gradients", "Label smoothing", "Mixed images", "Models on fixed features"),
)
PENALTIES = "Inner folds of the training subjects choose the penalties of linear and kernel models."
NOT_RECALIBRATED = "Predictions are as the models give them, without recalibration."


def networks(context: ReportContext) -> str:
    """The reported model with its weights, then all models that were fitted."""
    parameters = {job["model"]: job.get("parameters") for job in context.jobs}
    sizes = {name: f" ({count:,} parameters, running statistics apart)" for name, count in parameters.items() if count}
    models = [f"{name}{sizes.get(name, '')}" for name in context.study.trained]
    fixed = [learner_named(name).title(context.study) for name in baselines_among(context.learners)]
    fixed += [f"a {learner_name(JOINED)}"] * (JOINED in context.learners)
    fitted = f" All models that were fitted: {listed([*models, *filter(None, fixed)])}." if models or fixed else ""
    return f"Reported: {model(context)}{_weights(context)}{fitted}"


def first_weights(context: ReportContext) -> str:
    # the folder of a file is of no interest to a reader
    stated = {job["model"]: str(job["weights"]).split("/")[-1] for job in context.jobs if job.get("weights")}
    lines = "; ".join(f"{name}: {weights}" for name, weights in sorted(stated.items()))
    return f"{lines}{'. ' * bool(lines)}{origins_sentence(context.origins, context.study.unit)}"


def fitting(context: ReportContext) -> str:
    """The training of networks and simple models, with the settings that were fixed or chosen."""
    recipe, epochs = context.study.recipe, span_of(context, "epochs")
    models = [*context.study.trained, *map(learner_name, baselines_among(context.learners))]
    folds = "" if context.holdout else f" in each of {counted(int(context.splits['folds']), 'fold')}"
    settings = dict(facts_in(training.section(context).blocks))
    chosen = [f"{name}: {settings[name]}." for name in HYPERPARAMETERS if name in settings]
    chosen += [PENALTIES] * any(isinstance(learner_named(name), LinearLearner) for name in context.learners)
    if not epochs:
        how = f"{capital(listed(models))}{folds}. No network was trained." if models else ""
        return " ".join(filter(None, [how, *chosen]))
    stopping = {
        "none": "all of them kept",
        "inner": "stopped by the loss of inner subjects",
        "fold": f"stopped by the loss of the {'validation set' if context.holdout else 'fold that is evaluated'}",
    }[context.stopped_on]
    nested = " Inner folds of the training subjects chose settings." if context.study.nested_cv is not None else ""
    trained = f"{listed(models)}{folds}; the networks"
    how = f"{recipe.optimizer}, batches of {recipe.batch_size}, {epochs} epoch{'s' * (epochs != '1')}, {stopping}"
    varied = f"{capital(augmentation(context.study))}."
    return f"{trained}: {how}.{nested} {' '.join([varied, *chosen])} The report lists all further settings."


def selection(context: ReportContext) -> str:
    chosen_on, name = context.metrics.main.chosen_on, the_learner(context.learner, start=True)
    if not chosen_on:
        return ""
    every = context.metrics.learners(chosen_on if chosen_on in CHOOSING else context.stage)
    learners = every if chosen_on == "stated" else without_baselines(every)
    if len(learners) == 1:
        return f"{name} is the only learner{' that is no baseline' * (len(every) > 1)}."
    on = {
        "stated": "stated before any result",
        "oof": "chosen out of fold",
        "validation": "chosen on the validation set",
    }.get(chosen_on, f"chosen on {chosen_on}")
    return f"{name} was {on} among {counted(len(learners), 'learner')}: {listed(list(map(learner_name, learners)))}."


def building(context: ReportContext) -> str:
    """How the model was built: training, the choice among learners, and how learners are combined."""
    return " ".join(filter(None, (fitting(context), selection(context), ensembles(context))))


def ensembles(context: ReportContext) -> str:
    others = set(context.metrics.learners(context.stage)) - set(context.study.trained)
    stacked = [name for name in context.learners if name in others and name in context.stackers]
    what = "the networks and baselines" if context.study.stack_baselines else "the networks"
    what = what if context.study.trained else "the models"
    combined = f"Predictions of {what} are combined by {listed(list(map(the_learner, stacked)))}."
    return combined + _weights(context) if stacked else ""


def _weights(context: ReportContext) -> str:
    """The weights in the reported model; empty if it has none."""
    parts = ", ".join(f"{name} {weight}" for name, weight in weights(context))
    fitted = " for new cases" * context.learner.startswith(FITTED)
    of_folds = unlike_folds(context) or weights_differ(context)
    text = f" Weights in {the_learner(context.learner)}{fitted}: {parts}"
    return "; ".join(filter(None, [text, of_folds])) + "." if parts else ""


def imbalance(context: ReportContext) -> str:
    texts = {
        "none": "No correction was made for classes of different size.",
        "weights": "In training, all classes have the same total weight.",
        "sampling": "In training, all classes are drawn equally often.",
        "within_sources": "In training, the classes that a source has weigh the same in it.",
    }
    return f"{texts[context.study.recipe.balance]} {NOT_RECALIBRATED}" if context.classes else NOT_RECALIBRATED


def prediction(context: ReportContext) -> str:
    """Which models predict a case, how they are combined, and how one class follows."""
    study, combined, tested = context.study, context.learner in context.stackers, not without_test(context)
    one, every = ("models", "the models") if combined or not study.trained else ("the network", "the networks")
    unseen = f"that this study did not train on its {left_out_site(context) or study.unit}"
    text = f"Out of fold, a case is predicted by {one} {unseen}"
    together = ["the test set"] * tested + [study.external_name] * bool(len(context.rows(EXTERNAL, context.learner)))
    text += f"; a case of {listed(together, 'or')} by {every} of all folds together." if together else "."
    if context.holdout:
        kind = "one network for each backbone" if study.trained else "models"
        text = f"A case is predicted by {kind}, fitted on the training set."
    if context.outcome in study.scores and context.outcome not in study.targets:
        formulas = [f"{display_name(study, name)} = {score.formula}" for name, score in study.scores.items()]
        text += f" Scores follow from the predicted targets: {'; '.join(formulas)}."
    if combined:
        parts = listed([learner_name(name) for name in combined_learners(study)])
        text += f" {the_learner(context.learner, start=True)} combines {parts}.{_weights(context)}"
    return f"{text}{_rule(context)}{_mirrored(context)}"


def _mirrored(context: ReportContext) -> str:
    """The views of an image over which predictions and frozen features are averaged; empty if it is seen once."""
    if not context.study.test_time_augmentation:
        return ""
    baselines = baselines_among(context.metrics.learners(context.stage))
    frozen = any(learner_named(name).encoders(context.study) for name in baselines)
    mirrored = " Each prediction of a network is the mean over the image and its mirror image."
    flipped = " Maps of the frozen networks of baselines are averaged over the flips of the image."
    return mirrored * bool(context.study.trained) + flipped * frozen


def _rule(context: ReportContext) -> str:
    """How one class or grade follows from the probabilities; empty for numbers."""
    if rule := context.study.decisions.get(context.outcome):
        tuned = " on the expected grade, which have the highest weighted kappa out of fold" * (rule == "kappa")
        return f" The predicted grade follows from the probabilities: {DECISIONS.get(rule, rule)}{tuned}."
    return " The predicted class is the most probable one." if context.kind == Classes.name else ""


def output(context: ReportContext) -> str:
    study, target, name = context.study, context.outcome, capital(display_name(context.study, context.outcome))
    text = f"{name}: a number."
    if context.classes:
        text = f"{name}: a probability of each of {listed(named_classes(context, context.classes))}.{_rule(context)}"
    elif target in study.targets or target in study.scores:
        text = "{}: a number from {:g} to {:g}.".format(name, *study.range_of(target))
    if bands := context.metrics.bands:
        starts = ", ".join(f"{plain(band)} from {low:g}" for band, low in bands.lower_bounds.items())
        text += f" Severity bands: {starts}."
    text = " ".join(filter(None, [text, coverage(context)]))
    entry = context.class_figures(context.stage, context.learner)
    if entry is None or not entry.operating:
        return text
    on = ", ".join(sorted({point.chosen_on for point in entry.operating}))
    points = tables_headed(classes.point_blocks(context, entry, context.stage), classes.points_head(context))[0].rows
    thresholds = "; ".join(f"{row.name} {row.cells[0].text}" for row in points)
    return f"{text} Thresholds, chosen on {on}: {thresholds}."


def full_model(context: ReportContext) -> str:
    """What the reported model consists of, and where the run keeps it."""
    kept = " The folder “bundle” of the run has all its trained models; “casewise predict” applies them to new cases."
    return model(context) + _weights(context) + kept * RunFolder(Path(context.source)).bundle.exists()
