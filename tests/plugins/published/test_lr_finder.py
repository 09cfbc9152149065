"""The learning-rate finder: a rate that learns, a sentence where there is none, and one sweep whatever is killed."""

import json
from pathlib import Path

import numpy as np
import pytest

from casewise.errors import TrainingError
from casewise.models.backbones import Network
from casewise.plugins.published import unfreezing
from casewise.plugins.published.lr_finder import RateSearch, deepest, find_rate, steepest
from casewise.study.schema import Recipe
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import TrainingContext
from tests.test_training_learn import LABEL, TRAIN, CutError, cut_after, learned, network_of, same, state

# Losses of single batches as recorded in real searches from 1e-7 to 1 in 60 steps, and between which rates they fall.
RECORDED: dict[str, tuple[str, float, float]] = {
    "early_stop": (
        "0.93 0.89 0.79 0.76 0.89 0.79 1.07 0.89 0.69 1.04 0.88 0.80 0.89 0.91 0.77 1.03 0.99 0.82 "
        "0.88 0.89 0.99 0.91 0.93 0.82 0.87 0.84 0.47 0.88 1.07 1.05 0.85 0.94 0.76 0.90 0.63 0.45 "
        "0.66 0.69 0.42 0.53 0.55 0.67 0.75 0.61 0.31 0.61 1.20 1.81 1.13 0.70 1.06 1.12 1.53 1.81 "
        "3.01",
        0.0003,
        0.004,
    ),
    "grades_two": (
        "12.07 12.08 9.85 13.56 13.17 10.31 11.17 13.73 6.57 9.36 9.60 11.38 13.52 10.40 7.94 14.26 11.22 12.92 "
        "10.90 10.93 8.99 8.21 15.39 14.26 8.72 7.77 10.26 10.92 7.77 10.49 9.22 7.72 6.99 8.11 6.71 5.78 "
        "3.03 2.05 2.84 3.13 5.21 3.89 8.26 9.02 10.94",
        0.0002,
        0.004,
    ),
}
RATES = np.geomspace(1e-7, 1, 60)


def recorded(name: str) -> tuple[np.ndarray, float, float]:
    text, low, high = RECORDED[name]
    return np.array([float(word) for word in text.split()]), low, high


def falling(seed: int, at: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """A loss of 2 that falls to 0.8 around a rate, then explodes; batches scatter by `noise` of it."""
    place = np.log10(RATES) - np.log10(at)
    course = 2 - 1.2 / (1 + np.exp(-place / 0.25))
    losses = course * (1 + np.random.default_rng(seed).normal(0, noise, 60)) + np.expm1(4 * np.maximum(place - 1.5, 0))
    steps = 1 + next((i for i, loss in enumerate(losses) if loss > 9), 59)
    return RATES[:steps], losses[:steps]


class TestTheChoice:
    @pytest.mark.parametrize("name", RECORDED)
    def test_it_lies_where_a_recorded_loss_falls(self, name: str) -> None:
        losses, low, high = recorded(name)
        chosen = steepest(RATES[: len(losses)], losses)
        assert low <= chosen <= high

    @pytest.mark.parametrize("name", RECORDED)
    def test_the_noise_before_a_recorded_fall_is_no_fall(self, name: str) -> None:
        start, seeds = recorded(name)[0][:28], map(np.random.default_rng, range(100))
        assert sum(steepest(RATES, seed.choice(start, 60)) is not None for seed in seeds) <= 1

    @pytest.mark.parametrize("kind", ["normal", "heavy", "skewed up", "skewed down", "exploding"])
    def test_noise_is_refused(self, kind: str) -> None:
        def losses(seed: int) -> np.ndarray:
            random = np.random.default_rng(seed)
            if kind == "heavy":
                return np.asarray(3 + 0.1 * random.standard_t(3, 60))
            if kind == "skewed up":
                return random.lognormal(0, 0.5, 60)
            if kind == "skewed down":
                return np.asarray(3 - random.exponential(0.2, 60))
            blown = 10.0 ** np.arange(5) if kind == "exploding" else np.empty(0)
            return np.concatenate([random.normal(2, 0.3, 60 - len(blown)), 2 + blown])

        assert sum(steepest(RATES, losses(seed)) is not None for seed in range(100)) <= 1

    @pytest.mark.parametrize("at", [1e-5, 1e-3, 1e-2])
    @pytest.mark.parametrize("noise", [0.02, 0.1, 0.2])
    def test_a_fall_under_noise_is_found(self, at: float, noise: float) -> None:
        found = [steepest(*falling(seed, at, noise)) for seed in range(100)]
        assert sum(rate is not None and at / 5 < rate < at * 5 for rate in found) >= 95

    def test_more_steps_average_more_batches(self) -> None:
        noise = []
        for steps in (60, 240):
            rates = np.geomspace(1e-7, 1, steps)
            fall = deepest(rates, 2 - 1.5 * (rates > 1e-3) + np.random.default_rng(0).normal(0, 0.2, steps))
            noise.append(fall.noise)
        assert noise[1] < 0.65 * noise[0]

    def test_the_first_rates_are_never_chosen(self) -> None:
        chosen = steepest(RATES, np.concatenate([np.linspace(2, 1, 20), np.ones(40)]))
        assert chosen is None or chosen >= float(f"{RATES[6]:.1e}")
        assert steepest(RATES, np.concatenate([np.linspace(2, 1, 5), np.ones(55)])) is None
        fewest = deepest(np.geomspace(1e-7, 1, 20), np.concatenate([np.linspace(2, 1, 4), np.ones(16)]))
        assert fewest.begin == 3


class TestTheFinder:
    recipe = Recipe.model_validate({"lr": "find", "batch_size": 8, "optimizer": "radam", "finder": {"steps": 60}})

    def found(self, recipe: Recipe, network: Network | None = None) -> RateSearch:
        return find_rate(network or network_of(), recipe, TRAIN, TrainingContext(LABEL, Path(), 0, ComputePlan()))

    def test_the_rate_is_one_that_learns(self, tmp_path: Path) -> None:
        network = network_of()
        before, found = state(network), self.found(self.recipe, network)
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

    def test_it_is_not_run_again_after_a_kill(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recipe = {"lr": "find", "epochs": 3, "finder": {"steps": 20}}
        with pytest.raises(CutError):
            learned(tmp_path, recipe, tell=cut_after(1))
        kept = json.loads((tmp_path / "finder.json").read_text())
        monkeypatch.setattr(unfreezing, "find_rate", lambda *args, **kwargs: pytest.fail("it was run again"))
        assert learned(tmp_path, recipe).records["finder"] == kept
