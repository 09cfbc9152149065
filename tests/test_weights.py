import json
from dataclasses import replace
from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from urllib.error import URLError

import huggingface_hub.errors as hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from casewise.console import Silent
from casewise.errors import RunError, SplitError, WeightsError
from casewise.files import checksum
from casewise.jobs.fitting import PlannedJob
from casewise.jobs.job import JobInputs, build, choose
from casewise.jobs.plan import Job, Progress
from casewise.modalities.base import StoreAddress
from casewise.models.backbones import build_network
from casewise.models.encoders import embedder
from casewise.models.sources.torchvision import downloaded_file
from casewise.models.weights import download_of, load_weights, read_tensors
from casewise.pipeline.read import read, split
from casewise.run_folder import RunFolder
from casewise.study.sources import source_of
from casewise.study.weight_files import FirstWeights
from casewise.training.compute_plan import ComputePlan
from casewise.training.cost import Timer
from tests.chest_study import chest_study

NAME = "shufflenet_v2_x0_5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from torchvision.models import get_model

    torch.manual_seed(7)
    save_file(get_model(NAME, weights=None).state_dict(), tmp_path / f"{NAME}.safetensors")
    return tmp_path


def test_a_folder_gives_the_library_weights_bit_for_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = load_file(folder / f"{NAME}.safetensors")
    monkeypatch.setenv("CASEWISE_WEIGHTS", str(folder))
    for other in (folder, None):
        network = build_network(NAME, 3)
        assert str(folder) in load_weights(network, "pretrained", folder=other)[0]
        assert torch.equal(network.body.state_dict()["conv1.0.weight"], stored["conv1.0.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_no_numbers_are_refused(folder: Path, dtype: torch.dtype, value: float) -> None:
    tensors = {name: values.to(dtype) for name, values in load_file(folder / f"{NAME}.safetensors").items()}
    tensors["conv1.0.weight"][0, 0, 0, 0] = value
    save_file(tensors, folder / f"{NAME}.safetensors")
    with pytest.raises(WeightsError, match=r"conv1\.0\.weight contains values that are not finite"):
        load_weights(build_network(NAME, 1), str(folder))


def test_a_file_of_another_architecture_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not belong to resnet18: conv1\.weight is missing"):
        load_weights(build_network("resnet18", 1), str(folder / f"{NAME}.safetensors"))
    with pytest.raises(WeightsError, match=f"Did you mean '{NAME}"):
        load_weights(build_network("shufflenet_v2_x1_0", 1), str(folder))
    with pytest.raises(WeightsError, match="Did you mean 'pretrained'"):
        load_weights(build_network("resnet18", 1), str(folder / "pretraind"))


def test_an_embedder_is_known_by_the_content_of_its_weights(chests: Path, folder: Path) -> None:
    study = chest_study(chests, backbones=[NAME], weights="pretrained").model_copy(update={"weights_dir": folder})
    file, checksums = folder / f"{NAME}.safetensors", []
    for factor in (1.0, 0.5):
        save_file({name: values * factor for name, values in load_file(file).items()}, file)
        network = embedder(study, None)  # type: ignore[arg-type]
        assert network.weights_sha256 == checksum(file)
        checksums.append(network.weights_sha256)
    assert checksums[0] != checksums[1]


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04broken"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    for suffix in (".safetensors", ".pth"):
        path = tmp_path / f"w{suffix}"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=path.name):
            load_weights(build_network(NAME, 1), str(path))


def test_a_pickle_with_code_in_it_is_not_opened(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="more than tensors"):
        load_weights(build_network(NAME, 1), str(tmp_path / "w.pth"))


def test_a_planted_file_in_the_cache_of_pytorch_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    class Planted:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("CASEWISE_WEIGHTS", raising=False)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"conv1.weight": Planted()}, folder / "resnet18-f37072fd.pth")
    with pytest.raises(WeightsError, match=r"was changed: its SHA-256 does not begin with f37072fd"):
        source_of("resnet18").download("resnet18")
    digits = hashlib.sha256((folder / "resnet18-f37072fd.pth").read_bytes()).hexdigest()[:8]
    (folder / "resnet18-f37072fd.pth").rename(folder / f"resnet18-{digits}.pth")
    with pytest.raises(WeightsError, match="more than tensors"):
        read_tensors(downloaded_file(f"https://example.org/resnet18-{digits}.pth"))
    assert not (tmp_path / "ran").exists()


def test_nothing_found_names_all_four_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(WeightsError) as error:
        load_weights(build_network(NAME, 1), "pretrained", folder=tmp_path)
    for way in (f"{NAME}.safetensors", "CASEWISE_WEIGHTS", "bundle:PATH", "download", "weights: random", str(tmp_path)):
        assert way in str(error.value)


@pytest.mark.parametrize(
    "error",
    [URLError("offline"), hub.HFValidationError("a/b/c"), hub.HTTPError("refused"), IncompleteRead(b"")],  # type: ignore[attr-defined]
)
def test_whatever_a_download_raises_becomes_one_error(error: Exception) -> None:
    with pytest.raises(WeightsError, match=r"owner_net\.json") as raised, download_of(FirstWeights("hf-hub:owner/net")):
        raise error
    assert raised.value.__cause__ is error


def bundle(folder: Path, subjects: list[str], name: str = NAME) -> Path:
    network = build_network(NAME, 2)
    save_file(network.state_dict(), folder / "model.safetensors")
    facts = {"format": 1, "backbone": name, "subjects": subjects, "weights": "random", "network": {}}
    facts["weights_sha256"] = checksum(folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(facts))
    return folder


def test_a_bundle_trained_on_the_subjects_that_stop_a_training_is_refused(chests: Path, tmp_path: Path) -> None:
    study = chest_study(chests, recipe={"early_stopping": {"monitor": "inner"}})
    cohort, folder = read(study, RunFolder(tmp_path / "run"), Silent()), RunFolder(tmp_path / "run")
    inputs = JobInputs(study, cohort, split(study, cohort, folder, Silent()), StoreAddress(tmp_path, ""))
    job = Job("test_resnet", 0, folder.job("test_resnet", 0), "the test's")
    progress = Progress(job, inputs, Timer(tmp_path))
    choice = choose(job, inputs, ComputePlan(), progress)
    assert choice.excluded_subjects == sorted({*inputs.splits.held_out(0), *choice.stop_subjects})
    study = study.model_copy(update={"weights": f"bundle:{bundle(tmp_path, choice.stop_subjects)}"})
    with pytest.raises(SplitError):
        build(PlannedJob(job, replace(inputs, study=study), ComputePlan(), choice, progress))


def test_a_bundle_gives_its_body_unless_it_saw_a_held_out_subject(tmp_path: Path) -> None:
    stated, network = f"bundle:{bundle(tmp_path, ['a', 'b'])}", build_network(NAME, 5)
    assert load_weights(network, stated, held_out=["c"])[1] == ["a", "b"]
    stored = load_file(tmp_path / "model.safetensors")
    assert torch.equal(network.body.conv1[0].weight, stored["body.conv1.0.weight"])
    with pytest.raises(SplitError, match=r"1 subject held out.*\(b\)"):
        load_weights(network, stated, held_out=["b", "c"])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": 99}, WeightsError),
        ({"comparison_only": True}, WeightsError),
        ({"network": None}, WeightsError),
        ({"network": {"scaling": "symmetric"}}, WeightsError),
        ({"network": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}, WeightsError),
        ({"weights_sha256": "0" * 64}, RunError),
    ],
)
def test_a_bundle_whose_facts_do_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], error: type) -> None:
    folder = bundle(tmp_path, ["a"])
    facts = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(facts | change))
    with pytest.raises(error):
        load_weights(build_network(NAME, 5), f"bundle:{folder}")
    del facts["subjects"]
    (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(WeightsError, match="subjects"):
        load_weights(build_network(NAME, 5), f"bundle:{folder}")
