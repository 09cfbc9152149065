"""Networks on a GPU: on a real one where there is one, and else on an imagined one.

Tensors of the imagined GPU have their values on the CPU, so results are those of a CPU. It refuses tensors of two
devices in one operation, and notes whenever the host would wait for a GPU: where it reads a value, where the size of a
result depends on values, and where a copy is not from memory that stays in place. It shows nothing about bfloat16,
memory and speed.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import casewise
from casewise.errors import ImageError
from casewise.modalities.dataset import Batches, FeatureData, PanelData
from casewise.modalities.device import SHARE, rows_on
from casewise.modalities.shape_variation import Bars, Stretch
from casewise.models.backbones import Network, build_network
from casewise.models.layers import BagPooling
from casewise.models.outputs import Output
from casewise.study.schema import Compute, Panels, Recipe
from casewise.training.compute_plan import ComputePlan, device_plan
from casewise.training.frozen_features import UpperLayers
from casewise.training.loop import Training
from tests.test_loop import EXTENT, GRADE, LABEL, context_of, labels, network_of

GPU = torch.device("cuda")
# Operations that end after the device has computed, because the host needs a value or the size of the result.
READING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique_dim", "_unique2")
# Operations to which a mask, or numbers on the CPU, may be given.
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
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
        if on_cpu and name not in (*INDEXING, "copy_"):
            raise RuntimeError(f"{func}: tensors of two devices")
        selected = name in INDEXING and any(index.dtype == torch.bool for index in args[1] if index is not None)
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
    # in place of PyTorch's, which leaves the mode, although parts of a batch are computed again in it
    monkeypatch.setattr(Tensor, "backward", _backward)
    # in place of PyTorch's, which asks the driver
    clipping = "torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype"
    monkeypatch.setattr(clipping, lambda lists: {(lists[0][0].device, lists[0][0].dtype): (lists, [])})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2**40, 2**40))
    with ImaginedGPU():
        yield


def _backward(loss: Tensor) -> None:
    engine = torch.autograd.graph._engine_run_backward
    engine((loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True)


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
    "bags": ((LABEL,), {"pooling": "attention", "by": "case", "bag": 2, "rotate": 20}, {"optimizer": "adam"}),
    "bags in parts": ((EXTENT,), {"pooling": "maps", "by": "case", "bag": 3}, {"optimizer": "adam"}),
    "stretched": ((EXTENT,), VARIED | {"shapes": Stretch(torch.linspace(0.5, 2, 26), 0.5, 2.0)}, {}),
}


def steps(
    network: Network, recipe: Recipe, data: Batches, folder: Path, outputs: Any, plan: ComputePlan
) -> tuple[Any, ...]:
    """A training after three steps, with their losses and outputs."""
    training = Training(network, recipe, data, context_of(folder, outputs, choice=plan))
    results = []
    for number, rows in enumerate(training.batches(0)):
        results.append(training.step(rows, 0, number)[:2])
        if not number:
            OnGPU.waits.clear()  # the tiles were copied
    return training, results


def compare(make: Any, recipe: Recipe, data: Batches, folder: Path, outputs: Any, parts: int = 1) -> None:
    plan = ComputePlan(channels_last=False, parts=parts)
    on_cpu, expected = steps(make(), recipe, data, folder / "cpu", outputs, plan)
    training, results = steps(on_gpu(make()), recipe, data, folder / "gpu", outputs, replace(plan, device="cuda"))
    assert OnGPU.waits == []
    for (loss, raw), others in zip(results, expected, strict=True):
        assert isinstance(loss, OnGPU)
        assert torch.equal(loss.values, others[0])
        assert torch.equal(raw.values, others[1])
    for values, weights in zip(training.trained, on_cpu.trained, strict=True):
        assert torch.equal(values.values, weights)


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_no_step_waits_for_the_device(
    tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, name: str, fits: bool
) -> None:
    outputs, settings, changes = CASES[name]
    if not fits:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (0, 2**40))
    pooling = settings.get("pooling", "")
    make = partial(network_of, outputs, dropout=0.5, pooling=pooling)
    recipe, parts = Recipe(batch_size=4, **changes), 1 + name.endswith("in parts")
    compare(make, recipe, panels(outputs, **settings), tmp_path, outputs, parts)


@pytest.mark.plugins("published")
@pytest.mark.parametrize("fits", [True, False])
def test_no_step_with_masks_waits(tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, fits: bool) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2**40 * fits, 2**40))
    masks = torch.randint(0, 3, (26, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    def make() -> Network:
        torch.manual_seed(0)
        return build_network("unet", 3)

    data = replace(panels((LABEL,), **VARIED), masks=masks)
    compare(make, Recipe(batch_size=4, optimizer="adam"), data, tmp_path, (LABEL,))


def test_no_step_of_a_head_or_of_upper_layers_waits(tmp_path: Path, gpu: None) -> None:
    """On features, on maps of single images, and on maps of bags, in which an empty slot is NaN."""
    outputs, drawn = (LABEL, EXTENT), torch.Generator().manual_seed(0)
    truth = labels(12, outputs, 0)
    maps = torch.randn(12, 3, 8, 5, 5, generator=drawn)
    maps[::3, 2] = torch.nan
    for name, values in {"features": maps[:, 0, :, 0, 0], "maps": maps[:, 0], "bags": maps}.items():

        def make(name: str = name) -> Any:
            torch.manual_seed(0)
            bags = name == "bags"
            layers = nn.Sequential(nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.AvgPool2d(3), nn.Flatten())
            head = [BagPooling("attention", 6)] * bags + [nn.Linear(8 if name == "features" else 6, 4)]
            network = SimpleNamespace(
                name=name,
                pooling=bags or None,
                head=nn.Sequential(*head),
                target_mean=torch.zeros(4),
                target_std=torch.ones(4),
            )
            return UpperLayers(network, None if name == "features" else layers)

        data = FeatureData(values, truth, bag=3 if name == "bags" else 1)
        compare(make, Recipe(batch_size=4, optimizer="adam"), data, tmp_path, outputs)


def test_an_epoch_waits_as_often_whatever_its_number_of_steps(
    tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are prepared by a thread, with the same draws as without."""
    outputs, settings, changes = CASES["mixed images"]
    # a thread does not know the imagined GPU before
    threads = partial(ThreadPoolExecutor, initializer=lambda: ImaginedGPU().__enter__())
    monkeypatch.setattr("casewise.training.loop.ThreadPoolExecutor", threads)
    data, counts = panels(outputs, **settings), []
    rows_on(GPU, data.store, torch.tensor([0]))
    for size in (6, 4):
        trained = []
        for device in ("cpu", "cuda"):
            network: Any = network_of(outputs, dropout=0.5)
            recipe, plan = Recipe(batch_size=size, **changes), ComputePlan(device, channels_last=False)
            OnGPU.waits.clear()
            network = on_gpu(network) if device == "cuda" else network
            trained.append(Training(network, recipe, data, context_of(tmp_path / device, outputs, choice=plan)))
            trained[-1].run_epoch(data.subset([0, 1, 2]))
        counts.append(len(OnGPU.waits))
        on_cpu, on_device = trained
        assert on_device.history == on_cpu.history
        for values, weights in zip(on_device.trained, on_cpu.trained, strict=True):
            assert torch.equal(values.values, weights)
    assert counts[0] == counts[1] > 0


def test_an_error_of_a_batch_that_is_prepared_ahead_is_raised(tmp_path: Path, gpu: None) -> None:
    class Broken(FeatureData):
        def training_batch(self, rows: list[int], generator: torch.Generator, device: torch.device) -> Any:
            raise ImageError("a file is gone")

    data = Broken(torch.zeros(12, 8), labels(12, (EXTENT,), 0))
    network = on_gpu(network_of((EXTENT,)))
    plan = ComputePlan("cuda", channels_last=False)
    training = Training(network, Recipe(batch_size=4), data, context_of(tmp_path / "a", (EXTENT,), choice=plan))
    with pytest.raises(ImageError, match="gone"):
        training.run_epoch(data)


def test_tiles_are_copied_to_the_gpu_once_if_they_fit(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = torch.arange(5 * 4, dtype=torch.uint8).view(5, 1, 2, 2).expand(-1, 3, -1, -1)
    sizes: list[int] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (SHARE * 20, 10**9))
    copied = ImaginedGPU._moved

    def noted(mode: ImaginedGPU, args: Any, kwargs: Any) -> Tensor:
        sizes.append(args[0].nbytes)
        return copied(mode, args, kwargs)

    monkeypatch.setattr(ImaginedGPU, "_moved", noted)
    rows = torch.tensor([3, 0])
    for _ in range(2):
        on_device: Any = rows_on(GPU, grey, rows)
        assert torch.equal(on_device.values, grey[rows])
    assert sizes == [20, 16, 16]  # the store without its repeated channels, and twice the numbers of two rows
    large = torch.zeros(21, dtype=torch.uint8)
    for _ in range(2):
        assert rows_on(GPU, large, rows).device == GPU
    assert sizes[3:] == [2, 2]


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


def test_a_plan_for_a_gpu_has_bfloat16_and_a_fused_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    plan = device_plan(Compute(), 2)
    assert (plan.device, plan.precision, plan.channels_last, plan.fused) == ("cuda", "bf16", True, True)
    assert plan.described() != replace(plan, fused=False).described()
    on_cpu = device_plan(Compute(device="cpu"), 2)
    assert (on_cpu.device, on_cpu.precision, on_cpu.fused) == ("cpu", "fp32", False)
    # a plan of casewise 1.0, whose optimiser was not fused
    earlier = {name: value for name, value in asdict(plan).items() if name != "fused"}
    assert not ComputePlan.from_json(earlier).fused


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
