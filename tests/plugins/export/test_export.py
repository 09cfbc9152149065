"""Exported graphs: the values of casewise without casewise, for every kind of network and any number of panels."""

import importlib.util
import json
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from casewise.cli.main import command_line
from casewise.errors import CasewiseError
from casewise.inference.bundle import Bundle, ComputeFacts, output_facts, settings_of
from casewise.inference.model import load_bundle
from casewise.modalities.dataset import FeatureData
from casewise.modalities.registry import modality_of
from casewise.models.build_model import network_of, scaled_facts
from casewise.models.linear import bank_of
from casewise.models.outputs import outputs_of
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.export import formats
from casewise.plugins.export.command import export_run as export
from casewise.plugins.export.formats import FORMATS, format_named
from casewise.plugins.export.learner import LearnerGraph, TrainedLearner, selected_members
from casewise.plugins.export.write import (
    TOLERANCE,
    check_parity,
    random_sample,
    reference,
    with_gaps,
)
from casewise.run import Run, run
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
from casewise.training.linear_models import fit_head
from tests.chest_study import THREE, chest_study
from tests.combinations import make_table, settings
from tests.plugins.export import foreign_program
from tests.plugins.export.foreign_program import Exported

SIDE = 32
TARGETS: dict[str, Any] = {
    "extent": {"range": "0..20"},
    "label": {"classes": ["no", "mild", "severe"]},
    "grade": {"kind": "ordinal", "range": "0..3"},
}
SEQUENCES: dict[str, Any] = {"sequences": ["T1", "T2"], "in_plane_size": SIDE, "bias": "none", "smoothing": "none"}
SEQUENCES |= {"fusion": ["early", "late", "late-shared"]}
# What is exported: the learner, and the changes of the study.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn": ("test_resnet", {"panels": {"by": "case", "grid": "1x2"}, "test_time_augmentation": True}),
    "map": ("test_resnet", {"recipe": {"pool": "map"}}),
    "fastai": ("densenet121", {"recipe": {"head": "fastai"}}),
    "fastai, bags": ("test_resnet", {"panels": {"by": "case", "pooling": "maps"}, "recipe": {"head": "fastai"}}),
    "vit": ("test_vit", {"images": {"size": 160}}),
    "early": ("test_resnet@early", {"volumes": SEQUENCES}),
    "late": ("test_resnet@late", {"volumes": SEQUENCES}),
    **{
        f"{fusion} with missing sequences": (f"test_resnet@{fusion}", {"volumes": SEQUENCES | {"missing": "mask"}})
        for fusion in SEQUENCES["fusion"]
    },
    "attention": ("test_resnet", {"panels": {"by": "case", "pooling": "attention"}}),
    "maps": ("test_resnet", {"panels": {"by": "case", "pooling": "maps"}}),
    "pixels": ("linear_pixels", {}),
    "features": ("linear_features", {"encoders": ["test_resnet"], "images": {"size": 200}}),
    "features of a transformer": ("linear_features", {"encoders": ["test_vit"]}),
    "a radial kernel on features": ("kernel_features", {"encoders": ["test_resnet"]}),
}
# Recording a graph takes a second, or several as ONNX; the others are slow tests.
QUICK = ("cnn", "late with missing sequences", "attention", "pixels", "a radial kernel on features")
QUICK_IN_ONNX = ("attention",)
has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
needs_onnx = pytest.mark.skipif(not has_onnx, reason="the extra `export` is not installed")


def marks_of(kind: str, to: str) -> list[pytest.MarkDecorator]:
    slow = [] if kind in (QUICK_IN_ONNX if to == "onnx" else QUICK) else [pytest.mark.slow]
    return [*slow, needs_onnx] if to == "onnx" else slow


CASES = [pytest.param(kind, to, marks=marks_of(kind, to), id=f"{kind}, {to}") for to in FORMATS for kind in KINDS]


@dataclass(frozen=True)
class UntrainedBundle(Bundle):
    """A bundle of a network of random weights that is in no folder."""

    network_now: Any = None

    def load(self, **_: Any) -> Any:
        return self.network_now.eval()


@cache
def learner_of(kind: str, folds: int = 0) -> TrainedLearner:
    """A learner of random networks with random means of the labels; folds have different preparations of scans.

    It has two folds where they differ in kind, and one elsewhere, which takes half the time to record.
    """
    model, changes = KINDS[kind]
    folds = folds or (2 if kind == "cnn" or "volumes" in changes or "encoders" in changes else 1)
    values: dict[str, Any] = {"name": "export", "cohort": "cases.csv", "images": {"size": SIDE}, "weights": "random"}
    values |= {"panels": {"by": "case"}, "targets": TARGETS, "evaluation": {"response": False}}
    values |= {"backbones": [] if model.endswith(("_pixels", "_features")) else [model.partition("@")[0]]}
    values |= {"recipe": {"epochs": 1, "dropout": 0.5}}
    values |= {key: {**values.get(key, {}), **new} if isinstance(new, dict) else new for key, new in changes.items()}
    values["images"] |= {} if "volumes" in changes else {"fit": "pad", "padding": "black"}  # a run has planned them
    study = build_study(values, source="the test's study", folder=Path())
    assert model in study.learners
    view, members = study.of_learner(model), []
    for fold in range(folds):
        torch.manual_seed(fold)
        network = network_of(view, model)
        if members and "encoders" in changes:  # one encoder for all folds, as in a run
            bank_of(network).keep_encoders(bank_of(members[0].load()).encoders)
        network.target_mean += torch.rand(len(network.target_mean)) * 5
        network.target_std *= 1 + torch.rand(len(network.target_std))
        for name, parameter in network.named_parameters():
            if name.endswith("missing_token"):
                torch.nn.init.normal_(parameter)
        outputs = outputs_of(view)
        if model == "kernel_features":
            truth = torch.stack([torch.rand(24), torch.arange(24.0) % 3, torch.arange(24.0) % 4], dim=1)
            with torch.no_grad():
                data = FeatureData(network.eval().features(torch.rand(24, 3, SIDE, SIDE)), truth)
            fit_head(network, data, [str(number) for number in range(24)], outputs, seed=fold, is_radial=True)
        facts = scaled_facts({"name": model}, network), output_facts(view, outputs, network), settings_of(view, model)
        scans = {"sequences": ["T1", "T2"], "standard": [[0.0, 0.1 * fold + 0.2, 1.0]] * 2} if study.volumes else {}
        rest: Any = (ComputeFacts(), 4, frozenset(), frozenset(), {})
        members.append(UntrainedBundle(Path(), model, fold, *facts, scans, *rest, network_now=network))
    return TrainedLearner.of(members)


@pytest.mark.parametrize(("kind", "to"), CASES)
def test_a_graph_gives_the_values_of_casewise_for_any_number_of_panels(kind: str, to: str, tmp_path: Path) -> None:
    learner, written = learner_of(kind), tmp_path / "graph"
    graph_format = format_named(to)
    graph_format.write(learner.graph(), random_sample(learner).panels, learner.names, written)
    assert os.fsencode(Path(formats.__file__).parent) not in written.read_bytes()  # the computer of the export
    compute = graph_format.open(written, learner.names)
    sample = with_gaps(random_sample(learner), sequences=learner.may_lack_sequences)
    checked = check_parity(learner, compute, sample, "")
    assert 0 <= checked.largest <= TOLERANCE
    generator = torch.Generator().manual_seed(7)
    for count in (1, 3):
        images = [5] if learner.bags else []
        panels = [torch.rand([count, *images, *learner.tile_shape], generator=generator) for _ in learner.fitted]
        values, expected = compute(panels), reference(learner, panels)
        assert [tuple(each.shape) for each in values] == [(count, 1), (count, 3), (count, 4)]
        for own, each in zip(expected, values, strict=True):
            np.testing.assert_allclose(each.numpy(), own, atol=1e-4)
        assert torch.allclose(values[1].sum(dim=1), torch.ones(count), atol=1e-5)
    # the panels matter, so that equal values are no accident
    assert not np.allclose(expected[1][0], expected[1][1], atol=1e-6)
    gaps = learner.bags or learner.may_lack_sequences
    assert bool(with_gaps(random_sample(learner), sequences=learner.may_lack_sequences).panels[0].isnan().any()) == gaps


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> Run:
    settings = {"images": {"channels": "rgb", "fit": "pad", "padding": "reflect"}, "recipe": {"epochs": 1}}
    settings |= {"panels": {"by": "case", "grid": "1x2"}, "test_time_augmentation": True, "stack": ["mean"]}
    settings |= {"compute": {"precision": "bf16"}}
    study = chest_study(chests, backbones=["test_resnet", "cnn"], **settings)
    return run(study, tmp_path_factory.mktemp("export") / "run")


@pytest.mark.parametrize("to", ["torchscript", pytest.param("onnx", marks=[needs_onnx, pytest.mark.slow])])
def test_an_exported_run_predicts_like_casewise_by_its_page(done: Run, chests: Path, tmp_path: Path, to: str) -> None:
    output = tmp_path / "exported"
    result = CliRunner().invoke(
        command_line(),
        ["export", str(done.folder), "--to", to, "--output", str(output), "--learner", "test_resnet"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    description = json.loads((output / "preprocessing.json").read_text())
    (entry,) = description["learners"]
    guide = (Path(__file__).parents[3] / "docs" / "howto-export.md").read_text().partition("## The fields of")[2]
    records = [description, entry, *entry["inputs"], *entry["outputs"], entry["preparation"], entry["in_graph"]]
    records += [entry["parity"], entry["self_test"]]
    assert not [key for record in records for key in record if f"`{key}`" not in guide]
    own_files = {entry["file"], "preprocessing.json", "README.md", "reference.jpg", "test_resnet.panel.npy"}
    assert {path.name for path in output.iterdir()} == own_files
    names = [name for column in ("path", "subject") for name in pd.read_csv(chests)[column]]
    contents = [path.read_bytes() for path in output.iterdir()]
    assert not [name for name in [*names, chests.parent.name] for data in contents if name.encode() in data]
    assert (entry["learner"], entry["folds"], entry["parity"]["source"]) == ("test_resnet", [1, 2], "cases")
    assert 0 <= entry["parity"]["largest"] <= entry["parity"]["tolerance"] == TOLERANCE
    (stated,) = entry["inputs"]
    assert (stated["name"], stated["shape"]) == ("panels", ["batch", 3, 64, 128])
    assert (stated["dtype"], stated["range"], stated["channels"]) == ("float32", [0.0, 1.0], ["red", "green", "blue"])
    assert entry["in_graph"]["mirrored_panels"]
    program, columns = Exported(output, "test_resnet"), [f"probability of {name}" for name in THREE]
    assert max(program.test()) <= 1
    assert program.test()[0] == 0
    cases, noise = [[chests.parent / path] for path in pd.read_csv(chests)["path"][:4]], np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 256, (37, 50, 4), dtype=np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(noise.integers(0, 4000, (201, 303), dtype=np.uint16)).save(tmp_path / "deep.png")
    cases += [[output / "reference.jpg", tmp_path / "small.png"], [tmp_path / "small.png", tmp_path / "deep.png"]]
    for case in cases:
        table = load_bundle(done.folder).predict([case], learner="test_resnet")
        case.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))])
        panel = program.panel(case)
        assert len(case) == 1 or (panel != program.panel(case[::-1])).any()
        (values,) = program.values(panel).values()
        np.testing.assert_allclose(values, table[columns].to_numpy(), atol=1e-4)
    # the networks were trained in bfloat16, and the figures of the run are those of what it ships
    assert {job["precision"] for job in done.finished.jobs} == {"bf16"}
    table = load_bundle(done.folder).predict(chests, learner="test_resnet").set_index("case")
    tested = done.rows[(done.rows["stage"] == "test") & (done.rows["model"] == "test_resnet")]
    values, of_run = table.loc[tested["case"], columns].to_numpy(), tested[["p0", "p1", "p2"]].to_numpy(float)
    assert len(of_run)
    np.testing.assert_allclose(values, of_run, rtol=0, atol=1e-5)
    page = (output / "README.md").read_text()
    assert all(text in page for text in ("float32", "(batch, 3, 64, 128)", "red, green, blue", *THREE))
    imports = set(re.findall(r"^ *(?:from|import) (\w+)", Path(foreign_program.__file__).read_text(), re.MULTILINE))
    of_python = {"__future__", "json", "math", "collections", "pathlib", "typing"}
    assert imports <= of_python | {"numpy", "PIL", "onnxruntime", "torch"}


@pytest.mark.parametrize(
    ("modality", "way"), [pytest.param("volumes", "several", marks=pytest.mark.slow), ("photographs", "attention")]
)
def test_every_learner_of_a_run_gives_the_predictions_of_casewise(modality: str, way: str, tmp_path: Path) -> None:
    table = make_table(tmp_path, modality, "here", seed=3)
    values = settings(modality, "classes", table, way)
    done = run(build_study(values, source="the test's study", folder=tmp_path), tmp_path / "run")
    written = export(done.folder, tmp_path / "out", to="torchscript")
    prepared, predicted = (
        FinishedRun.open(RunFolder(done.folder)).prepared,
        load_bundle(done.folder).predict(table, learner="networks"),
    )
    description = json.loads((written.folder / "preprocessing.json").read_text())
    assert len(description["learners"]) == (3 if modality == "volumes" else 2)
    for entry in description["learners"]:
        assert entry["parity"]["source"] == "cases"
        assert max(Exported(written.folder, entry["learner"]).test()) <= 1
        study, panels = prepared.study.of_learner(entry["learner"]), []
        for stated in entry["inputs"]:
            dataset = modality_of(study).dataset(prepared.store, study, prepared.cohort.panels, None, stated["fitted"])
            slots, owner = dataset.views()
            panels.append(dataset.plain_batch(slots, torch.device("cpu")))
            # numbers in the statement of the shape, names where any size will do
            fixed = [size for size in stated["shape"] if isinstance(size, int)]
            assert list(panels[-1].shape[-len(fixed) :]) == fixed
            assert len(stated["shape"]) == panels[-1].ndim
        names = formats.Names(tuple(stated["name"] for stated in entry["inputs"]), ("classes",))
        (graph_values,) = format_named("torchscript").open(written.folder / entry["file"], names)(panels)
        rows = pd.DataFrame(graph_values.numpy(), columns=["probability of healthy", "probability of ill"])
        rows = rows.groupby(np.array(prepared.cohort.panels["case"].astype(str))[owner.numpy()]).mean()
        own = predicted[predicted["learner"] == entry["learner"]].set_index("case")[list(rows.columns)]
        assert len(own) == len(rows) == 16
        np.testing.assert_allclose(rows.loc[own.index].to_numpy(), own.to_numpy(), atol=1e-4)
    if modality == "volumes":
        assert all(len(entry["inputs"]) == 2 for entry in description["learners"])
        assert description["learners"][0]["inputs"][0]["channels"] == ["T1", "T2"]


def test_all_learners_are_exported_and_the_coefficients_of_those_that_combine_them(done: Run, tmp_path: Path) -> None:
    written = export(done.folder, tmp_path / "all", to="torchscript")
    assert set(written.graphs) == {"test_resnet", "cnn"}
    description = json.loads((written.folder / "preprocessing.json").read_text())
    assert description["stackers"]["mean_of_learners"]["label"]["weights"] == {"test_resnet": 0.5, "cnn": 0.5}
    of_bundle = export(done.folder / "bundle", tmp_path / "bundle", to="torchscript", learners=["cnn"])
    again = json.loads((of_bundle.folder / "preprocessing.json").read_text())
    assert (again["stackers"], again["headline"]) == (description["stackers"], done.results.main.learner)
    # again, into the same folder
    assert set(export(done.folder, tmp_path / "all", to="torchscript").graphs) == {"test_resnet", "cnn"}


def test_other_graphs_are_refused_and_leave_nothing(done: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LearnerGraph.forward
    monkeypatch.setattr(LearnerGraph, "forward", lambda *given: tuple(values + 2e-4 for values in forward(*given)))
    with pytest.raises(CasewiseError, match=r"cnn: .*differs from casewise by 0\.0002 in label"):
        export(done.folder, tmp_path / "out", to="torchscript", learners=["cnn"])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(done: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = load_bundle(done.folder).members
    with pytest.raises(CasewiseError, match=r"mean_of_learners combines .*test_resnet, cnn"):
        selected_members(members, ["mean_of_learners"])
    with pytest.raises(CasewiseError, match="Did you mean 'test_resnet'"):
        selected_members(members, ["test_resnt"])
    with monkeypatch.context() as patch:
        patch.setattr("casewise.inference.model.load_bundle", lambda *_: pytest.fail("a model is loaded"))
        with pytest.raises(CasewiseError, match="Did you mean 'test_resnet'"):
            export(done.folder, tmp_path / "out", learners=["cnn", "test_resnt"])
    with pytest.raises(CasewiseError, match="Did you mean 'onnx'"):
        format_named("onx")
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(CasewiseError, match=r"letter\.txt"):
        export(done.folder, tmp_path, to="torchscript")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(CasewiseError, match=r"onnxruntime: pip install 'casewise\[export\]'"):
        format_named("onnx")
