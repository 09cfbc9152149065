"""Batch statistics of first weights that do not fit the images: noticed, recorded and said; nothing is changed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import casewise
from casewise.evaluation.caveats import SAME_FEATURES, changed_features
from casewise.modalities.dataset import PanelData
from casewise.models.backbones import Network, build_network
from casewise.run_folder import RunFolder
from casewise.study.recipe import Phase, Recipe
from casewise.training.loop import statistics_agreement
from tests.chest_study import chest_study
from tests.conftest import train_only
from tests.test_training import data

CPU = torch.device("cpu")


def norms(network: Network) -> list[nn.BatchNorm2d]:
    return [module for module in network.body.modules() if isinstance(module, nn.BatchNorm2d)]


def fitting(images: PanelData) -> Network:
    """A network whose stored statistics are those of the images."""
    torch.manual_seed(0)
    network = build_network("test_resnet", 2)
    for module in norms(network):
        module.momentum = None  # the mean over all batches
    with torch.no_grad():
        network.train().features(images.plain_batch(images.views()[0], CPU))
    return network


def falsified(network: Network) -> Network:
    """The same network with statistics of other channels."""
    for module in norms(network):
        module.running_mean = module.running_mean.roll(1) + module.running_var.sqrt()
        module.running_var = module.running_var.flip(0) * torch.logspace(-2, 2, len(module.running_var))
    return network


def test_statistics_that_do_not_fit_are_told_from_those_that_do() -> None:
    images = data(range(20))
    network = fitting(images)
    assert statistics_agreement(network, images, CPU) > 0.95
    before = {name: value.clone() for name, value in falsified(network).state_dict().items()}
    state, random = network.training, torch.get_rng_state()
    assert statistics_agreement(network, images, CPU) < SAME_FEATURES
    assert network.training == state
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert statistics_agreement(build_network("squeezenet1_1", 2), images, CPU) is None


@pytest.mark.parametrize(
    ("recipe", "updates"),
    [
        (Recipe(), True),
        (Recipe(batch_norm="keep_statistics"), False),
        (Recipe(tuning="head_only"), False),
        (Recipe(phases=[Phase(epochs=1, freeze="all")]), False),
        (Recipe(phases=[Phase(epochs=1, freeze="all"), Phase(epochs=1)]), True),
    ],
)
def test_only_a_recipe_that_updates_statistics_depends_on_them(recipe: Recipe, updates: bool) -> None:
    assert recipe.updates_statistics == updates


def test_a_run_says_that_the_statistics_of_its_first_weights_do_not_fit(
    tmp_path: Path, chests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_only(monkeypatch)
    network = falsified(build_network("test_resnet", 3))
    save_file(network.body.state_dict(), file := tmp_path / "test_resnet.safetensors")
    recipe = {"epochs": 1}
    casewise.run(chest_study(chests, weights=str(file), recipe=recipe), tmp_path / "run")
    records = RunFolder(tmp_path / "run").job_records(["test_resnet"])
    assert len(records) == 2
    assert changed_features(records)["test_resnet"] == min(job["statistics_agreement"] for job in records)
    kept = {**recipe, "batch_norm": "keep_statistics"}
    casewise.run(chest_study(chests, weights=str(file), recipe=kept), tmp_path / "kept")
    assert all("statistics_agreement" not in job for job in RunFolder(tmp_path / "kept").job_records(["test_resnet"]))
