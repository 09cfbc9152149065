"""What the report shows of each kind of target; a new kind registers one record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KindReport:
    """What the report shows of one kind of target.

    Attributes:
        template: the family of templates, `number` or `classes`.
        sections: the sections that only this kind has.
        columns: the metrics of the learners' table; `order_by` is the one that orders it.
        forests: the metrics drawn for all learners.
        by_site: the metrics of the summary where a source was left out in each fold.
        external: the metrics compared inside and outside.
        image_split: the metrics of the comparison with a split by image; the first is drawn.
        over_folds: the metrics given as mean and standard deviation over the folds.
        markdown: the metrics of the tables of Markdown pages, written with `markdown_digits` decimals.
        tiles: metrics of the four figures to remember, the most important first.
        chance: what guessing gives, by metric.
    """

    template: str
    sections: tuple[str, ...]
    columns: tuple[str, ...]
    order_by: str
    forests: tuple[str, ...]
    by_site: tuple[str, ...]
    external: tuple[str, ...]
    image_split: tuple[str, ...]
    over_folds: tuple[str, ...]
    markdown: tuple[str, ...]
    markdown_digits: int
    tiles: tuple[str, ...]
    chance: tuple[tuple[str, float], ...]


KINDS: dict[str, KindReport] = {}


def register_kind_report(name: str, report: KindReport) -> None:
    """Make a kind of target known to the report."""
    KINDS[name] = report


def kind_report(name: str) -> KindReport:
    """What the report shows of a kind."""
    return KINDS[name]


register_kind_report(
    "regression",
    KindReport(
        template="number",
        sections=("agreement", "time", "worst"),
        columns=("mae", "pcc", "mse", "ccc", "icc"),
        order_by="mae",
        forests=("mae", "ccc"),
        by_site=("ccc", "mae"),
        external=("mae", "ccc", "pcc", "bias"),
        image_split=("mae", "ccc", "pcc"),
        over_folds=("mae", "pcc"),
        markdown=("mae", "mse", "pcc", "ccc", "icc", "bias"),
        markdown_digits=2,
        tiles=("mae", "ccc"),
        chance=(("ccc", 0.0),),
    ),
)
_CLASSES = KindReport(
    template="classes",
    sections=("classes", "high_confidence"),
    columns=("accuracy", "top2_accuracy", "auroc", "precision", "recall", "f1"),
    order_by="auroc",
    forests=("accuracy", "auroc"),
    by_site=("auroc", "accuracy"),
    external=("accuracy", "balanced_accuracy", "auroc", "sensitivity", "specificity", "f1", "ece", "log_loss"),
    image_split=("accuracy", "auroc", "sensitivity", "specificity"),
    over_folds=("accuracy", "precision", "recall"),
    markdown=("accuracy", "balanced_accuracy", "auroc", "auprc", "f1", "log_loss", "ece"),
    markdown_digits=3,
    tiles=("accuracy", "auroc", "sensitivity", "specificity", "f1", "ece"),
    chance=(("auroc", 0.5),),
)
register_kind_report("classification", _CLASSES)
register_kind_report(
    "ordinal",
    KindReport(
        template="classes",
        sections=_CLASSES.sections,
        columns=("accuracy", "kappa_quadratic", "auroc", "precision", "recall", "f1"),
        order_by="kappa_quadratic",
        forests=("accuracy", "kappa_quadratic"),
        by_site=("kappa_quadratic", "accuracy"),
        external=("kappa_quadratic", "accuracy", "auroc", "f1", "mae", "ece", "log_loss"),
        image_split=("accuracy", "kappa_quadratic", "auroc"),
        over_folds=_CLASSES.over_folds,
        markdown=_CLASSES.markdown,
        markdown_digits=3,
        tiles=("kappa_quadratic", "accuracy", "sensitivity", "specificity", "auroc", "mae", "f1", "ece"),
        chance=(("auroc", 0.5), ("kappa_quadratic", 0.0)),
    ),
)
