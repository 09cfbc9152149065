"""The learning-rate finder: a rate that learns, a sentence where there is none, and one sweep whatever is killed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from casewise.errors import TrainingError
from casewise.models.backbones import Network
from casewise.study import Recipe
from casewise.training import learn as learning
from casewise.training.finder import Found, find_rate, smoothed, steepest
from casewise.training.speed import Choice
from tests.test_training_learn import LABEL, TRAIN, CutError, cut_after, learned, network_of, same, state


class TestTheFinder:
    recipe = Recipe.model_validate({"lr": "find", "batch": 8, "optimizer": "radam", "finder": {"steps": 60}})

    def found(self, recipe: Recipe, network: Network | None = None) -> Found:
        return find_rate(network or network_of(), recipe, TRAIN, outputs=LABEL, seed=0, choice=Choice())

    def test_the_rate_is_one_that_learns(self, tmp_path: Path) -> None:
        network = network_of()
        before = state(network)
        found = self.found(self.recipe, network)
        assert same(before, network.state_dict())
        assert found == self.found(self.recipe)
        assert 1e-5 < found.chosen < 0.3
        assert len(found.rates) == len(found.losses) <= 60
        assert np.allclose(np.diff(np.log(found.rates)), np.log(1e7) / 59)
        ends = {}
        for times in (1 / 300, 1.0, 300.0):
            rate = {"lr": found.chosen * times, "epochs": 4, "schedule": "constant"}
            try:
                ends[times] = learned(tmp_path / str(times), rate).history[-1]["train_loss"]
            except TrainingError:
                ends[times] = np.inf
        assert min(ends, key=ends.__getitem__) == 1.0

    def test_a_finder_that_diverges_says_what_to_do(self, tmp_path: Path) -> None:
        recipe = {"lr": "find", "epochs": 1, "optimizer": "sgd", "finder": {"low": 100.0, "high": 1e9}}
        with pytest.raises(TrainingError) as told:
            learned(tmp_path, recipe)
        said = str(told.value)
        assert said.startswith("test_resnet: the learning-rate finder found no rate between 100 and 1e+09 at which ")
        assert "Give recipe.lr as a number, or widen recipe.finder, or take test_resnet out of" in said
        assert not (tmp_path / "finder.json").exists()

    def test_it_is_not_run_again_after_a_kill(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recipe = {"lr": "find", "epochs": 3, "finder": {"steps": 20}}
        with pytest.raises(CutError):
            learned(tmp_path, recipe, tell=cut_after(1))
        kept = json.loads((tmp_path / "finder.json").read_text())
        monkeypatch.setattr(learning, "find_rate", lambda *args, **kwargs: pytest.fail("it was run again"))
        assert learned(tmp_path, recipe).finder == kept

    def test_the_steepest_fall_is_chosen(self) -> None:
        rates = np.geomspace(1e-6, 1, 80)
        falls = np.where(rates < 1e-3, 2.0, np.where(rates < 1e-2, 2 - np.log10(rates / 1e-3), 1 + 50 * (rates - 0.01)))
        chosen = steepest(rates, falls)
        assert chosen is not None
        assert 1e-3 < chosen < 2e-2
        assert steepest(rates, np.full(80, 2.0)) is None
        assert steepest(rates, np.linspace(2, 9, 80)) is None
        assert steepest(rates[:4], falls[:4]) is None
        assert smoothed(np.array([1.0, 2.0])).tolist() == pytest.approx([1.0, (0.09 * 1 + 0.1 * 2) / 0.19])
