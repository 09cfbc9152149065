"""A run changes nothing in the process of its caller."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

import casewise
from casewise.training import cost
from tests.combinations import quick_study


def settings() -> dict[str, Any]:
    """What a run could change of PyTorch, torchvision and the process."""
    models = torchvision.models
    blocks = (models.shufflenetv2, models.mnasnet, models.mobilenetv2)
    return {
        "generator": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "functions": [value for block in blocks for value in vars(block).values() if callable(value)],
        "methods": [vars(kind).get("forward") for kind in (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.ReLU6)],
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()),
        "warnings": list(warnings.filters),
        "memory": cost.memory_is_kept(),
    }


@pytest.mark.parametrize("rate", [0.001, 1e30], ids=["finished", "failed"])
def test_a_run_leaves_its_caller_as_it_was(rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_kept", False)
    # without the limit, batch norms over two panels of one pixel have gradients that overflow on some processors
    recipe = {"lr": rate, "clip_gradients": 1.0}
    study = quick_study(tmp_path, backbones=["shufflenet_v2_x0_5"], recipe=recipe, compute={"threads": 1, "jobs": 1})
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = settings()
        if rate == 0.001:
            casewise.run(study, tmp_path / "run")
        else:
            with pytest.raises(casewise.CasewiseError):
                casewise.run(study, tmp_path / "run")
        after = settings()
    finally:
        torch.set_num_threads(threads)
    assert {name for name in before if before[name] != after[name]} == set()
