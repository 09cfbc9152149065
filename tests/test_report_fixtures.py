"""The contexts of the golden pages agree with themselves: counts, times, weights and predictions."""

from __future__ import annotations

import numpy as np
import pytest

from casewise.report.context import ReportContext
from tests.report_contexts import in_phases, split_by_image

CONTEXTS = ("report_of_numbers", "report_of_classes", "report_of_two_classes", "report_of_grades")


@pytest.mark.parametrize("name", CONTEXTS)
def test_counts_and_times_of_a_context_agree(name: str, request: pytest.FixtureRequest) -> None:
    context: ReportContext = request.getfixturevalue(name)
    counts = context.splits["n"]
    for key, total in {
        "subjects": context.cases["subject"].nunique(),
        "cases": len(context.cases),
        "panels": len(context.panels),
    }.items():
        assert sum(side[key] for side in counts.values()) == total
    assert sum(job["seconds"] for job in context.jobs) <= context.environment["seconds"]
    if context.audit:
        assert context.audit["facts"]["subjects"] == context.cohort_images["subject"].nunique()


def test_stackers_predict_what_their_weights_give(report_of_numbers: ReportContext) -> None:
    context = report_of_numbers
    rows = context.predictions[context.predictions["target"] == "area"]
    wide = rows.pivot_table(index=["case", "region"], columns="model", values="y_pred")
    for meta, by_target in context.stackers.items():
        weights = by_target["area"]["weights"]
        values = sum(wide[network] * weight for network, weight in weights.items()) + by_target["area"]["intercept"]
        assert np.allclose(np.clip(values, 0, 6), wide[meta])
        assert (by_target["area"]["intercept"] != 0) is ("intercept" in meta)


def test_the_best_baseline_of_the_planned_study_is_the_kernel(report_of_a_kernel: ReportContext) -> None:
    compared = report_of_a_kernel.metrics["against_baselines"]
    assert (compared["baseline"], compared["learner"]) == ("kernel_features", report_of_a_kernel.learner)
    assert compared["network"]["baseline"] == "kernel_features"


def test_phases_and_the_split_by_image_agree_with_the_cohort(report_of_two_classes: ReportContext) -> None:
    context = split_by_image(in_phases(report_of_two_classes), 0.985)
    for job in context.jobs:
        assert sum(phase["seconds"] for phase in job["phases"]) <= job["seconds"]
    entry = context.metrics["image_split"]
    several = int((context.cohort_images.groupby("subject").size() > 1).sum())
    assert entry["images"] == len(context.cohort_images)
    assert entry["subjects_on_both_sides"] <= entry["subjects_with_several_images"] == several
