"""The whole way, on a small synthetic cohort: what is left behind, what is redone, what is refused."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import casewise
from casewise.errors import AuditError, CohortError, DamagedError, RunError
from casewise.evaluation.figures import SEED
from casewise.inference.run_members import first_weights_checksum, job_fingerprint
from casewise.pipeline.further_trainings import trainings
from casewise.report.results_page import write_results
from casewise.run import Run, run
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study, read_study
from casewise.study.schema import Pretraining
from casewise.training import loop
from tests.combinations import quick_study
from tests.conftest import TINY, absolute


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, phantom: Path) -> tuple[Run, Path]:
    """The tiny study of the first two visits, trained for one epoch."""
    folder = tmp_path_factory.mktemp("finished")
    two_visits(phantom).to_csv(folder / "cohort.csv", index=False)
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(cohort=folder / "cohort.csv").replace("epochs: 2", "epochs: 1"))
    return run(read_study(path), folder / "run"), path


def two_visits(phantom: Path) -> pd.DataFrame:
    rows = absolute(phantom)
    return rows[rows["visit"].isin(rows["visit"].unique()[:2])].reset_index(drop=True)


@pytest.mark.plugins("explain")
def test_the_python_page_runs(finished: tuple[Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, path = finished
    shutil.copytree(done.folder, tmp_path / "runs" / "grades")
    shutil.copy(path, tmp_path / "study.yaml")
    absolute(Path(read_study(path).cohort)).iloc[:8].to_csv(tmp_path / "new-cases.csv", index=False)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[1] / "docs" / "howto-python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)
    run, study = names["run"], names["study"]
    assert set(names["new"]["target"]) >= {*read_study(path).outputs, "pasi", "composite"}
    assert set(names["primary"]["target"]) == {"pasi"}
    row = run.metrics.query("stage == 'oof' and target == 'pasi' and metric == 'mae'").iloc[0]
    assert row["value"] == done.results.figures.of("oof", row["learner"], "pasi")["mae"].value
    pd.testing.assert_frame_equal(run.rows, done.rows, check_dtype=False)
    assert names["maps"].map().shape == names["maps"].picture().shape[:2]
    assert run.report.is_file()
    assert run.report.resolve().as_uri() in run._repr_html_()
    assert run.headline.startswith("pasi, ")
    assert run.headline in html.unescape(run._repr_html_())
    assert (study.recipe.lr, study.seed, study.name) == (0.001, 1, "slower")
    with pytest.raises(RunError):
        casewise.open_run(tmp_path)


def test_nobody_is_predicted_by_a_network_that_saw_them(finished: tuple[Run, Path]) -> None:
    folder = finished[0].folder
    for facts in folder.glob("jobs/*/*/model.json"):
        seen = set(json.loads(facts.read_text())["subjects"])
        predicted = pd.read_parquet(facts.parent / "predictions.parquet")
        assert seen
        assert not seen & set(predicted["subject"])


def test_models_hold_no_pickle(finished: tuple[Run, Path]) -> None:
    kinds = {p.suffix for p in finished[0].folder.rglob("*") if p.is_file()}
    assert not kinds & {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
    assert list(finished[0].folder.glob("jobs/*/*/model.safetensors"))


@pytest.mark.usefixtures("training_only")
def test_running_again_redoes_nothing(finished: tuple[Run, Path]) -> None:
    done, path = finished
    files = {p: p.stat().st_mtime_ns for p in done.folder.glob("jobs/*/*/*")}
    again = run(read_study(path), done.folder)
    assert {p: p.stat().st_mtime_ns for p in done.folder.glob("jobs/*/*/*")} == files
    assert np.array_equal(again.rows["y_pred"], done.rows["y_pred"])


@pytest.mark.usefixtures("training_only")
def test_the_order_of_the_table_changes_no_bit(finished: tuple[Run, Path], tmp_path: Path) -> None:
    done, path = finished
    study = read_study(path)
    rows = absolute(study.cohort)
    shuffled = rows.sample(frac=1, random_state=0)
    shuffled.to_csv(tmp_path / "shuffled.csv", index=False)
    changes = {"cohort": tmp_path / "shuffled.csv", "backbones": ["test_resnet"]}
    again = run(study.model_copy(update=changes), tmp_path / "run").rows
    again, before = (table[table["model"] == "test_resnet"].reset_index(drop=True) for table in (again, done.rows))
    pd.testing.assert_frame_equal(again, before, check_exact=True)
    model = casewise.load_bundle(done.folder)
    ordered, other = (
        pd.concat([chunk.table for chunk in model.predict_in_chunks(table, size=20)], ignore_index=True)
        for table in (rows, shuffled)
    )
    pd.testing.assert_frame_equal(other, ordered, check_exact=True)


def test_damaged_files_are_set_aside_and_made_again(
    finished: tuple[Run, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done, path = finished
    folder = RunFolder(Path(shutil.copytree(done.folder, tmp_path / "copy")))
    first, second, third = folder.finished_jobs()[:3]
    table = first.predictions.read()
    table.assign(y_pred=table["y_true"]).to_parquet(first.predictions.path, index=False)
    second.weights.path.write_bytes(b"")
    third.record.path.write_text('{"model": ')
    tiles = np.load(next((folder.path / "tiles").glob("tiles-*.npy")), mmap_mode="r+")
    tiles[:] = 255 - tiles[:]
    tiles.flush()
    metrics = folder.metrics.read()
    folder.metrics.path.write_text(folder.metrics.path.read_text().replace('"value": 0', '"value": 1'))
    with pytest.raises(DamagedError):
        write_results(folder.path, tmp_path / "page.md")
    damaged = (folder.splits, folder.fingerprint, folder.compute, folder.audit, folder.stackers)
    for file in damaged:
        file.path.write_bytes(file.path.read_bytes()[:40])
    again = run(read_study(path), folder.path)
    pd.testing.assert_frame_equal(again.rows, done.rows)
    assert all(folder.metrics.read()[name] == metrics[name] for name in ("metrics", "main"))
    aside = {file.name for file in folder.path.rglob("*.damaged-1")}
    names = {file.path.name for file in (*damaged, folder.metrics, first.predictions, second.weights, third.record)}
    assert aside == {f"{name}.damaged-1" for name in names}
    assert all(name in caplog.text for name in (*aside, "tiles are not as written"))


def test_networks_that_cannot_be_verified_are_not_taken_over(finished: tuple[Run, Path], tmp_path: Path) -> None:
    done, path = finished
    folder = Path(shutil.copytree(done.folder, tmp_path / "copy"))
    for record in folder.rglob("checksums.json"):
        record.unlink()
    study = read_study(path)
    other = study.model_copy(update={"recipe": study.recipe.model_copy(update={"lr": 0.5})})
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for each in (other, study, other):
        with pytest.raises(RunError):
            run(each, folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    for name in ("fingerprint.json", "job.json"):
        for file in folder.rglob(name):
            file.unlink()
    with pytest.raises(RunError):
        run(other, folder)


@pytest.mark.usefixtures("training_only")
def test_one_more_backbone_trains_only_that_one(finished: tuple[Run, Path], tmp_path: Path) -> None:
    done, path = finished
    folder = tmp_path / "copy"
    shutil.copytree(done.folder, folder)
    before, study = {p: p.stat().st_mtime_ns for p in folder.glob("jobs/*/*/job.json")}, read_study(path)
    study = study.model_copy(update={"backbones": [*study.backbones, "test_byobnet"]})
    more, after = run(study, folder), {p: p.stat().st_mtime_ns for p in folder.glob("jobs/*/*/job.json")}
    assert ({p: after[p] for p in before}, len(after)) == (before, len(before) + 2)
    assert "test_byobnet" in set(more.rows["model"])


def test_another_recipe_in_the_same_folder_is_refused(finished: tuple[Run, Path]) -> None:
    done, path = finished
    study, before = read_study(path), {p: p.read_bytes() for p in done.folder.iterdir() if p.is_file()}
    other = study.model_copy(update={"recipe": study.recipe.model_copy(update={"lr": 0.5}), "title": "Other"})
    with pytest.raises(RunError, match=r"recipe\.lr was 0\.01 and is 0\.5"):
        run(other, done.folder)
    assert {p: p.read_bytes() for p in done.folder.iterdir() if p.is_file()} == before
    with pytest.raises(RunError, match="seed was 0 and is 9"):
        run(study.model_copy(update={"seed": 9}), done.folder)


@pytest.mark.parametrize(
    "change",
    [
        *(
            "images.size=48",
            "images.channels=grey",
            "images.padding=reflect",
            "images.mask_overlays=[[0,0,0.1,0.1]]",
            "seed=9",
        ),
        *("split.folds=3", "split.test=40%", "split.restarts=5", "recipe.epochs=3", "test_time_augmentation=true"),
        *("compute.precision=bf16", "compute.threads=3"),
    ],
)
def test_a_change_is_refused_before_images_are_prepared(
    finished: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    done, path = finished
    for step in ("read.prepare", "audit.audit"):
        monkeypatch.setattr(f"casewise.pipeline.{step}", lambda *given: pytest.fail("begun before the refusal"))
    before = {p: p.read_bytes() for p in done.folder.iterdir() if p.is_file()}
    with pytest.raises(RunError, match="Choose another"):
        run(read_study(path, settings=[change]), done.folder)
    assert {p: p.read_bytes() for p in done.folder.iterdir() if p.is_file()} == before


def test_a_second_run_in_the_same_folder_is_refused(tiny: Path, tmp_path: Path) -> None:
    code = "import sys,time;from pathlib import Path;from casewise.run_folder import RunFolder\n"
    code += "with RunFolder(Path(sys.argv[1])).lock():\n print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="Another run is working"):
            run(read_study(tiny), tmp_path / "run")
        other.kill()
        other.wait()
        with RunFolder(tmp_path / "run").lock():
            pass
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("columns", [["erythema", "induration", "scaling", "area"], ["area"]])
def test_nothing_recorded_is_refused_at_once(tiny: Path, tmp_path: Path, phantom: Path, columns: list[str]) -> None:
    table = absolute(phantom)
    table[columns] = ""
    table.to_csv(tmp_path / "empty.csv", index=False)
    study = read_study(tiny).model_copy(update={"cohort": tmp_path / "empty.csv"})
    with pytest.raises(CohortError, match="nothing to learn"):
        run(study, tmp_path / "run")
    assert not (tmp_path / "run" / "tiles").exists()


# Loaded by every Python process of a run: the one that writes a training's state for the second time interrupts
# the run, as Ctrl-C does, and does nothing more.
INTERRUPTED_AT_THE_SECOND_STATE = """
import os, signal, sys, threading

states = []

def watch(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("state.safetensors"):
        states.append(arguments[1])
        if len(states) == 2:
            os.kill(os.getppid(), signal.SIGINT)
            threading.Event().wait()

sys.addaudithook(watch)
"""


@pytest.mark.slow
def test_an_interrupted_run_continues_to_the_same_bits(tmp_path: Path, phantom: Path) -> None:
    """Ctrl-C while networks are trained side by side; `make durability` kills runs at any moment."""
    text = TINY.format(cohort=phantom).replace("epochs: 2", "epochs: 4").replace("patience: 2,", "patience: 4,")
    text = text.replace("[test_resnet, test_efficientnet]", "[test_resnet]")
    study, whole, cut = tmp_path / "tiny.yaml", tmp_path / "whole", tmp_path / "cut"
    study.write_text(text.replace("{precision: fp32}", "{precision: fp32, save_every: 0, jobs: 2}"))
    run(study, whole)
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_AT_THE_SECOND_STATE)
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    interrupted = subprocess.run(
        [sys.executable, "-m", "casewise.cli.main", "run", str(study), "--output", str(cut)],
        env={**os.environ, "PYTHONPATH": paths},
        text=True,
        capture_output=True,
        # a shell's background jobs ignore Ctrl-C, and so would what they start; a person's terminal does not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert interrupted.returncode == 130, interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    assert list(cut.glob("jobs/*/fold*/state.safetensors"))
    assert not (cut / "predictions.parquet").exists()
    assert run(study, cut).report.is_file()
    one, two = (pd.read_parquet(folder / "predictions.parquet") for folder in (whole, cut))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    files = list(whole.glob("jobs/*/*/model.safetensors"))
    assert len(files) == 2
    assert all(file.read_bytes() == (cut / file.relative_to(whole)).read_bytes() for file in files)


def test_a_planned_study_without_networks_is_trained_again_where_that_is_cheap(tmp_path: Path) -> None:
    values = {
        "name": "frozen",
        "cohort": "x.csv",
        "targets": {"y": {"range": [0, 1]}},
        "backbones": [],
        "budget": "10min",
    }
    values["recipe"] = "auto"
    study = build_study(values, source="the test's study", folder=tmp_path)
    assert study.recipe.auto
    # a tenth of the budget is a minute
    assert [trainings(study, seconds) for seconds in (10, 25, 40)] == [5, 3, 1]
    assert trainings(study.model_copy(update={"seeds": 2}), 10) == 2
    assert trainings(quick_study(tmp_path), 0.1) == 1


def test_further_seeds_are_trained_in_other_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = quick_study(tmp_path, seeds=2)
    done = run(study, tmp_path / "run")
    figures, folder = done.results.figures, RunFolder(done.folder)
    seeds = [str(study.seed), str(study.seed + 1)]
    assert figures.names("group", population=SEED) == seeds
    other = folder.seed(study.seed + 1)
    sides = [f.splits.read()["subjects"] for f in (folder, other)]
    tested = [{subject for subject, side in each.items() if side == "test"} for each in sides]
    assert tested[0] == tested[1]
    assert sides[0] != sides[1]
    assert done.results.other_folds
    described = [
        f.compute.read()["test_resnet"] | {"why": "", "step_seconds": 0.0, "peak_mb": 0.0} for f in (folder, other)
    ]
    assert described[0] == described[1]
    outcome = done.results["main"]["target"]
    for cell in figures.select(population=SEED, target=outcome, contrast="mean").cells:
        by_seed = [figures.cells[cell._replace(group=seed, contrast="")]["mae"].value for seed in seeds]
        ends = {name: figures.cells[cell._replace(contrast=name)]["mae"].value for name in ("mean", "sd", "min", "max")}
        assert by_seed[0] == pytest.approx(figures.of(*cell[:3])["mae"].value)
        assert by_seed[0] != by_seed[1]
        assert ends["sd"] == pytest.approx(np.std(by_seed, ddof=1), rel=1e-4)
        assert (ends["min"], ends["max"]) == (min(by_seed), max(by_seed))
        assert ends["mean"] == pytest.approx(np.mean(by_seed), rel=1e-4)
        stored = RunFolder(done.folder).metrics.read()["seeds"]["metrics"]
        assert stored[cell.stage][cell.learner][outcome]["mae"] == {"by_seed": by_seed, **ends}
    assert "Variation between trainings" in done.report.read_text()
    before = {path: path.stat().st_mtime_ns for path in other.path.rglob("*.safetensors")}
    folder.compute.remove()  # the records of the networks state the plan as well
    other.job("test_resnet", 0).record.remove()
    before = {path: time for path, time in before.items() if other.job("test_resnet", 0).path != path.parent}
    monkeypatch.setattr("casewise.pipeline.finished.report", lambda *given: None)
    assert run(study, tmp_path / "run").results.figures == figures
    assert before.items() <= {path: path.stat().st_mtime_ns for path in other.path.rglob("*.safetensors")}.items()


@pytest.mark.usefixtures("training_only")
def test_pretraining_leaves_held_out_subjects_out(tmp_path: Path) -> None:
    targets = {"redness": {"range": (0, 4), "column": "number"}}
    pretrain = {"cohort": str(tmp_path / "other.csv"), "subjects": "shared", "targets": targets, "epochs": 1}
    study, table = quick_study(tmp_path, pretrain=pretrain), pd.read_csv(tmp_path / "here.csv")
    table.to_csv(tmp_path / "other.csv", index=False)
    done = run(study, tmp_path / "run")
    for facts in done.folder.glob("jobs/*/*/model.json"):
        values = json.loads(facts.read_text())
        assert re.search(r"pretrained on \d+ subjects .*\(\d+ held-out subjects left out\)", values["weights"])
        predicted = pd.read_parquet(facts.parent / "predictions.parquet")
        assert not set(values["subjects"]) & set(predicted["subject"])
    table[table["subject"] != "here1"].to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(RunError, match="the cohort to pretrain on changed"):
        run(study, tmp_path / "run")


class CutError(Exception):
    """A run is cut off."""


@pytest.mark.usefixtures("training_only")
def test_what_another_study_left_is_not_continued(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_study(tiny)
    compute = study.compute.model_copy(update={"jobs": 1, "save_every": 0})
    study = study.model_copy(update={"backbones": ["test_resnet"], "stack": [], "compute": compute})
    save_state = loop.save_state

    def cut(*state: Any) -> None:
        save_state(*state)
        raise CutError

    monkeypatch.setattr(loop, "save_state", cut)
    with pytest.raises(CutError):
        run(study, tmp_path / "cut")
    monkeypatch.setattr(loop, "save_state", save_state)
    assert list(tmp_path.glob("cut/jobs/*/fold1/**/state.safetensors"))
    other = study.model_copy(update={"seed": 5})
    after, clean = run(other, tmp_path / "cut"), run(other, tmp_path / "clean")
    assert np.array_equal(after.rows["y_pred"], clean.rows["y_pred"])


def test_another_weights_file_is_another_network(tiny: Path, tmp_path: Path) -> None:
    study, fingerprints = read_study(tiny).model_copy(update={"weights": "pretrained", "weights_dir": tmp_path}), []
    for content in (b"one", b"two"):
        (tmp_path / "shufflenet_v2_x0_5.safetensors").write_bytes(content)
        checksum = first_weights_checksum(study, "shufflenet_v2_x0_5")
        fingerprints.append(job_fingerprint("run", study, "shufflenet_v2_x0_5", checksum))
    assert fingerprints[0] != fingerprints[1]


def test_the_same_picture_under_two_subjects_stops_the_run(tiny: Path, tmp_path: Path, phantom: Path) -> None:
    table, copy = two_visits(phantom), tmp_path / "copy.jpg"
    last = table.index[-1]
    shutil.copyfile(table["path"][0], copy)
    assert table["subject"][0] != table["subject"][last]
    table.loc[last, "path"] = str(copy)
    table.to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(AuditError, match=r"twins-across-(subjects|splits)(.|\n)*copy\.jpg"):
        run(read_study(tiny).model_copy(update={"cohort": tmp_path / "c.csv"}), tmp_path / "run")
    assert not (tmp_path / "run" / "jobs").exists()


def test_a_twin_in_the_cohort_to_pretrain_on_stops_the_run(tiny: Path, tmp_path: Path, phantom: Path) -> None:
    table = absolute(phantom)
    table["subject"] = "other-" + table["subject"]
    table.to_csv(tmp_path / "other.csv", index=False)
    pretrain = {"cohort": tmp_path / "other.csv", "subjects": "distinct", "targets": {"erythema": {"range": (0, 4)}}}
    study = read_study(tiny).model_copy(update={"pretrain": Pretraining.model_validate(pretrain)})
    with pytest.raises(CohortError, match="another subject"):
        run(study, tmp_path / "run")
