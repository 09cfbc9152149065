"""Networks on a GPU: on a real one where there is one, and else on one that PyTorch imagines.

An imagined device computes no values, but refuses what a GPU refuses: tensors of two devices in one operation. So it
shows that steps and evaluations keep their tensors together, apart from the losses, which look at values, and it shows
nothing about bfloat16, memory and speed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import casewise
from casewise.modalities.dataset import FeatureData
from casewise.models.outputs import Output
from casewise.models.shared_parts import forward
from casewise.study.schema import Recipe
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import Training
from tests.test_loop import context_of, labels, network_of

OUTPUTS = (Output("label", "classification", 3), Output("extent"))
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": "adamw"},
    "mixed images": {"mixup": 0.4},
    "clipped": {"clip_gradients": 1.0, "schedule": "one-cycle", "batch_norm": "keep_statistics"},
}


def distance(training: Training, raw: Tensor, truth: Tensor, *, plain: bool = False) -> Tensor:
    """In place of a loss, which looks at values."""
    network = training.network
    return ((raw * network.target_std + network.target_mean)[:, : truth.shape[1]] - truth).square().mean()


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_a_training_keeps_its_tensors_on_one_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    data = FeatureData(torch.rand(12, 3, 32, 32), labels(12, OUTPUTS, 0), [f"S{row}/1" for row in range(12)])
    context = context_of(tmp_path / "run", OUTPUTS, choice=ComputePlan("cuda"))
    monkeypatch.setattr(Training, "loss", distance)
    monkeypatch.setattr(torch, "isfinite", lambda loss: True)
    # imagined weights cannot be moved, and are made on the device
    monkeypatch.setattr(torch.nn.Module, "to", lambda network, *_, **__: network)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            network = network_of(OUTPUTS, dropout=0.5)
        training = Training(network, Recipe(batch_size=4, **changes), data, context)
        network.train()

        def backward(loss: Tensor) -> None:
            """In place of PyTorch's, which asks the driver of the device."""
            for weights in training.trained:
                weights.grad = torch.zeros_like(weights) + loss.detach()

        monkeypatch.setattr(Tensor, "backward", backward)
        for number in range(3):
            loss, raw, truth, _ = training.step(list(range(4 * number, 4 * number + 4)), 0, number)
        assert {loss.device.type, raw.device.type, truth.device.type} == {"cuda"}
        network.eval()
        evaluated = forward(network, data, data.views()[0], training.device, training.format)
        assert evaluated.device.type == "cuda"
        with pytest.raises(RuntimeError, match="cpu"):
            training.loss(raw, truth.cpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_run_on_a_gpu_predicts_as_on_a_cpu_and_continues(tmp_path: Path, chests: Path) -> None:
    from tests.test_baselines import write_study

    networks = "[test_resnet, test_efficientnet]"
    path = write_study(tmp_path, chests, backbones=networks, compute="{device: cuda, precision: fp32}")
    run = casewise.run(path, tmp_path / "run")
    model = casewise.load_bundle(run.folder)
    on_gpu = model.predict(chests, learner="networks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        on_cpu = casewise.load_bundle(run.folder).predict(chests, learner="networks")
    shares = [column for column in on_gpu if column.startswith("probability of")]
    np.testing.assert_allclose(on_gpu[shares], on_cpu[shares], atol=1e-3)
    assert casewise.run(path, tmp_path / "run").predictions.equals(run.predictions)
    assert casewise.run(path, tmp_path / "again").predictions.equals(run.predictions)
