"""Training: the same bits whether interrupted or not, checkpoints without pickle, the loss over what was scored."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from casewise.errors import CasewiseError, RunError, StudyError
from casewise.jobs import backends
from casewise.jobs.compute_plans import compute_plans, stated_plans, try_size
from casewise.jobs.execution import _side_by_side
from casewise.modalities.dataset import PanelData
from casewise.models.backbones import Network, build_network
from casewise.models.forward import predict_together
from casewise.models.outputs import Output
from casewise.run_folder import RunFolder, WeightsFile
from casewise.study.schema import Compute, Panels, Recipe, Study
from casewise.training import compute_plan as speed
from casewise.training.checkpoint import load_state, save_state, write_tensors
from casewise.training.compute_plan import ComputePlan, Option, _agrees, choose
from casewise.training.linear_models import probe
from casewise.training.loop import Fitted, Training, TrainingContext, fit

NUMBERS = (Output("one"), Output("two"))
PANELS = Panels(by="region", grid="2x2", shuffle=True, rotate=180, brightness=0.2, contrast=0.2)


def data(rows: range, targets: int = 2) -> PanelData:
    g = torch.Generator().manual_seed(0)
    store = torch.randint(0, 256, (60, 3, 32, 32), generator=g, dtype=torch.uint8)
    truth = torch.rand(20, targets, generator=g)
    truth[3, 0] = float("nan")
    return PanelData(store, [[3 * r, 3 * r + 1, 3 * r + 2] for r in rows], truth[list(rows)], PANELS)


def trained(folder: Path, epochs: int, **recipe: object) -> Fitted:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    network = build_network("mobilenet_v3_small", 2, dropout=0.2)
    values = {"batch_size": 4, "plateau": {"patience": 1, "factor": 0.5}, "head_lr": 2.0, **recipe}
    settings = Recipe.model_validate({"epochs": epochs, **values})
    parts = data(range(13)), data(range(13, 20))
    return fit(network, settings, *parts, TrainingContext(NUMBERS, folder, 3, ComputePlan(), 0.0))


def same(one: Network, two: Network) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_continued_job_ends_in_the_same_bits(tmp_path: Path) -> None:
    recipe: dict[str, object] = {"optimizer": "adamw", "lr": 0.001, "weight_decay": 0.01}
    whole = trained(tmp_path / "whole", 5, **recipe)
    trained(tmp_path / "cut", 2, **recipe)
    assert (tmp_path / "cut" / "state.safetensors").is_file()
    continued = trained(tmp_path / "cut", 5, **recipe)
    assert whole.history == continued.history
    assert whole.best_epoch == continued.best_epoch
    assert same(whole.network, continued.network)


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    fitted = trained(tmp_path, 40, early_stopping={"patience": 3})
    losses = [h["stop_loss"] for h in fitted.history]
    assert fitted.best_epoch == losses.index(min(losses))
    assert len(losses) == fitted.best_epoch + 4 < 40
    centred = data(range(13, 20))
    found = predict_together([fitted.network], centred, NUMBERS, batch=4, channels_last=True, bf16=False, flips=False)[
        0
    ][0]
    module = Training(fitted.network, Recipe(), centred, TrainingContext(NUMBERS, tmp_path, 0, ComputePlan()))
    assert float(module.loss(found, centred.truth)) == pytest.approx(min(losses), rel=1e-4)


def test_clipped_gradients_move_the_weights_by_at_most_the_rate_times_their_norm(tmp_path: Path) -> None:
    plain = {"optimizer": "sgd", "lr": 0.1, "schedule": "constant", "weight_decay": 0.0, "head_lr": 1.0}
    start = trained(tmp_path / "start", 1, **{**plain, "lr": 1e-30})

    def moved(name: str, **recipe: object) -> float:
        weights = dict(trained(tmp_path / name, 1, **plain, **recipe).network.named_parameters())
        steps = [(weights[name] - value).detach().square().sum() for name, value in start.network.named_parameters()]
        return float(torch.stack(steps).sum().sqrt())

    # 13 panels in batches of 4, momentum up to ten times the step
    assert moved("clipped", clip_gradients=1e-3) < 4 * 10 * 0.1 * 1e-3 < moved("free")


def test_a_loss_that_is_no_number_is_said(tmp_path: Path) -> None:
    with pytest.raises(CasewiseError, match=r"no longer a number in epoch 1, .* Lower recipe\.lr \(now 1e\+30\)"):
        trained(tmp_path, 3, lr=1e30)


def test_the_plateau_lowers_the_rate(tmp_path: Path) -> None:
    rates = [h["lr"] for h in trained(tmp_path, 10, early_stopping={"patience": 10}).history]
    assert rates[0] == 0.01
    assert rates[-1] < 0.01
    assert all(b in (a, a / 2) for a, b in pairwise(rates))


def test_what_was_not_scored_does_not_teach() -> None:
    network = build_network("mobilenet_v3_small", 2)
    part = data(range(13))
    module = Training(network, Recipe(), part, TrainingContext(NUMBERS, Path(), 0, ComputePlan()))
    truth = torch.tensor([[1.0, float("nan")], [2.0, 4.0]])
    found = torch.tensor([[1.5, 99.0], [2.0, 3.0]], requires_grad=True)
    loss = module.loss(found, truth)
    assert float(loss.detach()) == pytest.approx((0.25 + 0 + 1) / 3)
    loss.backward()
    assert found.grad is not None
    assert found.grad[0, 1] == 0


def test_the_loss_is_in_standard_deviations() -> None:
    network = build_network("mobilenet_v3_small", 1)
    network.target_std.fill_(4.0)
    part = data(range(13), targets=1)
    module = Training(network, Recipe(), part, TrainingContext(NUMBERS[:1], Path(), 0, ComputePlan()))
    assert float(module.loss(torch.tensor([[8.0]]), torch.tensor([[0.0]]))) == pytest.approx(4.0)


def test_checkpoints_keep_every_kind_of_value(tmp_path: Path) -> None:
    kept = {"a": {0: torch.arange(3), "b": (1, 2.5, None, True)}, "c": [float("inf"), "x"], "d": {}}
    save_state(WeightsFile(tmp_path / "s.safetensors"), kept)
    found = load_state(tmp_path / "s.safetensors")
    assert torch.equal(found["a"][0], kept["a"][0])  # type: ignore[index]
    assert found["a"]["b"] == (1, 2.5, None, True)
    assert found["c"] == [float("inf"), "x"]
    assert not (tmp_path / "s.safetensors").read_bytes().startswith((b"\x80", b"PK"))


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    write_tensors(WeightsFile(path), {"a": torch.ones(2)}, {})
    before = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("casewise.training.checkpoint.save_file", full)
    with pytest.raises(RunError, match="No space left"):
        write_tensors(WeightsFile(path), {"a": torch.zeros(2)}, {})
    assert path.read_bytes() == before
    assert WeightsFile(path).intact()
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "checksums.json"}


def test_more_tiles_than_slots_are_averaged_over_views() -> None:
    store = data(range(1)).store
    many = PanelData(store, [[0, 1, 2, 3, 4, 5], [6]], torch.zeros(2, 1), PANELS)
    slots, owner = many.views()
    assert slots.tolist() == [[0, 1, 2, 3], [4, 5, -1, -1], [6, -1, -1, -1]]
    assert owner.tolist() == [0, 0, 1]
    network = build_network("mobilenet_v3_small", 1).eval()
    found = predict_together([network], many, NUMBERS[:1], batch=2, channels_last=False, bf16=False, flips=False)[0][0]
    single = [
        predict_together(
            [network],
            PanelData(store, [t], torch.zeros(1, 1), PANELS),
            NUMBERS[:1],
            batch=2,
            channels_last=False,
            bf16=False,
            flips=False,
        )[0][0]
        for t in ([0, 1, 2, 3], [4, 5])
    ]
    assert float(found[0]) == pytest.approx(float(sum(single)) / 2, abs=1e-5)


def test_a_probe_starts_the_head_at_a_ridge_regression() -> None:
    torch.manual_seed(0)
    network = build_network("mobilenet_v3_small", 2)
    part = data(range(20))
    with torch.no_grad():
        bright = torch.tensor([part.store[t].float().mean() for t in part.tiles])
    part.truth[:, 1] = bright
    network.target_mean.copy_(torch.tensor([0.5, float(bright.mean())]))
    network.target_std.copy_(torch.tensor([0.3, float(bright.std())]))
    before = predict_together([network], part, NUMBERS, batch=4, channels_last=False, bf16=False, flips=False)[0][0][
        :, 1
    ]
    probe(network, part, [str(i // 2) for i in range(20)], NUMBERS, batch=4)
    after = predict_together([network], part, NUMBERS, batch=4, channels_last=False, bf16=False, flips=False)[0][0][
        :, 1
    ]
    assert (after - bright).square().mean() < (before - bright).square().mean()


def test_the_choice_is_remembered_for_the_machine(tmp_path: Path) -> None:
    network = build_network("shufflenet_v2_x0_5", 1)
    one = choose(network, Compute(), side=32, batch=2, threads=1, memo=tmp_path / "memo.json")
    two = choose(network, Compute(), side=32, batch=2, threads=1, memo=tmp_path / "memo.json")
    assert one == two
    assert one.measured
    stated = choose(
        network, Compute(precision="fp32", memory_format="contiguous"), side=32, batch=2, threads=1, memo=None
    )
    assert (stated.precision, stated.channels_last, stated.measured) == ("fp32", False, ())


def test_fused_networks_are_measured_on_their_own_sequences(tmp_path: Path) -> None:
    kinds: list[dict[str, Any]] = [
        {"fusion": "early", "sequences": 2},
        {"fusion": "early", "sequences": 2, "missing": "mask"},
        {"fusion": "late", "sequences": 2},
        {"fusion": "late", "sequences": 1},
        {},
    ]
    memo = tmp_path / "memo.json"
    for number, kind in enumerate(kinds, 1):
        network = build_network("cnn", 1, **kind)
        try_size(network, 32, 32)
        compute = Compute(device="cpu", precision="fp32")
        assert choose(network, compute, side=32, batch=2, threads=1, memo=memo).measured
        assert len(json.loads(memo.read_text())) == number
        assert _agrees(network, 32)
    with pytest.raises(StudyError, match=r"cannot take panels of 40×40"):
        try_size(build_network("test_vit", 1, fusion="early", sequences=2, side=32), 40, 40)


@pytest.mark.parametrize(("alone", "taken"), [(0.09, 1), (0.11, 2), (0.3, 2)])
def test_one_thread_is_taken_where_it_is_worth_it(
    alone: float, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(network: Network, options: list[Option], **given: int) -> dict[Option, list[float]]:
        # bfloat16 is the quicker one, and one thread is tried in it alone
        return {o: [9.0, alone if o[2] == 1 else 0.12 if o[0] == "bf16" else 0.4] for o in options}

    monkeypatch.setattr(speed, "step_seconds", seconds)
    monkeypatch.setattr(speed, "has_bf16", lambda: True)
    monkeypatch.setattr(speed, "_agrees", lambda network, side: True)
    network, memo = build_network("shufflenet_v2_x0_5", 1), tmp_path / "memo.json"
    found = choose(network, Compute(device="cpu"), side=32, batch=2, threads=2, memo=memo)
    assert (found.precision, found.channels_last, found.threads) == ("bf16", True, taken)
    assert dict(found.measured)["bf16 channels-last, 1 thread"] == alone
    assert dict(found.measured)["bf16 channels-last, 2 threads"] == 0.12
    monkeypatch.setattr(speed, "step_seconds", None)
    assert choose(network, Compute(device="cpu"), side=32, batch=2, threads=2, memo=memo) == found
    stated = Compute(device="cpu", precision="fp32", memory_format="channels_last", threads=2)
    assert choose(network, stated, side=32, batch=2, threads=1, memo=memo).threads == 2


def test_bfloat16_is_taken_where_it_agrees_with_the_weights_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Option]] = []

    def seconds(network: Network, options: list[Option], **given: int) -> dict[Option, list[float]]:
        asked.append(list(options))
        return {o: [9.0, 0.1 if o[0] == "bf16" else 0.4 if o[1] else 0.2] for o in options}

    monkeypatch.setattr(speed, "step_seconds", seconds)
    monkeypatch.setattr(speed, "has_bf16", lambda: True)
    good, other = build_network("test_resnet", 1), build_network("test_resnet", 1)
    monkeypatch.setattr(speed, "_agrees", lambda network, side: network is good)
    given: Any = {"side": 32, "batch": 2, "threads": 1, "memo": tmp_path / "memo.json"}
    taken = choose(good, Compute(device="cpu"), **given)
    assert (taken.precision, len(asked)) == ("bf16", 1)
    exact = choose(other, Compute(device="cpu"), **given)
    assert (exact.precision, exact.channels_last) == ("fp32", False)
    assert "bfloat16, which is quicker, gives other features with these weights" in exact.why
    stated = choose(other, Compute(device="cpu", memory_format="channels_last"), **given)
    assert (stated.precision, stated.channels_last, len(stated.measured)) == ("fp32", True, 2)
    assert "other features" in stated.why
    before = len(asked)
    assert choose(good, Compute(device="cpu"), **given) == taken
    assert choose(other, Compute(device="cpu"), **given) == exact
    assert len(asked) == before  # times are remembered, whichever weights
    choose(build_network("test_resnet", 1, pooling="attention"), Compute(device="cpu", precision="fp32"), **given)
    choose(other, Compute(device="cpu", precision="fp32"), **given)
    assert len(asked) == before + 1  # those of exact were known, those with attention not


@pytest.mark.parametrize("kept", [True, False])
def test_a_worker_keeps_freed_memory_unless_the_study_says_no(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(backends, "keep_memory", lambda: calls.append("kept"))
    for name in ("signal.signal", "threading.Thread.start", "atexit.register"):
        monkeypatch.setattr(f"casewise.jobs.backends.{name}", lambda *given: None)
    backends._begin_worker(1, SimpleNamespace(register=lambda: None), kept)  # type: ignore[arg-type]
    assert calls == ["kept"] * kept


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives the plan of the network `cnn` for these settings of `compute`; the folder is `tmp_path`."""
    monkeypatch.setattr("casewise.models.build_model.build_network", lambda *given, **more: None)
    monkeypatch.setattr("casewise.models.build_model.load_weights", lambda *given, **more: ("", []))
    monkeypatch.setattr("casewise.jobs.compute_plans.try_size", lambda *given: None)
    monkeypatch.setattr("casewise.jobs.compute_plans.divided", lambda *given: ([], []))
    monkeypatch.setattr("casewise.jobs.compute_plans.choose", lambda *given, **more: ComputePlan(why="measured again"))
    values = {"cohort": "c.csv", "targets": {"extent": {"range": [0, 4]}}, "backbones": ["cnn"], "name": "s"}
    splits = SimpleNamespace(held_out=lambda fold: [])

    def plan(batch_norm: str = "update", **compute: Any) -> ComputePlan:
        recipe = {"batch_norm": batch_norm}
        study = Study.model_validate({**values, "recipe": recipe, "compute": {"keep_memory": False, **compute}})
        inputs: Any = SimpleNamespace(study=study, splits=splits, cohort=SimpleNamespace(panels=None))
        jobs: Any = [SimpleNamespace(model="cnn", fold=0)]
        return compute_plans(jobs, inputs, RunFolder(tmp_path), 2)["cnn"]

    return plan


def test_steps_are_measured_as_the_recipe_trains(planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*given: Any, kept: bool, **more: Any) -> ComputePlan:
        return ComputePlan(why="kept" if kept else "updated")

    monkeypatch.setattr("casewise.jobs.compute_plans.choose", measured)
    assert planned().why == "updated"
    RunFolder(tmp_path).compute.remove()
    assert planned(batch_norm="keep_statistics").why == "kept"


RECORDED = ComputePlan("cpu", "fp32", False, 2, (("fp32 contiguous", 0.1),), "measured")


def test_a_run_continues_with_its_recorded_plan(planned: Any, tmp_path: Path) -> None:
    RunFolder(tmp_path).compute.write({"cnn": asdict(RECORDED)})
    assert planned() == planned(threads=2) == planned(jobs=1) == RECORDED
    assert planned(threads=1).why == "measured again"  # no network is finished, so another plan is possible


def test_finished_networks_are_not_mixed_with_those_of_another_plan(
    planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunFolder(tmp_path).compute.write({"cnn": asdict(RECORDED)})
    monkeypatch.setattr(RunFolder, "job_records", lambda self, networks: [{}])
    assert planned() == RECORDED
    for stated in ({"threads": 1}, {"plan": {"cnn": {"threads": 1}}}, {"precision": "bf16"}):
        with pytest.raises(RunError):
            planned(**stated)


def test_a_stated_plan_is_followed_and_recorded(planned: Any, tmp_path: Path) -> None:
    assert (
        planned(plan={"cnn": {"precision": "bf16", "threads": 3}}).described()
        == "bf16, channels-last, 3 threads on cpu"
    )
    assert json.loads((tmp_path / "compute.json").read_text())["cnn"]["threads"] == 3
    other = RunFolder(tmp_path / "other")
    other.path.mkdir()
    other.compute.write({"cnn": asdict(RECORDED)})
    for path in (other.path, other.compute.path):
        assert planned(plan=path).described() == RECORDED.described()


def test_a_plan_that_cannot_be_followed_is_refused(planned: Any, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cnn"):
        planned(plan={"cn": {}})
    (tmp_path / "broken.json").write_text('{"cnn": {"threads": "two"}}')
    (tmp_path / "list.json").write_text("[1]")
    for name in ("absent.json", "broken.json", "list.json"):
        with pytest.raises(StudyError, match=name):
            planned(plan=tmp_path / name)
    with pytest.raises(ValueError, match="precision"):
        Compute(plan={"cnn": {}}, precision="fp32")
    assert stated_plans(Compute()) is None


@pytest.mark.parametrize("threads", ["auto", 2])
def test_threads_do_not_depend_on_the_number_of_parallel_jobs(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    chosen = set()
    for networks, waiting in ((3, 3), (3, 1)):
        for jobs in ("auto", 1, 2, 3):
            inputs: Any = SimpleNamespace(
                study=SimpleNamespace(compute=Compute(jobs=jobs, threads=threads, device="cpu"))
            )
            workers, threads_of_each = _side_by_side(inputs, networks, waiting)
            assert workers == min(waiting, 4 if jobs == "auto" else jobs)
            chosen.add(threads_of_each)
    assert chosen == {2}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc alone is told to keep")
def test_kept_memory_is_given_back_when_asked() -> None:
    code = """
import psutil, torch
from casewise.training.cost import give_memory_back, keep_memory
keep_memory()
held = [torch.ones(250_000) for _ in range(200)]
last = torch.ones(1000)
del held
before = psutil.Process().memory_info().rss
give_memory_back()
print((before - psutil.Process().memory_info().rss) // 2**20)
"""
    freed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(freed) > 150
