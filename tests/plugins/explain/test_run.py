"""`casewise explain` on finished runs of volumes, slice images, pictures and slides; and all that can be wrong."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from casewise.errors import RunError
from casewise.modalities.base import CaseMask
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.explain import saliency as saliency_file
from casewise.plugins.explain.case_selection import explain_target
from casewise.plugins.explain.command import explain_run
from casewise.plugins.explain.methods.dispatch import peak_pixels
from casewise.plugins.explain.metrics import as_panel
from casewise.plugins.explain.outputs import write_native
from casewise.plugins.explain.results import read_results
from casewise.plugins.explain.run import ExplainSettings, Explanation
from casewise.plugins.explain.saliency import SaliencyMap, compare_predictions, saliency_maps
from casewise.plugins.phantoms.pancreas import make_pancreas
from casewise.report.context import read_context
from casewise.run import run
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
from tests.chest_study import SMALL
from tests.plugins.explain.maps import cell_maps, without_a_sequence

central = pytest.importorskip("casewise.plugins.volumes.preparation").central
open_slices = pytest.importorskip("casewise.plugins.volumes.slice_store").open_slices
nibabel = pytest.importorskip("nibabel", reason="the package that reads NIfTI is optional")
pytest.importorskip("pytorch_grad_cam", reason="the package that makes Grad-CAM is optional")


SCANS = {"sequences": ["T1", "T2"], "in_plane_size": 64, "bias": "none", "smoothing": "none"}
VOLUMES = {key: SMALL[key] for key in ("synthetic", "weights", "audit", "compute", "baselines")}
VOLUMES |= {"volumes": SCANS | {"fusion": ["late", "T2"], "missing": "mask", "lesion": "lesion"}}
VOLUMES |= {"name": "planted", "images": {"size": 32}, "panels": {"by": "case", "grid": "3x3"}}
VOLUMES |= {"targets": {"grade": {"classes": ["normal", "high"], "positive": "high"}}}
VOLUMES |= {"split": {"test": 0.2, "folds": 2, "restarts": 20}, "backbones": ["test_resnet@late", "test_vit@T2"]}
VOLUMES |= {"recipe": {"epochs": 1, "batch_size": 4, "optimizer": "adam", "schedule": "cosine"}}
VOLUMES["recipe"] |= {"early_stopping": {"monitor": "none"}}
VOLUMES |= {"evaluation": {"bootstrap_resamples": 100, "response": False, "counterfactual_cases": 0}}
VOLUMES |= {"accept": {"twins-across-subjects": "abdomens of 32 pixels look alike"}}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on ten abdomens, every other with a bright ball; one lacks a sequence."""
    folder = tmp_path_factory.mktemp("pancreas")
    shape: Any = {"size": (48, 48), "slices": (10, 12), "lesion": "planted"}
    table = make_pancreas(folder, subjects=10, classes=("normal", "high"), seed=2, **shape)
    without_a_sequence(table, 2)
    study = build_study(VOLUMES | {"cohort": table}, source="the test's study", folder=table.parent)
    return run(study, tmp_path_factory.mktemp("planted") / "run").folder


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Few cases are compared and deleted."""
    with pytest.MonkeyPatch.context() as patch:
        for name, number in (("RANDOMISED_CASES", 1), ("DELETED_CASES", 2), ("DRAWS", 2)):
            patch.setattr(f"casewise.plugins.explain.localisation.{name}", number)
        yield


@pytest.fixture(scope="module")
def explained(planted: Path, few: None) -> Explanation:
    """The run is explained and measured once."""
    return explain_run(planted, ExplainSettings(measure=True))


@pytest.fixture(scope="module")
def opened(planted: Path) -> FinishedRun:
    return FinishedRun.open(RunFolder(planted))


def slices_of(opened: FinishedRun) -> Any:
    return open_slices(Path(opened.prepared.store.folder), opened.prepared.store.address)


def lesion_of(opened: FinishedRun, row: int) -> CaseMask:
    return opened.modality.mask(opened.prepared, row, "lesion")


def marked_rows(opened: FinishedRun) -> list[int]:
    return [row for row in range(len(opened.cohort.panels)) if lesion_of(opened, row).planes.any()]


def test_a_run_is_explained_measured_and_told(planted: Path, opened: FinishedRun, explained: Explanation) -> None:
    table = pd.read_parquet(explained.table)
    assert set(table["network"]) == set(opened.study.networks)
    assert dict(zip(table["network"], table["method"], strict=True)) == {
        name: "rollout" if "vit" in name else "grad-cam" for name in opened.study.networks
    }
    assert (table["stage"] == "oof").all()
    sides = opened.splits.side
    assert all(row["folds"] == f"fold {sides[row['subject']] + 1}" for _, row in table.iterrows())
    for line in table[~table["missing"]].itertuples():
        files = json.loads(line.files)
        assert files
        for name in files:
            source = opened.study.cohort.parent / f"images/{line.subject}/{line.sequence}.nii.gz"
            carried, scan = nibabel.load(explained.folder / name), nibabel.load(source)
            assert carried.shape == scan.shape
            np.testing.assert_allclose(carried.affine, scan.affine, atol=1e-4)
    told = json.loads((planted / "explanations.json").read_text())
    shown = [entry for case in told["shown"]["cases"] for row in case["rows"] for entry in row["maps"]]
    assert all(bool(entry["layer"]) == (entry["method"] == "grad-cam") for entry in shown)
    unseen = [r for r in marked_rows(opened) if sides[str(opened.cohort.panels["subject"].iloc[r])] >= 0]
    windows = {r: central(int(slices_of(opened).count[r]), 9) for r in unseen}
    inside = sum(bool(lesion_of(opened, r).planes[windows[r]].any()) for r in unseen)
    assert (told["measured"]["with_mask"], told["measured"]["outside_window"]) == (inside, len(unseen) - inside)
    for name in opened.study.networks:
        figures = told["measured"]["networks"][name]
        assert_sound(figures, told["measured"]["with_mask"])
    page = explained.report.read_text()
    assert '<section id="saliency"' in page
    assert page.count(", correct") + page.count(", wrong") >= len(opened.study.networks)


def assert_sound(figures: dict[str, Any], cases: int) -> None:
    """What must hold of a network's figures whatever it looks at."""
    every = figures["all"]
    assert every["hit"]["n_cases"] == cases
    counts = [(figures[name] or {"hit": {"n_cases": 0}})["hit"]["n_cases"] for name in ("correct", "erroneous")]
    assert sum(counts) == cases
    for name in ("share_inside", "random_weights_share", "prior_share", "mask_share"):
        assert 0 < every[name]["value"] < 1
    differs = every["hit"]["value"] - every["random_weights_hit"]["value"]
    assert every["hit_over_random_weights"]["value"] == pytest.approx(differs)
    assert every["prior_hit"]["value"] == max(every[f"{n}_centre_hit"]["value"] for n in ("tile", "panel"))
    assert (figures["draws"], figures["random_weights_maps"]) == (2, 2 * cases)
    assert figures["sanity"]["steps"][-1]["groups"] > 1
    assert {"map", "random", "centre", "brightness", "over_centre"} <= set(figures["deletion"])


def test_measured_stays_until_networks_are_others(planted: Path, explained: Explanation, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(planted, tmp_path / "run"))
    explain_run(folder, ExplainSettings(networks=["test_vit@T2"]))
    told = read_results(RunFolder(folder))
    assert "test_vit@T2" in told["measured"]["networks"]
    assert read_context(folder).explanations == told  # the Markdown page and the report agree
    study = json.loads((folder / "study.json").read_text())
    other = {**study, "volumes": {**study["volumes"], "lesion": "lesions"}}
    for changed in (other, {**study, "seed": study["seed"] + 1}, {**study, "evaluation": {"bootstrap_resamples": 9}}):
        evaluation = study["evaluation"] | changed["evaluation"]
        RunFolder(folder).study.write({**changed, "evaluation": evaluation})
        told = read_results(RunFolder(folder))
        assert told["measured"] is None
        assert told["shown"]
    RunFolder(folder).study.write(study)
    facts = RunFolder(folder).job("test_vit@T2", 0).facts
    trained = facts.read()
    facts.write(trained | {"weights_sha256": "of other weights"})
    assert read_results(RunFolder(folder)) is None
    facts.write(trained)
    assert read_results(RunFolder(folder)) is not None
    note = json.loads((folder / "fingerprint.json").read_text())
    RunFolder(folder).fingerprint.write(note | {"fingerprint": "other"})
    assert read_results(RunFolder(folder)) is None


def rows_said(**changed: Any) -> pd.DataFrame:
    about = {"case": "a/1", "region": "", "image": "", "target": "grade", "kind": "classification"}
    return pd.DataFrame([{**about, "y_true": 1.0, "y_pred": 1.0, "p0": 0.2, "p1": 0.8, **changed}])


@pytest.mark.parametrize(
    ("recorded", "repeated"),
    [
        *[({"case": "b/1"}, {}), ({"region": "left"}, {})],
        *[({}, {"p1": np.nan}), ({}, {"y_pred": np.nan}), ({}, {"p1": 0.7})],
    ],
)
def test_what_cannot_be_compared_is_not_taken_for_the_same(recorded: dict[str, Any], repeated: dict[str, Any]) -> None:
    compare_predictions(rows_said(), rows_said(p1=0.79), {"grade": 1.0}, "network")
    with pytest.raises(RunError, match="case a/1"):
        compare_predictions(rows_said(**recorded), rows_said(**repeated), {"grade": 1.0}, "network")
    with pytest.raises(RunError, match=r"predictions.parquet"):
        compare_predictions(rows_said(), rows_said().iloc[:0], {"grade": 1.0}, "network")


def test_panels_are_those_of_prediction(opened: FinishedRun) -> None:
    model, fold = "test_resnet@late", 1
    one, names = saliency_file.load_model(opened, model, fold), opened.splits.subjects(fold)
    rows = [row for row, name in enumerate(opened.cohort.panels["subject"]) if name in names]
    saliency_file.check_reproduces(opened, one, rows)
    data = one.panels.subset(rows)
    slots = data.slots_of(data.views()[0])
    for row, own in zip(rows, slots.tolist(), strict=True):
        assert own == central(int(slices_of(opened).count[row]), 9).tolist()
    with pytest.raises(RunError, match="subject"):
        saliency_file.check_reproduces(opened, one, [n for n in range(len(opened.cohort.panels)) if n not in rows][:1])


def test_a_lesion_is_carried_back_to_itself(opened: FinishedRun, tmp_path: Path) -> None:
    """The mask on the panel, taken for a map, comes to lie on the mask in the scan."""
    row = next(r for r in marked_rows(opened) if slices_of(opened).present[r].all())
    slots = central(int(slices_of(opened).count[row]), 9)
    mask = as_panel(lesion_of(opened, row).planes[slots], (3, 3)).astype(np.float32)
    assert mask.any()
    each, peaks = np.stack([mask, mask])[None], peak_pixels((3, 3), (96, 96))
    saliency = SaliencyMap(
        row, slots[None], np.zeros_like(each), mask[None], each, mask[None], np.ones(1), (3, 3), peaks, (3, 3)
    )
    files = write_native(opened, [saliency], ("T1", "T2"), tmp_path)
    subject = opened.cohort.panels["subject"].iloc[row]
    truth = nibabel.load(opened.study.cohort.parent / f"masks/{subject}/lesion.nii.gz")
    for name in ("T1", "T2"):
        ((path, empty),) = files[name].items()
        assert not empty
        carried = nibabel.load(path)
        voxels = np.argwhere(np.asarray(carried.dataobj) > 0.5)
        middle = carried.affine[:3, :3] @ voxels.mean(axis=0) + carried.affine[:3, 3]
        wanted = truth.affine[:3, :3] @ np.argwhere(np.asarray(truth.dataobj) > 0).mean(axis=0) + truth.affine[:3, 3]
        # half a slice, and as much of a pixel in the plane
        reach = np.linalg.norm(truth.affine[:3, :3], axis=0).max() / 2
        assert np.abs(middle - wanted).max() < reach


def test_late_fusion_has_a_map_a_sequence_and_none_of_a_missing_one(opened: FinishedRun) -> None:
    lacking = int(np.flatnonzero(~slices_of(opened).present.all(axis=1))[0])
    one = saliency_file.load_model(opened, "test_resnet@late", 0)
    (saliency,) = saliency_maps(one, [lacking], explain_target(opened))
    gone = np.isnan(saliency.by_sequence).all(axis=(2, 3))[0]
    assert gone.tolist() == (~slices_of(opened).present[lacking]).tolist()
    assert np.isfinite(saliency.maps).all()
    whole = next(r for r in range(len(gone) + 8) if slices_of(opened).present[r].all())
    (saliency,) = saliency_maps(one, [whole], explain_target(opened))
    found = cell_maps(one.network, torch.from_numpy(saliency.panels), explain_target(opened)).by_sequence().numpy()[0]
    # one scale for both sequences: the weaker one is shown as the weaker
    assert saliency.by_sequence.max() == 1 or saliency.by_sequence.max() == 0
    if found.max() > 0:
        span = found.max() - found.min()
        np.testing.assert_allclose(saliency.by_sequence[0], (found - found.min()) / span, atol=1e-5)


def test_files_that_are_gone_or_others(planted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(planted, tmp_path / "run"))
    place, other = folder / "jobs/test_vit@T2/fold2", folder / "jobs/test_vit@T2/fold1/model.safetensors"
    weights = RunFolder(folder).job("test_vit@T2", 1).weights
    with weights.replacing() as temporary:
        shutil.copy(other, temporary)
    subject = next(iter(FinishedRun.open(RunFolder(folder)).splits.subjects(1)))
    with pytest.raises(RunError, match=r"model.safetensors is not the file"):
        explain_run(folder, ExplainSettings(cases=[subject], networks=["test_vit@T2"]))
    (place / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model.safetensors.*test_vit@T2, fold 2"):
        explain_run(folder, ExplainSettings(networks=["test_vit@T2"]))
    run = RunFolder(folder)
    study = run.study.read()
    study["volumes"]["lesion"] = None
    run.study.write(study)
    with pytest.raises(RunError, match=r"metrics.json .* study.json"):
        explain_run(folder, ExplainSettings())
    run.metrics.write(run.metrics.read() | {"made_from": run.evaluated_files()})
    with pytest.raises(RunError, match=r"--measure.*lesion"):
        explain_run(folder, ExplainSettings(networks=["test_resnet@late"], measure=True))
    run.study.write(study | {"spin": 1})
    run.metrics.write(run.metrics.read() | {"made_from": run.evaluated_files()})
    with pytest.raises(RunError, match=r"study.json.*version"):
        explain_run(folder, ExplainSettings())


def test_slice_images(tmp_path: Path) -> None:
    """Maps lie on the slice images themselves, masks are read slice by slice."""
    rng, rows = np.random.default_rng(0), []
    for n in range(8):
        for place in range(6):
            values, spot = (rng.random((48, 40)) * 90).astype(np.uint8), n % 2 and place in (2, 3)
            mask = np.zeros((48, 40), np.uint8)
            if spot:
                mask[10:18, 20:30] = 255
            values[mask > 0] = 250
            name = f"s{n}-{place}.png"
            Image.fromarray(values).save(tmp_path / name)
            if spot:
                Image.fromarray(mask).save(tmp_path / f"mask-{name}")
            about = {"path": name, "subject": f"S{n}", "visit": 1, "sequence": "flair", "place": place}
            rows.append({**about, "mask": f"mask-{name}" if spot else "", "tumour": ("no", "yes")[n % 2]})
    table = tmp_path / "cohort.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    volumes = {"sequences": ["flair"], "slice_index": "place", "in_plane_size": 48, "bias": "none", "smoothing": "none"}
    values = VOLUMES | {"cohort": table, "volumes": {**volumes, "lesion": "mask", "inference_windows": "all"}}
    values |= {"panels": {"by": "case", "grid": "2x2"}, "backbones": ["test_resnet"]}
    values |= {"targets": {"tumour": {"classes": ["no", "yes"], "positive": "yes"}}}
    values |= {"split": {"test": 0, "folds": 2, "restarts": 20}}
    folder = run(build_study(values, source="the test's study", folder=tmp_path), tmp_path / "run").folder
    opened = FinishedRun.open(RunFolder(folder))
    row = [str(case) for case in opened.cohort.panels["case"]].index("S1/1")
    mask = lesion_of(opened, row).planes
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [2, 3]
    # the plane is a square about the slice, as wide as it is high
    where = np.argwhere(mask[2]).mean(axis=0) / 32 * 48 - [0, 4]
    assert np.abs(where - [13.5, 24.5]).max() < 2
    done = explain_run(folder, ExplainSettings(cases=["S1/1"], measure=True))
    files = json.loads(pd.read_parquet(done.table)["files"].iloc[0])
    assert len(files) == 6
    assert all(Image.open(done.folder / name).size == (40, 48) for name in files)
    assert done.measures["with_mask"] == 4
