"""The form, sessions, the store of readings, and their export."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.cohort.cohort import Cohort, read_cohort
from casewise.errors import CasewiseError, StudyError
from casewise.plugins.readers.command import rate
from casewise.plugins.readers.form import FormError, form_of
from casewise.plugins.readers.model_values import held_out_rows
from casewise.plugins.readers.rating.export import (
    adjudication_items,
    check_export,
    first_readings,
    labels_of,
    study_lines,
    write_labels,
)
from casewise.plugins.readers.rating.readings import readings_of
from casewise.plugins.readers.rating.sessions import Session, SessionRequest, items_of, open_session
from casewise.plugins.readers.rating.store import Entry, ReadingStore, SessionFacts, WindowError
from casewise.plugins.readers.reader_columns import with_scores
from casewise.study.loading import read_study
from casewise.study.schema import Study

STUDY = """
cohort: cohort.csv
regions: [upper, lower]
panels: {by: region}
targets:
  erythema: {range: 0..4, integer: true}
  kind_of: {classes: [plaque, other], level: case}
  extent: {range: 0..8, level: case}
reading: {repeat: 20%, steps: {extent: 0.5}}
backbones: [mobilenet_v2]
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    rows = []
    for subject in range(10):
        for visit in (1, 2):
            for region in ("upper", "lower"):
                name = f"{subject}-{visit}-{region}.png"
                Image.new("RGB", (32, 24), (10 * subject, 40 * visit, len(region))).save(tmp_path / name)
                rows.append(
                    {"path": name, "subject": f"S{subject}", "visit": str(visit), "region": region, "ward": "B"}
                )
    pd.DataFrame(rows).to_csv(tmp_path / "cohort.csv", index=False)
    (tmp_path / "study.yaml").write_text(STUDY)
    return read_study(tmp_path / "study.yaml")


@pytest.fixture
def cohort(study: Study) -> Cohort:
    return read_cohort(study, to_learn=False, labelled=False)


@pytest.fixture
def store(tmp_path: Path) -> ReadingStore:
    return ReadingStore(tmp_path / "readings")


def read_all(session: Session, store: ReadingStore, reader: str, offset: int = 0) -> None:
    """Enter values of all items: erythema by position of the subject, shifted by `offset`."""
    window = store.open_window(session.name, reader)
    for each in session.order_for(reader):
        grade = str(min(int(each.item.subject[1:]) % 4 + offset, 4))
        values = {"erythema[upper]": grade, "erythema[lower]": "1", "kind_of": "plaque", "extent": "2.5"}
        for key, value in values.items():
            entry = Entry(session.name, reader, each.item.key, each.occurrence, each.position, key, value, "")
            store.append(Entry(**{**vars(entry), "form": session.form.version}), window)


def test_the_form_follows_from_the_study(study: Study) -> None:
    form = form_of(study)
    assert [field.key for field in form.fields] == ["erythema[upper]", "erythema[lower]", "kind_of", "extent"]
    assert [len(field.options) for field in form.fields] == [5, 5, 2, 0]
    assert form.checked("extent", "2.50") == "2.5"
    assert form.checked("kind_of", "other") == "other"
    for key, value in [("extent", "2.3"), ("extent", "9"), ("extent", "nan"), ("erythema[upper]", "5"), ("area", "1")]:
        with pytest.raises(FormError):
            form.checked(key, value)


def test_settings_name_targets_that_exist(study: Study, tmp_path: Path) -> None:
    for settings in ["reading.steps={extnt: 1}", "reading.steps={kind_of: 1}", "reading.consensus={kind_of: mean}"]:
        with pytest.raises(StudyError, match="reading"):
            read_study(tmp_path / "study.yaml", settings=[settings])


def test_each_reader_has_an_order_of_his_own_with_distant_repeats(
    study: Study, cohort: Cohort, store: ReadingStore
) -> None:
    session = open_session(study, cohort, store, SessionRequest("blind"))
    orders = {name: session.order_for(name) for name in ("anna", "ben")}
    for order in orders.values():
        counts = Counter(each.item.key for each in order)
        assert len(counts) == 20
        assert sum(count == 2 for count in counts.values()) == 4
        assert [each.position for each in order] == list(range(1, 25))
        first = {each.item.key: each.position for each in order if each.occurrence == 1}
        assert all(each.position - first[each.item.key] > 10 for each in order if each.occurrence == 2)
    assert [e.item.key for e in orders["anna"]] != [e.item.key for e in orders["ben"]]
    assert session.order_for("anna") == orders["anna"]


def test_cases_that_are_added_come_last(study: Study, cohort: Cohort, store: ReadingStore) -> None:
    fewer = Cohort(cohort.images[cohort.images["subject"] != "S3"], cohort.panels, cohort.cases)
    before = open_session(study, fewer, store, SessionRequest("blind")).order_for("anna")
    after = open_session(study, cohort, store, SessionRequest("blind")).order_for("anna")
    assert [e.item.key for e in after[: len(before)]] == [e.item.key for e in before]
    assert {e.item.subject for e in after[len(before) :]} == {"S3"}
    with pytest.raises(CasewiseError):
        open_session(study, fewer, store, SessionRequest("blind"))


def test_a_longitudinal_session_shows_visits_in_their_order(study: Study, cohort: Cohort, store: ReadingStore) -> None:
    reading = study.key("reading").model_copy(update={"longitudinal": True})
    session = open_session(study.model_copy(update={"reading": reading}), cohort, store, SessionRequest("blind"))
    order = [each.item for each in session.order_for("anna")]
    assert len(order) == 20
    assert all(a.subject == b.subject and a.order < b.order for a, b in zip(order[::2], order[1::2], strict=True))
    assert [item.key for item in session.earlier(order[1])] == [order[0].key]


def test_entries_are_only_added_and_the_newest_window_writes(store: ReadingStore) -> None:
    store.begin("blind", "blind", SessionFacts(0, 0.0, longitudinal=False))
    store.add_form("v", {})
    old = store.open_window("blind", "anna")
    entry = Entry("blind", "anna", "a", 1, 1, "grade", "2", "v")
    assert store.append(entry, old) == 1
    new = store.open_window("blind", "anna")
    for window in (old, "no window"):
        with pytest.raises(WindowError):
            store.append(entry, window)
    ben = store.open_window("blind", "ben")
    assert store.append(Entry(**{**vars(entry), "value": "3"}), new) == 2
    assert store.append(Entry(**{**vars(entry), "reader": "ben"}), ben) == 3
    assert store.current("blind", "anna")["a", 1]["grade"].value == "3"
    for statement in ("UPDATE entries SET value = '4'", "DELETE FROM entries"):
        with sqlite3.connect(store.path) as other, pytest.raises(sqlite3.IntegrityError):
            other.execute(statement)


def test_a_damaged_file_names_its_backup(store: ReadingStore) -> None:
    store.begin("blind", "blind", SessionFacts(0, 0.0, longitudinal=False))
    store.close()
    store.path.write_bytes(b"SQLite format 3\0" + b"x" * 4000)
    with pytest.raises(CasewiseError, match=r"backups/000000000\.sqlite"):
        ReadingStore(store.folder)


def test_readings_become_labels_that_a_study_reads(
    study: Study, cohort: Cohort, store: ReadingStore, tmp_path: Path
) -> None:
    session = open_session(study, cohort, store, SessionRequest("blind"))
    read_all(session, store, "anna")
    read_all(session, store, "ben", offset=1)
    readings = readings_of(study, cohort, store)
    assert len(readings.table) == 2 * 24 * 4
    labels = labels_of(readings, study, cohort)
    assert labels.rules == {"erythema": "median", "kind_of": "majority", "extent": "mean"}
    path, every = write_labels(labels, readings, tmp_path / "labels.csv")
    assert len(pd.read_csv(every)) == len(readings.table)
    lines = study_lines(labels, study, path)
    text = STUDY.replace("cohort: cohort.csv", lines) + "split: {by: subject, folds: 2}\n"
    (tmp_path / "labelled.yaml").write_text(text)
    read = read_cohort(read_study(tmp_path / "labelled.yaml"), to_learn=False)
    upper = read.panels[read.panels["region"] == "upper"]
    # the lower of two values
    expected = upper["subject"].str[1:].astype(int) % 4
    assert np.array_equal(upper["erythema"], expected.astype(float))
    assert set(read.images["erythema_ben"].astype(float)) <= {1.0, 2.0, 3.0, 4.0}
    assert set(read.images["ward"]) == {"B"}


def test_disagreement_is_adjudicated_and_replaces_the_consensus(
    study: Study, cohort: Cohort, store: ReadingStore
) -> None:
    session = open_session(study, cohort, store, SessionRequest("blind"))
    read_all(session, store, "anna")
    assert adjudication_items(readings_of(study, cohort, store), study) == {}
    with pytest.raises(CasewiseError):
        open_session(study, cohort, store, SessionRequest("adjudication", "adjudication", {}))
    read_all(session, store, "ben", offset=2)
    items = adjudication_items(readings_of(study, cohort, store), study)
    assert len(items) == 20
    shown = next(iter(items.values()))
    assert shown is not None
    assert all([line[:3] for line in lines] == ["A: ", "B: "] for lines in shown.values())
    assert len({line[3:] for line in shown["erythema[upper]"]}) == 2
    final = open_session(study, cohort, store, SessionRequest("adjudication", "adjudication", items))
    window, first = store.open_window("adjudication", "chair"), final.order_for("chair")[0]
    entry = Entry("adjudication", "chair", first.item.key, 1, 1, "erythema[upper]", "4", final.form.version)
    store.append(entry, window)
    labels = labels_of(readings_of(study, cohort, store), study, cohort)
    own = (cohort.images["case"] == first.item.case).to_numpy()
    upper = (cohort.images["region"] == "upper").to_numpy()
    assert labels.table.loc[own & upper, "erythema"].tolist() == ["4"]


def test_a_case_that_cannot_be_judged_has_no_label(study: Study, cohort: Cohort, store: ReadingStore) -> None:
    session = open_session(study, cohort, store, SessionRequest("blind"))
    window, first = store.open_window("blind", "anna"), session.order_for("anna")[0]
    store.append(Entry("blind", "anna", first.item.key, 1, 1, "", "poor quality", session.form.version), window)
    table = readings_of(study, cohort, store).table
    assert table["value"].isna().all()
    assert set(table["reason"]) == {"poor quality"}
    labels = labels_of(readings_of(study, cohort, store), study, cohort)
    assert labels.without == {"erythema": 2, "kind_of": 1, "extent": 1}


def test_an_adjudication_keeps_its_order_and_grows(study: Study, cohort: Cohort, store: ReadingStore) -> None:
    items: dict[str, dict[str, list[str]]] = {case: {} for case in cohort.cases["case"]}
    keys = list(items)[::-1]
    first = SessionRequest("adjudication", "adjudication", {key: items[key] for key in keys[:5]})
    session = open_session(study, cohort, store, first)
    assert [each.item.key for each in session.order_for("chair")] == keys[:5]
    more = SessionRequest("adjudication", "adjudication", {key: items[key] for key in keys[3:8]})
    session = open_session(study, cohort, store, more)
    assert [each.item.key for each in session.order_for("chair")] == keys[:8]
    again = open_session(study, cohort, store, SessionRequest("adjudication", "adjudication", {}))
    assert len(again.order_for("chair")) == 8


def test_values_of_an_earlier_form_are_left_out_and_counted(study: Study, cohort: Cohort, store: ReadingStore) -> None:
    session = open_session(study, cohort, store, SessionRequest("blind"))
    read_all(session, store, "anna")
    reading = study.key("reading").model_copy(update={"steps": {"extent": 1.0}})
    coarser = study.model_copy(update={"reading": reading})
    readings = readings_of(coarser, cohort, store)
    assert readings.left_out == 24
    assert set(readings.table["target"]) == {"erythema", "kind_of"}
    later = open_session(coarser, cohort, store, SessionRequest("blind"))
    first = later.order_for("anna")[0]
    assert not later.is_complete(store.current("blind", "anna")[first.item.key, 1])
    assert session.is_complete(store.current("blind", "anna")[first.item.key, 1])


def test_cases_that_were_not_read_again_keep_their_labels(
    study: Study, cohort: Cohort, store: ReadingStore, tmp_path: Path
) -> None:
    session = open_session(study, cohort, store, SessionRequest("blind"))
    read_all(session, store, "anna")
    path, _ = write_labels(
        labels_of(readings_of(study, cohort, store), study, cohort),
        readings_of(study, cohort, store),
        tmp_path / "l.csv",
    )
    labelled = read_study(tmp_path / "study.yaml", settings=[f"cohort={path}"])
    new = read_cohort(labelled, to_learn=False, labelled=False)
    listed = dict.fromkeys([new.cases["case"].iloc[0]])
    doubtful = open_session(labelled, new, store, SessionRequest("doubtful", "doubtful", listed, "run 1"))
    window, one = store.open_window("doubtful", "anna"), doubtful.order_for("anna")[0]
    store.append(Entry("doubtful", "anna", one.item.key, 1, 1, "kind_of", "other", doubtful.form.version), window)
    labels = labels_of(readings_of(labelled, new, store), labelled, new, ["doubtful"], keep=True)
    again = (new.images["case"] == one.item.case).to_numpy()
    assert set(labels.table.loc[again, "kind_of"]) == {"other"}
    assert set(labels.table.loc[~again, "kind_of"]) == {"plaque"}
    assert set(labels.table["extent"]) == {"2.5"}
    with pytest.raises(CasewiseError):
        open_session(labelled, new, store, SessionRequest("doubtful", "doubtful", listed, "run 2"))
    with pytest.raises(CasewiseError, match="erythema_anna"):
        labels_of(readings_of(labelled, new, store), labelled, new)


def test_a_backup_restores_readings_after_a_kill(study: Study, cohort: Cohort, store: ReadingStore) -> None:
    session = open_session(study, cohort, store, SessionRequest("blind"))
    read_all(session, store, "anna")
    backup = store.back_up()
    count = len(store.entries())
    for end in ("", "-wal", "-shm"):
        store.path.with_name(store.path.name + end).unlink(missing_ok=True)
    store.path.write_bytes(backup.read_bytes())
    assert len(ReadingStore(store.folder).entries()) == count


def test_rules_suit_the_kinds_of_targets(tmp_path: Path, study: Study) -> None:
    for settings in ["reading.disagreement={kind_of: 1}", "reading.consensus={kind_of: median}"]:
        with pytest.raises(StudyError, match=r"reading\.(disagreement|consensus)"):
            read_study(tmp_path / "study.yaml", settings=[settings])


def test_scores_are_computed_from_complete_readings(tmp_path: Path, study: Study) -> None:
    text = STUDY.replace(
        "reading:", "scores: {total: {formula: 'erythema[upper] + 2 * erythema[lower]', range: 0..12}}\nreading:"
    )
    (tmp_path / "study.yaml").write_text(text)
    study = read_study(tmp_path / "study.yaml")
    cohort, store = read_cohort(study, to_learn=False, labelled=False), ReadingStore(tmp_path / "scored")
    session = open_session(study, cohort, store, SessionRequest("blind"))
    order, window = session.order_for("anna"), store.open_window("blind", "anna")
    entered = {0: {"erythema[upper]": "3", "erythema[lower]": "4"}, 1: {"erythema[upper]": "3"}, 2: {"": "other"}}
    for number, values in entered.items():
        each = order[number]
        for key, value in values.items():
            entry = Entry("blind", "anna", each.item.key, 1, each.position, key, value, session.form.version)
            store.append(entry, window)
    readings = readings_of(study, cohort, store)
    form, table = with_scores(study, readings.form, readings.table)
    assert form.fields[0].key == "total"
    total = table[table["target"] == "total"].set_index("case")
    assert len(total) == 2
    assert total.loc[order[0].item.case, "value"] == 11.0
    assert np.isnan(total.loc[order[2].item.case, "value"])
    assert total.loc[order[0].item.case, ["reader", "position", "session"]].tolist() == ["anna", 1, "blind"]


@pytest.mark.usefixtures("study")
def test_a_score_that_cannot_be_computed_is_refused_before_anybody_reads(tmp_path: Path) -> None:
    text = STUDY.replace("reading:", "scores: {total: {formula: 'erytema[upper]', range: 0..4}}\nreading:")
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(StudyError, match=r"names 'erytema', which is neither a target.*'erythema'"):
        rate(tmp_path / "study.yaml", ["anna"], tmp_path / "readings")
    assert not (tmp_path / "readings").exists()


@pytest.mark.parametrize(("anchors", "fits"), [({0: "no sign", 4: "severe"}, True), ({"5": "too many"}, False)])
def test_meanings_are_of_values_of_the_form(study: Study, anchors: dict[object, str], fits: bool) -> None:
    changed = read_study(study.cohort.parent / "study.yaml", settings=[f"reading.anchors.erythema={anchors}"])
    if fits:
        assert form_of(changed).field("erythema[upper]").options[0].text == "no sign"
    else:
        with pytest.raises(CasewiseError, match="erythema"):
            form_of(changed)


@pytest.mark.parametrize(
    ("chosen_on", "stage", "stages"),
    [("oof", "test", ["test"]), ("stated", "test", ["oof", "test"]), ("stated", "oof", ["oof", "test"])],
)
def test_cases_on_which_the_model_was_chosen_are_not_compared(chosen_on: str, stage: str, stages: list[str]) -> None:
    rows = pd.DataFrame({"case": ["a", "b"], "stage": ["oof", "test"], "learner": "net", "target": "t", "region": ""})
    main = SimpleNamespace(learner="net", chosen_on=chosen_on, stage=stage)
    run: Any = SimpleNamespace(predictions=rows.assign(image=""), results=SimpleNamespace(main=main), folder="run")
    assert held_out_rows(run, to_compare=True)["stage"].tolist() == stages
    assert len(held_out_rows(run)) == 2


def test_an_export_has_the_names_of_classes_and_replaces_no_other_file(
    study: Study, cohort: Cohort, store: ReadingStore, tmp_path: Path
) -> None:
    session = open_session(study, cohort, store, SessionRequest("blind"))
    read_all(session, store, "anna")
    window, first = store.open_window("blind", "ben"), session.order_for("ben")[0]
    store.append(Entry("blind", "ben", first.item.key, 1, 1, "", "poor quality", session.form.version), window)
    readings = readings_of(study, cohort, store)
    path = tmp_path / "labels.csv"
    check_export(path, study.cohort)
    write_labels(labels_of(readings, study, cohort), readings, path)
    every = pd.read_csv(tmp_path / "labels-readings.csv", keep_default_na=False, dtype=str)
    assert set(every[(every["target"] == "kind_of") & (every["reader"] == "anna")]["value"]) == {"plaque"}
    assert set(every[every["reader"] == "ben"]["value"]) == {""}
    check_export(path, study.cohort)  # an earlier export
    (tmp_path / "other.csv").write_text("keep")
    for name in (study.cohort, tmp_path / "other.csv", tmp_path, tmp_path / "labels.xlsx"):
        with pytest.raises(CasewiseError):
            check_export(Path(name), study.cohort)


def test_names_that_differ_by_capital_letters_are_refused(store: ReadingStore) -> None:
    store.begin("blind", "blind", SessionFacts(0, 0.0, longitudinal=False))
    store.open_window("blind", "anna")
    store.check_names(["anna", "ben"])
    for names in (["Anna"], ["ben", "Ben"]):
        with pytest.raises(CasewiseError):
            store.check_names(names)


def test_the_first_reading_stays_the_first_when_it_is_corrected_later(
    study: Study, cohort: Cohort, store: ReadingStore
) -> None:
    for name in ("blind", "later"):
        open_session(study, cohort, store, SessionRequest(name))
    form = open_session(study, cohort, store, SessionRequest("blind")).form
    item = next(iter(items_of(study, cohort, form)))
    for name, value in (("blind", "1"), ("later", "4"), ("blind", "2")):
        window = store.open_window(name, "anna")
        store.append(Entry(name, "anna", item, 1, 1, "erythema[upper]", value, form.version), window)
    first = first_readings(readings_of(study, cohort, store).table)
    assert first["value"].tolist() == [2.0]
