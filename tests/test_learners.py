"""Learners: their record, baselines beside stated networks, and a third kind of learner."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

import casewise
from casewise.inference.model import load_bundle
from casewise.jobs import fitting
from casewise.models import build_model
from casewise.models.linear import LinearBuilder
from casewise.run_folder import RunFolder
from casewise.study.learners import (
    KernelLearner,
    LinearLearner,
    is_baseline,
    learner_named,
    register_learner,
    unregister_learner,
)
from casewise.study.loading import read_study
from casewise.study.schema import Study
from casewise.training.stages import Learned
from tests.chest_study import chest_run_study


def study_of(**values: Any) -> Study:
    return Study.model_validate({"name": "a", "cohort": "a.csv", "targets": {"x": {"range": "0..4"}}, **values})


@pytest.mark.parametrize(
    ("values", "baselines"),
    [
        ({"backbones": ["resnet18"]}, ["linear_pixels", "linear_features"]),
        ({"backbones": ["resnet18"], "weights": "random"}, ["linear_pixels"]),
        ({"backbones": ["cnn"]}, ["linear_pixels"]),
        ({"backbones": ["resnet18"], "baselines": "auto"}, ["linear_pixels", "linear_features"]),
        ({"backbones": ["resnet18"], "baselines": {"off": "as published"}}, []),
        ({"backbones": []}, ["linear_pixels", "linear_features", "kernel_features"]),
        ({}, ["linear_pixels", "linear_features", "kernel_features"]),
    ],
)
def test_every_study_has_baselines_unless_it_states_why_not(values: dict[str, Any], baselines: list[str]) -> None:
    study = study_of(**values)
    assert [name for name in study.learners if is_baseline(name)] == baselines
    assert study.learners[len(baselines) :] == study.networks
    assert Study.model_validate(study.model_dump(mode="json")) == study


def test_baselines_change_no_bit_of_a_network(chest_run: casewise.Run, chests: Path, tmp_path: Path) -> None:
    """Neither its predictions, nor its figures, nor the headline; a baseline has panels of its own."""
    study = chest_run_study(chests).model_copy(update={"baselines": "auto"})
    both = casewise.run(study, tmp_path / "run")
    assert set(both.rows["model"]) == {"linear_pixels", "test_resnet"}
    own = both.rows[both.rows["model"] == "test_resnet"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, chest_run.rows, check_exact=True)
    weights = [RunFolder(run.folder).job("test_resnet", 0).weights.path.read_bytes() for run in (both, chest_run)]
    assert (weights[0], both.results.main) == (weights[1], chest_run.results.main)
    figures = [run.results.figures.select(learner="test_resnet", contrast="") for run in (both, chest_run)]
    assert figures[0] == figures[1]
    new, alone = (load_bundle(run.folder).predict(chests) for run in (both, chest_run))
    of_network = new[new["learner"] == "test_resnet"].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_network, alone.reset_index(drop=True), check_exact=True)


@dataclass(frozen=True)
class MeanColour(LinearLearner):
    """A third kind of learner, for the test: the nearest mean colour of a class."""

    kind: ClassVar[str] = "mean_colour"

    def title(self, study: Study) -> str:
        return "the nearest mean colour"


class MeanColourBuilder(LinearBuilder):
    """A linear model whose only candidate is the mean of each colour."""

    def facts(self, study: Study, model: str) -> dict[str, Any]:
        facts = super().facts(study, model)
        spec = {"source": "pixels", "channels": [], "modules": [], "summary": "grid", "cells": 1}
        return facts | {"bank": {**facts["bank"], "specs": [spec]}}


def fit_mean_colour(planned: Any, network: Any, outputs: Any, data: Any) -> Any:
    """The distances from the means of the classes are linear in the colours, up to a term that is equal for all."""
    features = fitting.feature_data(planned, network, data)
    train = features.subset(data.fit_rows.tolist())
    means = torch.stack([train.features[train.truth[:, 0] == code].mean(0) for code in range(outputs[0].classes)])
    with torch.no_grad():
        network.head[-1].weight.copy_(2 * means)
        network.head[-1].bias.copy_(-(means**2).sum(1))
    return Learned(network.eval(), [], 0, math.nan), replace(features)


@pytest.fixture
def mean_colour(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(build_model.BUILDERS, "mean_colour", MeanColourBuilder())
    monkeypatch.setitem(fitting.FITTERS, "mean_colour", fit_mean_colour)
    register_learner(MeanColour("mean_colour"))
    yield
    unregister_learner("mean_colour")


@pytest.mark.usefixtures("mean_colour")
def test_a_third_kind_of_learner_is_one_file(tmp_path: Path, chests: Path) -> None:
    from tests.test_baselines import write_study

    path = write_study(tmp_path, chests, compute="{jobs: 1, precision: fp32}")
    run = casewise.run(path, tmp_path / "run")
    assert read_study(path).learners == ["linear_pixels", "mean_colour"]
    rows = run.rows[run.rows["model"] == "mean_colour"]
    assert np.allclose(rows[["p0", "p1", "p2"]].sum(axis=1), 1)
    assert run.results.figures.of("oof", "mean_colour", "label")["auroc"].value is not None
    new = load_bundle(run.folder).predict(chests, learner="networks")
    assert set(new["learner"]) == {"linear_pixels", "mean_colour"}
    assert learner_named("mean_colour").is_baseline
    register_learner(MeanColour("mean_colour"))  # the same class again
    with pytest.raises(ValueError, match="tests has a learner named 'mean_colour'"):
        register_learner(KernelLearner("mean_colour"))
    assert "mean_colour" in run.report.read_text()
    facts = json.loads(RunFolder(run.folder).job("mean_colour", 0).facts.path.read_text())
    assert len(facts["network"]["bank"]["specs"]) == 1
