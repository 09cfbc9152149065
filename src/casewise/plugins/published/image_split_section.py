"""Results of a split by image, as published studies split, compared with the study's own split by subject."""

from __future__ import annotations

from casewise.evaluation.figures import IMAGES, ByMetric
from casewise.report.blocks import Block, Facts, Fold, Plot, Plots, Row, Section, Table, Text
from casewise.report.context import EXTERNAL, SIDES, ReportContext, terms_of
from casewise.report.figures.drawing import ACCENT, MODEL
from casewise.report.figures.learners import Series, forest
from casewise.report.formatting import capital
from casewise.report.sections import audit
from casewise.report.tables import kind_report
from casewise.study.learners import learner_name

# The section that follows.
BEFORE = audit.section
WHICH = (
    "Use the figures by subject: no subject was predicted by a network trained on that subject, as for a new patient."
    " In a split by image, a network can recognise subjects whose other images it was trained on."
)
HOW = (
    "For comparison only, every network was trained again on images that were split as if each showed a different"
    " person, with the same settings and sizes. Copies of an image stay on its side in both splits."
)
CAPTION = (
    "{side}. Below each learner: split by image, where each image is evaluated separately. Brackets: {confidence}"
    " intervals; by image they treat every image as a different person and are too narrow."
)


def section(context: ReportContext) -> Section | None:
    """The figures by subject and by image of each learner; None where the study was not split by image as well."""
    entry, stage = context.metrics.image_split, context.stage
    if entry is None:
        return None
    own = {name: context.figures(stage, name) for name in context.learners}
    figures = context.metrics.figures
    by_image = {name: figures.of(stage, name, context.outcome, IMAGES) for name in context.learners}
    names = [name for name in context.learners if own[name] and by_image[name]]
    names = sorted(names, key=lambda name: name != context.learner)
    if not names:
        return None
    same, judged = same_values(context)
    facts = [
        ("Subjects on both sides of the split by image", f"{entry.subjects_on_both_sides:,} of {entry.subjects:,}"),
        ("Subjects whose reference values are all the same", f"{same:,} of {judged:,}"),
        ("Images", f"{entry.images:,}"),
    ]
    details: list[Block] = [Facts(facts), table(context, own, by_image, names), Text(HOW, note=True)]
    blocks: list[Block] = [
        Text(WHICH, note=True),
        Plots([_figure(context, own, by_image, names)]),
        Fold("How the comparison was made, and its figures", details),
    ]
    return Section("image-split", "Comparison with a split by image", blocks)


def table(context: ReportContext, own: dict[str, ByMetric], by_image: dict[str, ByMetric], names: list[str]) -> Table:
    """Two lines for each learner: its figures by subject and by image."""
    metrics = [metric for metric in context.columns("image_split") if any(metric in by_image[name] for name in names)]
    rows = []
    for name in names:
        for label, figures in ((learner_name(name), own[name]), ("by image", by_image[name])):
            cells = [context.write.cell(metric, figures.get(metric)) for metric in metrics]
            by_subject = figures is own[name]
            rows.append(Row(label, cells, mark=by_subject and name == context.learner, inner=not by_subject))
    caption = CAPTION.format(side=capital(SIDES[context.stage]), confidence=terms_of(context).confidence)
    return Table(["Learner", *map(context.write.title, metrics)], rows, caption, wide=True)


def _figure(context: ReportContext, own: dict[str, ByMetric], by_image: dict[str, ByMetric], names: list[str]) -> Plot:
    """One metric of all learners under both splits, compared with always predicting the most common class."""
    write, metric = context.write, kind_report(context.kind).headline
    both = [
        {i: figures[name][metric] for i, name in enumerate(names) if metric in figures[name]}
        for figures in (own, by_image)
    ]
    series = [
        Series("split by subject", both[0], MODEL, "o", shift=0.16),
        Series("split by image", both[1], ACCENT, "D", face="white", shift=-0.2),
    ]
    truth = context.headline_rows["y_true"]
    guess = float(truth.value_counts(normalize=True).iloc[0]) if context.classes and len(truth) else None
    label = write.title(metric) + (", points" if metric == "mae" else "")
    rows, percent = [(learner_name(name), False) for name in names], write.in_percent(metric)
    drawing = forest(rows, series, label=label, name="image-split", dashed=guess, percent=percent)
    alt = f"{write.title(metric)} of each learner by subject and by image; the values are in the table."
    return Plot(drawing, alt, "Dashed: always predicting the most common class." if guess else "")


def same_values(context: ReportContext) -> tuple[int, int]:
    """The subjects with one recorded value only, whom it is enough to recognise, of those with any."""
    rows = context.predictions
    rows = rows[(rows["target"] == context.outcome) & (rows["stage"] != EXTERNAL)]
    values = rows.dropna(subset=["y_true"]).groupby("subject")["y_true"]
    # truths that passed through single precision may differ in their last digits
    differ = (values.max() - values.min()) > 1e-5 * values.max().abs().clip(lower=1)
    return int((~differ).sum()), len(differ)
