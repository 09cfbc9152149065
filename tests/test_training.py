"""Training: the same bits whether interrupted or not, checkpoints without pickle, the loss over what was scored."""

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from casewise.errors import RunError
from casewise.jobs.compute_plans import compute_plans
from casewise.jobs.execution import _side_by_side
from casewise.modalities.dataset import PanelData
from casewise.models.backbones import Network, build_network
from casewise.models.outputs import Output
from casewise.models.shared_parts import predict_together
from casewise.run_folder import RunFolder, WeightsFile
from casewise.study.schema import Compute, Panels, Recipe, Study
from casewise.training.checkpoint import load_state, save_state, write_tensors
from casewise.training.compute_plan import ComputePlan, choose
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


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    fitted = trained(tmp_path, 40, early_stopping={"patience": 3})
    losses = [h["stop_loss"] for h in fitted.history]
    assert fitted.best_epoch == losses.index(min(losses))
    assert len(losses) == fitted.best_epoch + 4 < 40
    centred = data(range(13, 20))
    found = predict_together([fitted.network], centred, NUMBERS, batch=4, channels_last=True, flips=False)[0][0]
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


def test_gradient_norms_and_the_share_of_limited_steps_are_recorded(tmp_path: Path) -> None:
    stated = {"optimizer": "sgd", "schedule": "constant", "lr": 1e-30, "batch_norm": "keep_statistics"}
    free = trained(tmp_path / "free", 1, **stated).history
    assert all("limited_steps" not in entry for entry in free)
    low, middle, high = (free[0][f"gradient_norm{end}"] for end in ("_q05", "", "_q95"))
    assert 0 < low < middle < high
    # weights do not move, so the three steps of an epoch have the same norms under any limit
    for limit, share in ((low / 2, 1.0), (middle, 1 / 3), (2 * high, 0.0)):
        limited = trained(tmp_path / f"limit{share}", 1, clip_gradients=limit, **stated).history
        assert limited[0]["limited_steps"] == share
        assert limited[0]["gradient_norm"] == middle
    assert json.loads(json.dumps(free)) == free


def test_the_plateau_lowers_the_rate(tmp_path: Path) -> None:
    rates = [h["lr"] for h in trained(tmp_path, 10, early_stopping={"patience": 10}).history]
    assert rates[0] == 0.01
    assert rates[-1] < 0.01
    assert all(b in (a, a / 2) for a, b in pairwise(rates))


def test_what_was_not_scored_does_not_teach() -> None:
    network, part = build_network("mobilenet_v3_small", 2), data(range(13))
    module = Training(network, Recipe(), part, TrainingContext(NUMBERS, Path(), 0, ComputePlan()))
    truth = torch.tensor([[1.0, float("nan")], [2.0, 4.0]])
    found = torch.tensor([[1.5, 99.0], [2.0, 3.0]], requires_grad=True)
    loss = module.loss(found, truth)
    assert float(loss.detach()) == pytest.approx((0.25 + 0 + 1) / 3)
    loss.backward()
    assert found.grad[0, 1] == 0


def test_a_state_has_its_tensors_and_values_and_no_pickle(tmp_path: Path) -> None:
    kept = {"a": {0: torch.arange(3), "b": [1, 0.1, None, True]}, "c": [float("inf"), "x"], "d": {}}
    save_state(WeightsFile(tmp_path / "s.safetensors"), kept)
    state = load_state(tmp_path / "s.safetensors")
    assert torch.equal(state["a"].pop("0"), torch.arange(3))
    assert state == {"a": {"b": [1, 0.1, None, True]}, "c": [float("inf"), "x"], "d": {}}
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
    options: Any = {"batch": 2, "channels_last": False, "flips": False}
    found = predict_together([network], many, NUMBERS[:1], **options)[0][0]
    apart = [PanelData(store, [tiles], torch.zeros(1, 1), PANELS) for tiles in ([0, 1, 2, 3], [4, 5])]
    single = [predict_together([network], each, NUMBERS[:1], **options)[0][0] for each in apart]
    assert float(found[0]) == pytest.approx(float(sum(single)) / 2, abs=1e-5)


def test_what_a_study_leaves_open_follows_from_the_device(tmp_path: Path) -> None:
    given: Any = {"side": 32, "batch": 2, "memo": tmp_path / "memo.json"}
    network = build_network("test_resnet", 1)
    plan = choose(network, Compute(device="cpu"), threads=2, **given)
    assert plan.described() == "fp32, channels-last, 2 threads on cpu"
    assert plan.step_seconds > 0
    assert choose(network, Compute(device="cpu"), threads=2, **given) == plan  # its cost is remembered
    stated = Compute(device="cpu", precision="bf16", threads=1)
    assert choose(network, stated, threads=2, **given).described() == "bf16, channels-last, 1 thread on cpu"


def test_a_plan_of_casewise_1_0_is_read() -> None:
    values = {"device": "cpu", "precision": "bf16", "channels_last": True, "threads": 2, "why": "measured", "parts": 1}
    plan = ComputePlan.from_json({**values, "measured": [["bf16 channels-last", 0.1]], "peak_mb": 9.0})
    assert plan.described() == "bf16, channels-last, 2 threads on cpu"


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives the plan of the network `cnn` for these settings of `compute`; the folder is `tmp_path`."""
    monkeypatch.setattr("casewise.models.build_model.build_network", lambda *given, **more: None)
    monkeypatch.setattr("casewise.models.build_model.load_weights", lambda *given, **more: ("", []))
    monkeypatch.setattr("casewise.jobs.compute_plans.try_size", lambda *given: None)
    monkeypatch.setattr("casewise.jobs.compute_plans.divided", lambda *given: ([], []))
    monkeypatch.setattr("casewise.jobs.compute_plans.choose", lambda *given, **more: ComputePlan(why="by the device"))
    values = {"cohort": "c.csv", "targets": {"extent": {"range": [0, 4]}}, "backbones": ["cnn"], "name": "s"}
    splits = SimpleNamespace(held_out=lambda fold: [])

    def plan(batch_norm: str = "update", **compute: Any) -> ComputePlan:
        recipe = {"batch_norm": batch_norm}
        study = Study.model_validate({**values, "recipe": recipe, "compute": compute})
        inputs: Any = SimpleNamespace(study=study, splits=splits, cohort=SimpleNamespace(panels=None))
        jobs: Any = [SimpleNamespace(model="cnn", fold=0)]
        return compute_plans(jobs, inputs, RunFolder(tmp_path), 2)["cnn"]

    return plan


RECORDED = ComputePlan("cpu", "fp32", False, 2, "by another version", step_seconds=0.1)


def test_a_run_continues_with_its_recorded_plan(planned: Any, tmp_path: Path) -> None:
    RunFolder(tmp_path).compute.write({"cnn": asdict(RECORDED)})
    assert planned() == planned(threads=2) == planned(jobs=1) == RECORDED
    assert planned(threads=1).why == "by the device"  # no network is finished, so another plan is possible


def test_a_stated_plan_is_followed_and_recorded(planned: Any, tmp_path: Path) -> None:
    stated = planned(plan={"cnn": {"precision": "bf16", "threads": 3}})
    assert stated.described() == "bf16, channels-last, 3 threads on cpu"
    assert json.loads((tmp_path / "compute.json").read_text())["cnn"]["threads"] == 3
    other = RunFolder(tmp_path / "other")
    other.path.mkdir()
    other.compute.write({"cnn": asdict(RECORDED)})
    assert planned(plan=other.path).described() == RECORDED.described()


@pytest.mark.parametrize("threads", ["auto", 2])
def test_threads_do_not_depend_on_the_number_of_parallel_jobs(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    chosen = set()
    for networks, waiting in ((3, 3), (3, 1)):
        for jobs in ("auto", 1, 2, 3):
            compute = Compute(jobs=jobs, threads=threads, device="cpu")
            inputs: Any = SimpleNamespace(study=SimpleNamespace(compute=compute))
            workers, threads_of_each = _side_by_side(inputs, networks, waiting)
            assert workers == min(waiting, 4 if jobs == "auto" else jobs)
            chosen.add(threads_of_each)
    assert chosen == {2}
