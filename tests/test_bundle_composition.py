"""The networks of a bundle are those that it states, with right checksums or not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casewise.errors import CasewiseError
from casewise.files import checksum
from casewise.inference.model import load_bundle
from casewise.run_folder import BundleFolder, RunFolder
from casewise.run_folder.bundle_folder import write_archive

RUN = Path(__file__).parent / "compatible" / "1.0" / "run"
A, B, LINEAR = (f"members/{name}" for name in ("test_efficientnet", "test_efficientnet_gn", "linear_pixels"))


@pytest.fixture
def bundle(tmp_path: Path) -> BundleFolder:
    return BundleFolder(Path(shutil.copytree(RUN / "bundle", tmp_path / "bundle")))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def swap(folder: Path, first: str, second: str) -> None:
    (folder / first).rename(folder / "swapped")
    (folder / second).rename(folder / first)
    (folder / "swapped").rename(folder / second)


def restated(name: str, *keys: Any, value: Any) -> Callable[[Path], None]:
    """Change what one file states."""

    def change(values: Any) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return lambda folder: edit(folder / name, change)


def of_fold(folder: Path, fold: int, learner: str = A) -> None:
    """The network of the other fold, whose facts state this fold."""
    shutil.rmtree(folder / learner / f"fold{fold}")
    shutil.copytree(folder / learner / f"fold{3 - fold}", folder / learner / f"fold{fold}")
    edit(folder / learner / f"fold{fold}/model.json", lambda facts: facts.update(fold=fold))


def other_arrays(folder: Path) -> None:
    """The arrays of a linear model of the other fold, with their checksum in the facts."""
    weights = folder / LINEAR / "fold1/model.safetensors"
    shutil.copy(folder / LINEAR / "fold2/model.safetensors", weights)
    edit(folder / LINEAR / "fold1/model.json", lambda facts: facts.update(weights_sha256=checksum(weights)))


def other_study(folder: Path) -> None:
    edit(folder / A / "fold1/model.json", lambda facts: facts.update(split="0" * 64))


CHANGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "two learners swapped": (lambda f: swap(f, f"{A}/fold1", f"{B}/fold1"), (f"{A}/fold1", "test_efficientnet_gn")),
    "two folds swapped": (lambda f: swap(f, f"{A}/fold1", f"{A}/fold2"), (f"{A}/fold1", "fold 2")),
    "a learner renamed": (restated(f"{B}/fold1/model.json", "model", value="test_efficientnet"), (f"{B}/fold1",)),
    "another fold's network": (lambda f: of_fold(f, 2), (f"{A}/fold2", "weights")),
    "another fold's linear model": (lambda f: of_fold(f, 1, LINEAR), (f"{LINEAR}/fold1", "weights")),
    "other arrays": (other_arrays, (f"{LINEAR}/fold1", "weights")),
    "another split": (other_study, (f"{A}/fold1", "split")),
    "targets swapped": (
        lambda f: edit(f / A / "fold1/model.json", lambda facts: facts["outputs"].reverse()),
        (f"{A}/fold1",),
    ),
    "classes reversed": (
        restated(f"{A}/fold2/model.json", "outputs", 1, "classes", value=["no", "yes"]),
        (f"{A}/fold2",),
    ),
    "classes of all reversed": (restated("bundle.json", "outputs", 1, "classes", value=["no", "yes"]), ("outputs",)),
    "positive class": (restated(f"{A}/fold2/model.json", "outputs", 1, "positive", value="no"), ("outputs",)),
    "input size": (restated(f"{A}/fold1/model.json", "settings", "images", "size", value=64), ("settings.images",)),
    "size of the bundle": (restated("bundle.json", "settings", "images", "size", value=64), ("settings.images",)),
    "panels of a fold": (
        restated(f"{LINEAR}/fold2/model.json", "settings", "panels", "by", value="image"),
        ("panels",),
    ),
    "listed twice": (lambda f: edit(f / "bundle.json", lambda about: about["members"].append(about["members"][0])), ()),
    "list cut": (lambda f: edit(f / "bundle.json", lambda about: about["members"].pop()), ("members",)),
    "list without a learner": (
        lambda f: edit(f / "bundle.json", lambda about: about.update(members=about["members"][:2])),
        ("members",),
    ),
    "fewer folds": (restated("bundle.json", "folds", value=1), ("members",)),
    "fewer learners": (
        lambda f: edit(f / "bundle.json", lambda about: about["learners"].remove("linear_pixels")),
        ("linear_pixels",),
    ),
    "a further network": (lambda f: shutil.copytree(f / A / "fold1", f / A / "fold3"), (f"{A}/fold3",)),
    "a stacker of a missing learner": (
        restated("bundle.json", "combination", "stackers", "mean_of_learners", "dark", "weights", value={"other": 1.0}),
        ("combination",),
    ),
}


@pytest.mark.parametrize("form", ["folder", "archive", "run"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_bundle_of_other_networks_than_it_states_is_refused(
    bundle: BundleFolder, tmp_path: Path, name: str, form: str
) -> None:
    change, words = CHANGES[name]
    change(bundle.path)
    bundle.manifest_path.unlink()
    bundle.write_manifest("1.0", "inputs")
    path = bundle.path
    if form == "archive":
        path = write_archive(bundle, tmp_path / "bundle.zip")
    elif form == "run":
        path = Path(shutil.copytree(RUN, tmp_path / "run", ignore=shutil.ignore_patterns("bundle")))
        bundle.path.rename(path / "bundle")
    with pytest.raises(CasewiseError) as caught:
        load_bundle(path)
    for word in words:
        assert word in str(caught.value)


def test_a_network_that_the_manifest_does_not_list_is_refused(bundle: BundleFolder) -> None:
    assert load_bundle(bundle.path).learners
    (bundle.path / A / "fold1" / ".DS_Store").write_text("")
    assert load_bundle(bundle.path).learners  # other systems leave hidden files
    shutil.copytree(bundle.path / A / "fold1", bundle.path / A / "fold3")
    with pytest.raises(CasewiseError, match="fold3"):
        load_bundle(bundle.path)


def test_folds_of_a_run_that_were_exchanged_are_not_finished(tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(RUN, tmp_path / "run")))
    jobs = [run.job("test_efficientnet", fold) for fold in (0, 1)]
    fingerprint = jobs[0].record.read()["fingerprint"]
    assert all(job.finished(fingerprint) for job in jobs)
    swap(jobs[0].path.parent, "fold1", "fold2")
    assert not any(job.finished(fingerprint) or job.intact(fingerprint) for job in jobs)
