"""Calibration on the first screen: what is predicted and observed on average, and what a slope means."""

from dataclasses import replace
from typing import Any

import pytest

from casewise.evaluation.figures import Estimate
from casewise.evaluation.results import Calibration
from casewise.report.blocks import Fold, Text
from casewise.report.context import ReportContext
from casewise.report.first_screen import screen
from casewise.report.sections.calibration import section


def slope(value: float | None, low: float | None = None, high: float | None = None, **more: Any) -> Calibration:
    figure = Estimate(value=value, low=low, high=high, n_subjects=50, n_cases=50, **more)
    return Calibration(slope=figure, intercept=figure, slope_by_fold={}, curve=[])


def line_of(context: ReportContext, record: dict[str, dict[str, Calibration]]) -> str:
    return screen(replace(context, metrics=replace(context.metrics, calibration=record))).calibration


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (slope(0.5, 0.3, 0.8), "0.50 (0.30 to 0.80; ideal: 1): probabilities are too extreme"),
        (slope(1.9, 1.2, 2.8), "1.90 (1.20 to 2.80; ideal: 1): probabilities are too moderate"),
        (slope(1.2, 0.7, 1.8), "1.20 (0.70 to 1.80; ideal: 1)"),
        (slope(-0.3, -1.2, 0.9), "−0.30 (−1.20 to 0.90; ideal: 1); no relation to the reference is shown"),
        (slope(-0.8, -1.2, -0.3), "−0.80 (−1.20 to −0.30; ideal: 1); an inverse relation to the reference is shown"),
        (slope(0.5, 0.3, 0.8, rough=True), "0.50 (0.30 to 0.80; ideal: 1; rough)"),
        (slope(None, reason="nearly all the same"), "no slope: nearly all the same"),
    ],
)
def test_a_slope_is_called_too_extreme_only_beyond_its_interval(
    report_of_two_classes: ReportContext, entry: Calibration, says: str
) -> None:
    context, (name,) = report_of_two_classes, list((report_of_two_classes.metrics.calibration or {})["oof"])
    line = line_of(context, {"oof": {name: entry}})
    assert line.endswith(says)
    rows, place = context.headline_rows, list(context.classes).index(name)
    for mean in (rows[f"p{place}"].mean(), (rows["y_true"] == place).mean()):
        assert f" {100 * mean:.0f} %" in line


def test_of_several_classes_the_worst_slopes_are_named(report_of_classes: ReportContext) -> None:
    names = list((report_of_classes.metrics.calibration or {})["test"])
    record = dict(zip(names, (slope(0.5, 0.3, 0.8), slope(2.0, 1.5, 2.5), slope(1.0, 0.8, 1.2)), strict=True))
    internal, external = (
        line_of(report_of_classes, own) for own in ({"test": record}, {"test": {}, "external": record})
    )
    first, second = (name.replace("_", " ") for name in names[:2])
    for line in (internal, external):
        assert "slopes 0.50 to 2.00" in line
        assert line.endswith(f"too extreme for {first} and too moderate for {second}")
    assert external.startswith("Calibration outside:")
    assert internal.startswith("Calibration:")


def test_pooled_folds_without_a_signal_are_named_beside_an_inverse_relation(report_of_classes: ReportContext) -> None:
    name, *others = next(iter((report_of_classes.metrics.calibration or {}).values()))
    usual = dict.fromkeys(others, slope(1.0, 0.8, 1.2))
    for stage, high, named in (("oof", -0.3, True), ("oof", 0.1, False), ("test", -0.3, False)):
        record = {stage: {name: slope(-0.8, -1.2, high), **usual}}
        context = replace(report_of_classes, metrics=replace(report_of_classes.metrics, calibration=record))
        texts = [block.text for fold in section(context).blocks if isinstance(fold, Fold)
                 for block in fold.blocks if isinstance(block, Text)]  # fmt: skip
        assert any("learned nothing has an inverse relation" in text for text in texts) is named


def test_a_number_has_its_mean_beside_that_of_the_reference(report_of_numbers: ReportContext) -> None:
    line = line_of(report_of_numbers, {"test": {"": slope(0.9, 0.8, 1.1)}})
    rows = report_of_numbers.headline_rows
    assert f"{rows['y_pred'].mean():.1f}, mean reference {rows['y_true'].mean():.1f}" in line
    assert line_of(report_of_numbers, {}) == ""


def test_the_largest_gap_may_be_of_a_class_without_cases(report_of_classes: ReportContext) -> None:
    rows = report_of_classes.predictions
    own = rows["stage"].eq("test") & rows["model"].eq(report_of_classes.learner)
    name = report_of_classes.classes[2]
    changed = replace(
        report_of_classes,
        predictions=rows.assign(
            y_true=rows["y_true"].mask(own & rows["y_true"].eq(2), 0), p0=rows["p0"].mask(own, 0.0),
            p1=rows["p1"].mask(own, 0.0), p2=rows["p2"].mask(own, 1.0),
        ),
    )  # fmt: skip
    slopes = dict.fromkeys(report_of_classes.classes, slope(1.0, 0.8, 1.2))
    line = line_of(changed, {"test": slopes})
    assert f"{name.replace('_', ' ')} predicted 100 %, observed 0 %" in line


def test_with_an_external_cohort_both_slopes_are_shown(report_of_classes: ReportContext) -> None:
    (name, *others) = (report_of_classes.metrics.calibration or {})["test"]
    inside = {name: slope(0.5, 0.3, 0.8), **{other: slope(1.0, 0.8, 1.2) for other in others}}
    outside = {
        name: slope(None, reason="every case is truly of the class"),
        **{o: slope(2.0, 1.5, 2.5) for o in others},
    }
    text = line_of(report_of_classes, {"test": inside, "external": outside})
    assert text.startswith("Calibration outside:")
    assert f"slopes of {len(others)} of {len(others) + 1} classes 2.00" in text
    assert "internal slopes 0.50 to 1.00" in text
    none = dict.fromkeys(inside, slope(None, reason="every case is truly of the class"))
    assert line_of(report_of_classes, {"test": none}).endswith("; no slope: every case is truly of the class")
