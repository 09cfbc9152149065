"""What the report shows of each kind of target; a new kind registers one record."""

from __future__ import annotations

from dataclasses import dataclass

from casewise.targets import kind_named


@dataclass(frozen=True)
class KindReport:
    """What the report shows of one kind of target, beside the tables that the registry of metrics names.

    Attributes:
        template: the family of templates, `number` or `classes`.
        order_by: the metric that orders the learners' table.
        forests: the metrics drawn for all learners.
        headline: the metric of the one sentence at the top.
        image_split: the metric drawn by subject and by image.
        compared: the metric by which learners are compared in pairs.
        ordered: whether classes have an order, so that the median class is predicted.
    """

    template: str
    order_by: str
    forests: tuple[str, ...]
    headline: str
    image_split: str
    compared: str
    ordered: bool = False


KINDS: dict[str, KindReport] = {}


def register_kind_report(name: str, report: KindReport) -> None:
    """Register the report of a kind of target."""
    KINDS[name] = report


def kind_report(name: str) -> KindReport:
    """What the report shows of a kind; the default is the record of the kind whose metrics it shares."""
    return KINDS[name] if name in KINDS else KINDS[kind_named(name).metrics_of]


register_kind_report(
    "regression",
    KindReport(
        template="number",
        order_by="mae",
        forests=("mae", "ccc"),
        headline="mae",
        image_split="mae",
        compared="mae",
    ),
)
register_kind_report(
    "classification",
    KindReport(
        template="classes",
        order_by="auroc",
        forests=("accuracy", "auroc"),
        headline="accuracy",
        image_split="accuracy",
        compared="auroc",
    ),
)
register_kind_report(
    "ordinal",
    KindReport(
        template="classes",
        order_by="kappa_quadratic",
        forests=("accuracy", "kappa_quadratic"),
        headline="accuracy",
        image_split="accuracy",
        compared="kappa_quadratic",
        ordered=True,
    ),
)
