"""The loop, on heads: the same bits after a kill in any recipe, its errors and its threads."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from casewise.errors import TrainingError
from casewise.modalities.dataset import FeatureData, epoch_batches
from casewise.models.backbones import Network, build_network
from casewise.models.outputs import Output, width_of
from casewise.study.model import mixed_seed
from casewise.study.schema import Recipe
from casewise.training.checkpoint import load_state
from casewise.training.compute_plan import ComputePlan
from casewise.training.frozen_features import UpperLayers
from casewise.training.loop import Fitted, Training, TrainingContext, fit

LABEL = Output("label", "classification", 3, True)
GRADE = Output("grade", "ordinal", 4)
EXTENT = Output("extent")
ROWS = 23


class KilledError(Exception):
    pass


def network_of(outputs: tuple[Output, ...], dropout: float = 0.0, **options: Any) -> Network:
    torch.set_num_threads(1)
    torch.manual_seed(4)
    network = build_network("test_resnet", width_of(outputs), dropout=dropout, **options)
    network.target_mean.copy_(torch.linspace(0, 1, width_of(outputs)))
    network.target_std.copy_(torch.linspace(1, 2, width_of(outputs)))
    return network


def labels(rows: int, outputs: tuple[Output, ...], seed: int) -> Tensor:
    """A column for each target, with one value in six missing."""
    drawn = torch.Generator().manual_seed(seed)
    columns = [
        torch.randint(0, output.classes, (rows,), generator=drawn).float()
        if output.classes
        else torch.rand(rows, generator=drawn)
        for output in outputs
    ]
    truth = torch.stack(columns, dim=1)
    truth[torch.rand(truth.shape, generator=drawn) < 1 / 6] = torch.nan
    return truth


def features(rows: int, outputs: tuple[Output, ...], width: int, seed: int = 0, bag: int = 0) -> FeatureData:
    drawn = torch.Generator().manual_seed(seed)
    values = torch.randn((rows, bag, width) if bag else (rows, width), generator=drawn)
    if bag:
        values[::3, -1] = torch.nan
    return FeatureData(values, labels(rows, outputs, seed), [f"S{row}/1" for row in range(rows)])


def context_of(folder: Path, outputs: tuple[Output, ...], **changes: Any) -> TrainingContext:
    folder.mkdir(exist_ok=True)
    context = TrainingContext(outputs, folder, 5, ComputePlan(), save_every=1e9)
    return replace(context, **changes)


def same(one: Fitted, other: Fitted) -> None:
    assert one.history == other.history
    assert (one.best_epoch, one.best_loss) == (other.best_epoch, other.best_loss)
    states = (each.network.state_dict() for each in (one, other))
    for (name, value), (_, counterpart) in zip(*(state.items() for state in states), strict=True):
        assert torch.equal(value, counterpart), name


RECIPES: dict[str, dict[str, Any]] = {
    "sgd, plateau": {"optimizer": "sgd", "plateau": {"patience": 0, "factor": 0.5}, "weight_decay": 0.01},
    "adam, constant": {"optimizer": "adam", "schedule": "constant"},
    "adamw, cosine": {"optimizer": "adamw", "schedule": "cosine", "weight_decay": 0.05},
    "radam, warm-up": {"optimizer": "radam", "schedule": "cosine", "warmup": 2},
    "one-cycle": {"optimizer": "adam", "schedule": "one-cycle"},
    "weights": {"optimizer": "adam", "imbalance": "weights", "label_smoothing": 0.1},
    "sampling": {"optimizer": "adam", "imbalance": "sampling"},
    "mixup": {"optimizer": "adam", "mixup": 0.4},
    "huber": {"loss": "huber", "head_lr": 3.0},
    "early end": {"optimizer": "sgd", "lr": 0.3, "epochs": 40, "early_stopping": {"patience": 2}},
    "nothing watched": {"schedule": "constant", "early_stopping": {"monitor": "none"}},
}


# A recipe, the tiles of a bag, and whether the optimiser is fused.
KILLED = [*((name, 0, False) for name in RECIPES), ("sgd, plateau", 3, False), ("one-cycle", 3, False)]
KILLED += [(name, 0, True) for name in ("sgd, plateau", "adam, constant", "adamw, cosine", "radam, warm-up")]


@pytest.mark.parametrize(("name", "bag", "fused"), KILLED)
def test_a_killed_head_continues_to_the_same_bits(tmp_path: Path, name: str, bag: int, fused: bool) -> None:
    outputs = (LABEL, EXTENT, GRADE)
    recipe = Recipe(**{"lr": 0.02, "batch_size": 4, "epochs": 6, **RECIPES[name]})
    network = network_of(outputs, 0.4, pooling="attention" * bool(bag))
    data = features(ROWS, outputs, network.width, bag=bag), features(9, outputs, network.width, 1, bag)
    plan = ComputePlan(fused=fused)
    whole = fit(UpperLayers(network), recipe, *data, context_of(tmp_path / "whole", outputs, choice=plan))

    epochs: list[int] = []

    def kill(epoch: int, _: float) -> None:
        epochs.append(epoch)
        if epochs == [1, 2]:
            raise KilledError

    killed = context_of(tmp_path / "killed", outputs, save_every=0.0, tell=kill, choice=plan)
    again = network_of(outputs, 0.4, pooling="attention" * bool(bag))
    with pytest.raises(KilledError):
        fit(UpperLayers(copy.deepcopy(again)), recipe, *data, killed)
    continued = fit(UpperLayers(again), recipe, *data, killed)
    same(whole, continued)
    assert epochs == list(range(1, len(whole.history) + 1))


def test_panels_and_their_losses_are_mixed_in_the_same_share(tmp_path: Path) -> None:
    outputs = (LABEL, EXTENT)
    network = network_of(outputs)
    data, rows = features(ROWS, outputs, network.width), list(range(8))
    recipe = Recipe(lr=0.02, mixup=1.0)
    training = Training(UpperLayers(network), recipe, data, context_of(tmp_path, outputs))
    generator = torch.Generator().manual_seed(mixed_seed(5, "panels", 0, 3))
    panels, _ = data.training_batch(rows, generator, torch.device("cpu"))
    truth = data.truth[rows]
    share, others = training._mixing(len(rows), generator, 0, 3)
    expected = training.network((1 - share) * panels + share * panels[others]).detach()
    loss, raw, labelled, *_ = training.step(rows, 0, 3)
    assert 0.05 < share <= 0.5
    assert sorted(others.tolist()) == rows != others.tolist()
    assert torch.allclose(raw, expected, atol=1e-5)
    assert torch.equal(labelled.nan_to_num(-1), truth.nan_to_num(-1))
    parts = training.loss(raw, truth), training.loss(raw, truth[others])
    assert torch.allclose(loss, (1 - share) * parts[0] + share * parts[1])


@pytest.mark.parametrize(
    ("stopping", "value", "keep", "said"),
    [
        (False, torch.inf, "best", r"epoch 1, batch .*S7/1"),
        (True, torch.nan, "best", "after 1 epochs"),
        (True, torch.nan, "last", "after 3 epochs"),
    ],
)
def test_a_loss_that_is_not_finite_is_an_error(
    tmp_path: Path, stopping: bool, value: float, keep: str, said: str
) -> None:
    outputs = (EXTENT,)
    network = network_of(outputs)
    data = features(ROWS, outputs, network.width), features(9, outputs, network.width, 1)
    data[stopping].features[7] = value
    data[stopping].truth[:] = data[stopping].truth.nan_to_num()
    with pytest.raises(TrainingError, match=said):
        fit(UpperLayers(network), Recipe(batch_size=4, epochs=3), *data, context_of(tmp_path / "a", outputs, keep=keep))


def test_a_loss_that_is_not_finite_leaves_the_state_of_the_epoch_before(tmp_path: Path) -> None:
    outputs = (EXTENT,)
    network = network_of(outputs)
    data, rows = features(ROWS, outputs, network.width), range(4)

    def break_rows(*_: Any) -> None:
        data.features[[7, 9]] = torch.inf

    context = context_of(tmp_path / "a", outputs, save_every=0.0, tell=break_rows, keep="last")
    batches = epoch_batches(ROWS, 4, context.seed, 1)
    number = next(number for number, rows in enumerate(batches) if {7, 9} & {*rows})
    case = next(row for row in batches[number] if row in (7, 9))
    with pytest.raises(TrainingError, match=rf"epoch 2, batch {number + 1} .*S{case}/1"):
        fit(UpperLayers(network), Recipe(batch_size=4, epochs=3), data, data.subset(rows), context)
    state = load_state(context.files.state.path)
    assert [entry["epoch"] for entry in state["history"]] == [0]
    assert all(values.isfinite().all() for values in state["network"].values())


def test_a_linear_head_takes_one_thread_and_gives_the_others_back(tmp_path: Path) -> None:
    outputs = (LABEL,)
    threads: list[int] = []

    def note(*_: Any) -> None:
        threads.append(torch.get_num_threads())

    network = network_of(outputs)
    data = features(ROWS, outputs, network.width), features(9, outputs, network.width, 1)
    torch.set_num_threads(2)
    try:
        fit(UpperLayers(network), Recipe(epochs=1), *data, context_of(tmp_path / "a", outputs, tell=note))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert threads == [1]
