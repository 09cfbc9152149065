"""Another cohort to be tested on: predicted by the trained networks, shown beside the study's own, never learned."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from casewise import open_run
from casewise.cohort.cohort import read_cohort
from casewise.console import Silent
from casewise.errors import CohortError, SplitError
from casewise.files import checksum
from casewise.inference.bundle import Bundle
from casewise.jobs.plan import expand
from casewise.jobs.predict import predict_external
from casewise.models.weights import bundle_subjects, read_tensors
from casewise.pipeline.external import prepare_external, read_external
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.phantoms.chest import make_chest
from casewise.report.results_page import write_results
from casewise.run import Run, run
from casewise.run_folder import JobFolder, RunFolder
from casewise.training.checkpoint import write_tensors
from tests.chest_study import THREE
from tests.chest_study import chest_run_study as chest_study
from tests.conftest import absolute

LEARNER = "test_resnet"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine other people, whose numbers are those of people of the study."""
    return make_chest(tmp_path_factory.mktemp("there"), subjects=9, images=2, size=(64, 64), seed=8)


def changed(table: Path, to: Path, **columns: Any) -> Path:
    """The table with other columns, its paths made absolute."""
    rows = absolute(table)
    for name, values in columns.items():
        rows[name] = values(rows[name]) if callable(values) else values
    rows.to_csv(to, index=False)
    return to


def external(table: Path, **values: Any) -> dict[str, Any]:
    return {"external": {"cohort": table, "name": "valley", "subjects": "distinct", **values}}


def trained_files(folder: Path) -> dict[Path, int]:
    names = ("job.json", "model.safetensors", "predictions.parquet", "model.json")
    return {path: path.stat().st_mtime_ns for name in names for path in folder.glob(f"jobs/*/*/{name}")}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, chest_run: Run) -> tuple[Run, dict[Path, int]]:
    """A run without another cohort, and when its networks' files were written."""
    folder = tmp_path_factory.mktemp("run") / "run"
    shutil.copytree(chest_run.folder, folder)
    return open_run(folder), trained_files(folder)


@pytest.fixture(scope="module")
def done(before: tuple[Run, dict[Path, int]], chests: Path, there: Path) -> Run:
    return run(chest_study(chests, **external(there)), before[0].folder)


def test_adding_a_cohort_trains_nothing(before: tuple[Run, dict[Path, int]], done: Run) -> None:
    assert before[1]
    assert trained_files(done.folder) == before[1]
    inside = done.rows[done.rows["stage"] != "external"].reset_index(drop=True)
    pd.testing.assert_frame_equal(inside, before[0].rows)
    assert not before[0].results.drop(LEARNER)


def test_every_image_there_is_predicted_by_the_mean_of_the_folds(done: Run, there: Path) -> None:
    rows = pd.read_parquet(done.folder / "predictions.parquet").query("stage == 'external'")
    table = pd.read_csv(there)
    assert len(rows) == len(table) == 18
    assert set(rows["subject"]) == {f"valley:{name}" for name in table["subject"]}
    assert set(rows["case"]) == {f"valley:{s}/{v}" for s, v in zip(table["subject"], table["visit"], strict=True)}
    assert rows["outer_fold"].isna().all()
    assert [Path(path).is_relative_to(there.parent) for path in rows["image"]] == [True] * 18
    labels = {f"valley:{s}": THREE.index(label) for s, label in zip(table["subject"], table["label"], strict=True)}
    assert [labels[s] for s in rows["subject"]] == rows["y_true"].tolist()
    parts = [pd.read_parquet(path) for path in sorted(done.folder.glob("jobs/*/*/external.parquet"))]
    assert len(parts) == 2
    shares = rows.set_index("case")[["p0", "p1", "p2"]]
    each = [part.set_index("case").loc[shares.index, ["p0", "p1", "p2"]].to_numpy() for part in parts]
    assert np.allclose(shares.to_numpy(), np.mean(each, axis=0), atol=1e-7)
    assert not np.allclose(each[0], each[1])


def test_a_network_with_other_weights_predicts_again(done: Run, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(done.folder, tmp_path / "run")))
    finished = FinishedRun.open(folder)
    other = prepare_external(finished.prepared, folder, Silent())
    jobs = expand(finished.study, finished.splits, folder, finished.fingerprint)
    predicted = [pd.DataFrame(), pd.DataFrame()]
    for run_number in range(2):
        predicted[run_number] = predict_external(jobs, other, tell=lambda done: None).set_index(["outer_fold", "case"])
        job = jobs[0].folder
        tensors = {name: values * 0.5 for name, values in read_tensors(job.weights.path).items()}
        write_tensors(job.weights, tensors, {"format": "pt"})
        job.facts.write(job.facts.read() | {"weights_sha256": checksum(job.weights.path)})
    same = [np.array_equal(predicted[0].loc[fold, "p0"], predicted[1].loc[fold, "p0"]) for fold in (1, 2)]
    assert same == [False, True]


def test_the_drop_is_told_with_its_interval(done: Run) -> None:
    inside, outside = (done.results.figures.of(stage, LEARNER, "label") for stage in ("test", "external"))
    lost = done.results.drop(LEARNER)
    stored = done.files.metrics.read()["external_drop"][LEARNER]
    assert {"accuracy", "auroc", "f1"} <= set(lost)
    for name, found in lost.items():
        assert found.value == pytest.approx(outside[name].value - inside[name].value, abs=1e-5)
        ends = {"internal": inside[name].value, "external": outside[name].value, "internal_stage": "test"}
        assert ends.items() <= stored[name].items()
        # a class that most resamples of six subjects lack leaves no interval, here as in the figures themselves
        assert (found.low is None) is (inside[name].low is None)
        assert found.low is None or found.low <= found.value <= found.high
        assert found.rough
    assert lost["accuracy"].low < 0 < lost["accuracy"].high
    assert (outside["accuracy"].n_subjects, outside["accuracy"].n_cases) == (9, 18)
    assert "valley" in done.report.read_text()


def test_results_by_a_column_of_the_external_table(done: Run, chests: Path, there: Path, tmp_path: Path) -> None:
    table, rows = tmp_path / "c.csv", absolute(there)
    sites = {name: ["hill", "lake", ""][number % 3] for number, name in enumerate(rows["subject"].unique())}
    rows["site"] = rows["subject"].map(sites)
    rows.loc[rows.index[-1], "site"] = "hill"
    rows.to_csv(table, index=False)
    folder = Path(shutil.copytree(done.folder, tmp_path / "run"))
    again = run(chest_study(chests, **external(table, by="site")), folder)
    groups = again.results.figures.select(population="by site", learner=LEARNER)
    accuracy = {cell.group: own["accuracy"] for cell, own in groups.cells.items()}
    assert list(accuracy) == ["hill", "lake", "not recorded"]
    counts = {name: figure.n_cases for name, figure in accuracy.items()}
    assert counts == {"hill": 7, "lake": 6, "not recorded": 5}
    right = again.rows.query("stage == 'external' and y_true == y_pred")
    total = sum(figure.value * counts[name] for name, figure in accuracy.items())
    assert total == pytest.approx(len(right), abs=1e-3)
    page = write_results(folder, tmp_path / "page.md").read_text()
    assert "| lake | 6 |" in page
    with pytest.raises(CohortError, match=r"'sites' is not a column .*'site'"):
        read_external(chest_study(chests, **external(table, by="sites")), read_cohort(chest_study(chests)))


def refused(chests: Path, folder: Path, done: Run, **values: Any) -> str:
    """What a run with another cohort says, in a copy of the trained folder."""
    shutil.copytree(done.folder, folder)
    with pytest.raises((CohortError, SplitError)) as told:
        run(chest_study(chests, **values), folder)
    return str(told.value)


def test_a_table_with_the_columns_of_the_study(chests: Path, there: Path, tmp_path: Path) -> None:
    german = {"path": "Aufnahme", "subject": "Kennung", "label": "Diagnose"}
    files = {table: tmp_path / f"{name}.csv" for name, table in (("own", chests), ("other", there))}
    for table, file in files.items():
        absolute(table).rename(columns=german).to_csv(file, index=False)
    expected = read_external(chest_study(chests, **external(there)), read_cohort(chest_study(chests)))[1]
    for table in (files[there], there):  # the second has the standard names
        study = chest_study(files[chests], columns=german, **external(table))
        _, cohort = read_external(study, read_cohort(study))
        pd.testing.assert_frame_equal(cohort.cases, expected.cases)
    study = chest_study(files[chests], columns=german, **external(files[there], columns={"subject": "Patient"}))
    own = read_cohort(study)
    with pytest.raises(CohortError, match="subject is 'Patient'"):  # what is stated holds
        read_external(study, own)


def test_visits_of_the_external_table_are_not_pooled(chests: Path, there: Path, tmp_path: Path) -> None:
    rows = absolute(there).drop(columns=["visit", "date"], errors="ignore")
    days = [f"2024-03-0{1 + number % 2}" for number in range(len(rows))]
    rows.assign(Aufnahmedatum=days).to_csv(tmp_path / "there.csv", index=False)
    visits = changed(
        chests, tmp_path / "here.csv", visit=lambda _: [str(1 + n % 2) for n in range(len(absolute(chests)))]
    )
    columns: dict[str, str] = {}

    def read(main: Path) -> int:
        study = chest_study(main, panels={"by": "case"}, **external(tmp_path / "there.csv", columns=columns))
        return len(read_external(study, read_cohort(study))[1].cases)

    with pytest.raises(CohortError, match=re.escape("external: {columns: {visit: 'Aufnahmedatum'}}")):
        read(visits)
    assert read(changed(chests, tmp_path / "one.csv", visit="1")) == 9  # the study pools them as well
    columns["visit"] = ""
    assert read(visits) == 9
    columns["visit"] = "Aufnahmedatum"
    assert read(visits) == 18
    del columns["visit"]
    rows.assign(Aufnahmedatum=days, visit="baseline").to_csv(tmp_path / "there.csv", index=False)
    assert read(visits) == 9  # a column states the visit


def test_a_class_that_the_networks_do_not_know(done: Run, chests: Path, there: Path, tmp_path: Path) -> None:
    table = changed(there, tmp_path / "c.csv", label=lambda labels: labels.replace("pneumonia", "tuberculosis"))
    said = refused(chests, tmp_path / "run", done, **external(table))
    assert "the networks were not trained on the class 'tuberculosis', only on covid, no_finding, pneumonia." in said


def test_names_of_the_studys_own_subjects(done: Run, chests: Path, there: Path, tmp_path: Path) -> None:
    said = refused(chests, tmp_path / "run", done, **external(there, subjects="named_apart"))
    assert "9 subjects have names" in said
    assert "have names of the study's own subjects (C0001, C0002," in said
    assert "`external: {subjects: distinct}`" in said
    spelt = changed(there, tmp_path / "c.csv", subject=lambda names: names.str.lower())
    said = refused(chests, tmp_path / "run2", done, **external(spelt, subjects="named_apart"))
    assert "9 subjects have names" in said


def test_names_of_subjects_of_first_weights(done: Run, chests: Path, there: Path, tmp_path: Path) -> None:
    trained = RunFolder(done.folder).job(LEARNER, 0)
    bundle = JobFolder(Path(shutil.copytree(trained.path, tmp_path / "bundle")))
    bundle.facts.write(bundle.facts.read() | {"subjects": ["V0003", "V0004"]})
    table = changed(there, tmp_path / "c.csv", subject=lambda names: names.str.replace("C", "v "))
    weights = f"bundle:{bundle.path}"
    study = chest_study(chests, weights=weights, **external(table, subjects="named_apart"))
    main = read_cohort(study)
    with pytest.raises(SplitError, match="2 subjects"):
        read_external(study, main)
    with pytest.raises(SplitError, match=r"2 subjects .*bundle_subjects: distinct"):
        read_external(chest_study(chests, weights=weights, **external(table)), main)
    distinct = chest_study(chests, weights=weights, **external(table, bundle_subjects="distinct"))
    assert read_external(distinct, main)[1].cases["subject"].nunique() == 9


def test_a_bundle_of_people_with_equal_names(before: tuple[Run, dict[Path, int]], there: Path, tmp_path: Path) -> None:
    bundle = RunFolder(before[0].folder).job(LEARNER, 0).path
    shared = {"weights": f"bundle:{bundle}", "split": {"test": 0}, "recipe": {"epochs": 1}}
    with pytest.raises(SplitError, match="bundle_subjects: distinct"):
        run(chest_study(there, **shared), tmp_path / "refused")
    trained = run(chest_study(there, **shared, bundle_subjects="distinct"), tmp_path / "run")
    facts = RunFolder(trained.folder).job(LEARNER, 0).facts.read()
    assert set(facts["subjects"]) < set(pd.read_csv(there)["subject"])
    assert set(facts["earlier_subjects"]) == set(json.loads((bundle / "model.json").read_text())["subjects"])
    assert "other people" in facts["weights"]
    # the next study that takes this network knows of both
    known = bundle_subjects(f"bundle:{RunFolder(trained.folder).job(LEARNER, 0).path}")
    assert known == {*facts["subjects"], *facts["earlier_subjects"]}
    assert Bundle.open(RunFolder(trained.folder).job(LEARNER, 0).path).subjects == set(facts["subjects"])


def test_the_same_picture_in_both(done: Run, chests: Path, there: Path, tmp_path: Path) -> None:
    table = changed(there, tmp_path / "c.csv", subject=lambda names: names.str.replace("C", "V "))
    rows, own = pd.read_csv(table), pd.read_csv(chests)
    rows.loc[:13:2, "path"] = [str(chests.parent / path) for path in own["path"][:14:2]]
    rows.to_csv(table, index=False)
    said = refused(chests, tmp_path / "run", done, **external(table))
    assert "The same picture occurs in the cohort to be tested on:" in said
    assert said.count(" = ") == 5
    pairs = json.loads((tmp_path / "run" / "cohort-twins-own-external.json").read_text())["pairs"]
    assert "2 more pairs" in said
    assert str(tmp_path / "run" / "cohort-twins-own-external.json") in said
    assert sorted(pair[2:] for pair in pairs) == sorted(rows.loc[:13:2, ["path", "subject"]].to_numpy().tolist())
    # the remedy names everybody, and with it no picture is in both
    people = yaml.safe_load(re.search(r"where_not: (\{.*?\})", said)[1])
    assert people == {"subject": sorted(rows.loc[:13:2, "subject"])}
    study = chest_study(chests, **external(table, where_not=people))
    folder, shown = RunFolder(Path(shutil.copytree(done.folder, tmp_path / "again"))), Silent()
    own_images = dataclasses.replace(FinishedRun.open(folder).prepared, study=study)
    assert prepare_external(own_images, folder, shown).cohort.images["subject"].nunique() == 2
