"""Networks on a GPU: on a real one where there is one, and else on an imagined one.

Tensors of the imagined GPU have their values on the CPU, so results are those of a CPU. It refuses tensors of two
devices in one operation, and notes whenever the host would wait for a GPU: where it reads a value, where the size of a
result depends on values, and where a copy is not from memory that stays in place. It shows nothing about bfloat16,
memory and speed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import casewise
from casewise.modalities.dataset import Batches, PanelData
from casewise.modalities.shape_variation import Bars, Stretch
from casewise.models.backbones import Network
from casewise.models.outputs import Output
from casewise.study.schema import Panels, Recipe
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import Training
from tests.test_loop import EXTENT, GRADE, LABEL, context_of, labels, network_of

GPU = torch.device("cuda")
# Operations that end after the device has computed, because the host needs a value or the size of the result.
READING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique_dim", "_unique2")
# Copies at once, or of memory that may be swapped.
COPY = "copy"


class OnGPU(Tensor):
    """A tensor of the imagined GPU."""

    values: Tensor
    waits: ClassVar[list[str]] = []
    device = property(lambda tensor: GPU)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> "OnGPU":
        made = Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device=values.device
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, leaves = func.overloadpacket.__name__, tree_leaves((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        on_cpu = [tensor for tensor in tensors if type(tensor) is Tensor and tensor.ndim]
        if on_cpu and name not in ("index", "index_put", "index_put_", "copy_"):
            raise RuntimeError(f"{func}: tensors of two devices")
        selected = "index" in name and any(tensor.dtype == torch.bool for tensor in tree_leaves(args[1]))
        if on_cpu or selected or name in READING:
            cls.waits.append(f"{COPY} {func}" if on_cpu else str(func))
        wrapped = {id(tensor.values): tensor for tensor in tensors if isinstance(tensor, cls)}
        result = func(*tree_map(_values, args), **tree_map(_values, kwargs or {}))

        def wrap(value: Any) -> Any:
            # operations in place return their argument
            return wrapped[id(value)] if id(value) in wrapped else cls(value) if isinstance(value, Tensor) else value

        return tree_map(wrap, result)


def _values(value: Any) -> Any:
    return value.values if isinstance(value, OnGPU) else value


class ImaginedGPU(TorchFunctionMode):
    """Where this is entered, "cuda" is the imagined GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.pin_memory:
            pinned = args[0].clone()
            pinned.stays = True
            return pinned
        if func in (Tensor.cpu, Tensor.tolist, Tensor.numpy) and isinstance(args[0], OnGPU):
            OnGPU.waits.append(func.__name__)
            return func(args[0].values)
        if func is Tensor.to:
            return self._moved(args, kwargs)
        if "device" in kwargs and torch.device(kwargs["device"] or "cpu").type == "cuda":
            return OnGPU(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)

    def _moved(self, args: Any, kwargs: Any) -> Tensor:
        tensor, *others = args
        target, waiting = kwargs.pop("device", None), not kwargs.pop("non_blocking", False)
        if others and isinstance(others[0], (torch.device, str, Tensor)):
            first = others.pop(0)
            target = first.device if isinstance(first, Tensor) else first
            kwargs |= {"dtype": first.dtype} if isinstance(first, Tensor) else {}
        to_gpu = isinstance(tensor, OnGPU) if target is None else torch.device(target).type == "cuda"
        values = Tensor.to(tensor, *others, **kwargs) if others or kwargs else tensor
        if to_gpu == isinstance(tensor, OnGPU):
            return values
        if waiting or not (to_gpu and hasattr(tensor, "stays")):
            OnGPU.waits.append(f"{COPY} to {'the device' if to_gpu else 'the host'}")
        return OnGPU(values.clone()) if to_gpu else values.values.clone()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # modules are made on the device by `on_gpu`
    monkeypatch.setattr(nn.Module, "to", lambda module, *_, **__: module)
    monkeypatch.setattr(OnGPU, "waits", [])
    with ImaginedGPU():
        yield


def on_gpu(network: Network) -> Network:
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(OnGPU(parameter.detach()), parameter.requires_grad)
        for name, values in module._buffers.items():
            module._buffers[name] = None if values is None else OnGPU(values)
    return network


def panels(outputs: tuple[Output, ...], shapes: Any = None, **settings: Any) -> PanelData:
    """Twelve panels of one to three tiles of 32 px."""
    drawn = torch.Generator().manual_seed(0)
    store = torch.randint(0, 256, (26, 3, 32, 32), generator=drawn, dtype=torch.uint8)
    tiles = [list(range(2 * row, 2 * row + 1 + row % 3)) for row in range(12)]
    names = [f"S{row}/1" for row in range(12)]
    return PanelData(store, tiles, labels(12, outputs, 0), Panels.model_validate(settings), names, shapes)


BOXES = torch.tensor([[0, 4, 32, 24], [4, 0, 24, 32]] * 13)
VARIED = {"augmentation": "fastai-default", "flip": "dihedral", "by": "image"}
GRID = {"grid": "1x2", "by": "region", "shuffle": True, "rotate": 20, "brightness": 0.2, "contrast": 0.2}
# The targets, how panels vary, and the recipe.
CASES: dict[str, tuple[tuple[Output, ...], dict[str, Any], dict[str, Any]]] = {
    "numbers": ((EXTENT,), GRID, {"optimizer": "adamw"}),
    "classes": ((LABEL,), VARIED, {"imbalance": "weights", "label_smoothing": 0.1, "optimizer": "sgd"}),
    "grades": ((GRADE, EXTENT), GRID, {"imbalance": "weights", "optimizer": "radam"}),
    "mixed images": ((LABEL, EXTENT), VARIED, {"mixup": 0.4, "optimizer": "adam"}),
    "clipped": ((LABEL,), GRID, {"clip_gradients": 1.0, "schedule": "one-cycle", "batch_norm": "keep_statistics"}),
    "bars": ((LABEL,), VARIED | {"shapes": Bars(BOXES)}, {}),
    "stretched": ((EXTENT,), VARIED | {"shapes": Stretch(torch.linspace(0.5, 2, 26), 0.5, 2.0)}, {}),
}


def steps(network: Network, recipe: Recipe, data: Batches, folder: Path, outputs: Any, device: Any) -> tuple[Any, ...]:
    """A training after three steps, with their losses and outputs."""
    plan = ComputePlan(device, channels_last=False)
    training = Training(network, recipe, data, context_of(folder, outputs, choice=plan))
    OnGPU.waits.clear()
    results = [training.step(rows, 0, number) for number, rows in enumerate(training.batches(0))]
    return training, [(loss, raw) for loss, raw, *_ in results]


@pytest.mark.parametrize("name", CASES)
def test_no_step_waits_for_the_device(tmp_path: Path, gpu: None, name: str) -> None:
    outputs, settings, changes = CASES[name]
    data, recipe = panels(outputs, **settings), Recipe(batch_size=4, **changes)
    on_cpu, expected = steps(network_of(outputs, dropout=0.5), recipe, data, tmp_path / "cpu", outputs, "cpu")
    training, results = steps(on_gpu(network_of(outputs, dropout=0.5)), recipe, data, tmp_path / "gpu", outputs, "cuda")
    assert [wait for wait in OnGPU.waits if not wait.startswith(COPY)] == []
    for (loss, raw), others in zip(results, expected, strict=True):
        assert isinstance(loss, OnGPU)
        assert torch.equal(loss.values, others[0])
        assert torch.equal(raw.values, others[1])
    for values, weights in zip(training.trained, on_cpu.trained, strict=True):
        assert torch.equal(values.values, weights)


@pytest.mark.parametrize(
    "wait",
    [
        float,
        bool,
        Tensor.tolist,
        Tensor.cpu,
        torch.nonzero,
        lambda values: values[values > 0.5],
        lambda values: values[torch.tensor([0])],
        lambda values: values.masked_fill_(values > 0, 0).copy_(torch.ones(1)),
        lambda values: torch.ones(1).to(values.device),
        lambda values: torch.ones(1).to("cuda", non_blocking=True),
        lambda values: torch.ones(1).pin_memory().to("cuda"),
        lambda values: values.isfinite().all().item(),
    ],
)
def test_the_imagined_gpu_notes_waits(gpu: None, wait: Any) -> None:
    values = torch.ones(1).pin_memory().to("cuda", non_blocking=True)
    assert (values + torch.arange(1, device="cuda")).where(values > 0, 0).device == GPU
    assert OnGPU.waits == []
    wait(values)
    assert len(OnGPU.waits) == 1
    with pytest.raises(RuntimeError, match="two devices"):
        _ = values + torch.ones(1)


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
