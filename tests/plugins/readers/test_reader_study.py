"""A whole reader study: phantoms, three readers at the keyboard of a browser, two kills, export, and agreement."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.cohort.cohort import read_cohort
from casewise.plugins.phantoms.psoriasis import make_psoriasis
from casewise.plugins.readers.rating.readings import readings_of
from casewise.plugins.readers.rating.sessions import Presented, SessionRequest, open_session
from casewise.plugins.readers.rating.store import ReadingStore
from casewise.plugins.readers.statistics.agreement import agreements
from casewise.study.loading import read_study
from tests.browsing import chromium, needs_chromium

pytestmark = [pytest.mark.slow, needs_chromium]

STUDY = """
cohort: cohort.csv
regions: [upper, trunk, lower]
panels: {by: region}
targets:
  erythema: {range: 0..4, integer: true}
  induration: {range: 0..4, integer: true}
  scaling: {range: 0..4, integer: true}
  area: {range: 0..6, integer: true}
scores: pasi
"""
# Each reader adds a constant and, from the first to the last case, a drift; `noise` is the probability of
# one point more or less.
READERS = {
    "anna": {"bias": 0.0, "drift": 0.0, "noise": 0.2, "width": 1280, "kill_after": 15},
    "ben": {"bias": 1.0, "drift": 0.0, "noise": 0.2, "width": 390, "kill_after": 30},
    "eva": {"bias": 0.0, "drift": 2.0, "noise": 0.2, "width": 1280, "kill_after": None},
}
COMMAND = [sys.executable, "-m", "casewise.cli.main"]


def casewise(folder: Path, *arguments: str) -> str:
    done = subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def rating(folder: Path, reader: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a process, and the address that it prints."""
    command = [*COMMAND, "rate", "study.yaml", "--reader", reader, "--output", "readings", "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield process, found[0]
                break
        else:
            pytest.fail("".join(lines))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def typed(order: list[Presented], truth: pd.DataFrame, fields: Any, reader: str) -> list[list[str]]:
    """The keys of a reader for each case, from the true grades."""
    planted = READERS[reader]
    rng = np.random.default_rng(sorted(READERS).index(reader))
    rows = []
    for each in order:
        moved = planted["bias"] + planted["drift"] * (each.position - 1) / (len(order) - 1)
        values = [truth.loc[(each.item.case, field.region), field.target] for field in fields]
        errors = rng.choice(
            [-1, 0, 1], len(values), p=[planted["noise"] / 2, 1 - planted["noise"], planted["noise"] / 2]
        )
        most = [len(field.options) - 1 for field in fields]
        rows.append(
            [str(int(np.clip(np.rint(v + moved + e), 0, m))) for v, e, m in zip(values, errors, most, strict=True)]
        )
    return rows


def score(page: Any, rows: list[list[str]], start: int, stop: int) -> None:
    """Score cases by keyboard: a key a score, and Enter."""
    for position in range(start, stop):
        page.locator("#title", has_text=f"Case {position + 1} of {len(rows)}").wait_for()
        for key in rows[position]:
            page.keyboard.press(key)
        page.keyboard.press("Enter")
    page.locator("#state.saved").wait_for()


def test_a_reader_study_from_images_to_agreement(tmp_path: Path) -> None:
    make_psoriasis(tmp_path, subjects=40, visits=1, size=(160, 106), seed=3)
    table = pd.read_csv(tmp_path / "visits.csv", dtype=str)
    targets = ["erythema", "induration", "scaling", "area"]
    table.drop(columns=targets, errors="ignore").to_csv(tmp_path / "cohort.csv", index=False)
    (tmp_path / "study.yaml").write_text(STUDY)
    study = read_study(tmp_path / "study.yaml")
    cohort = read_cohort(study, to_learn=False, labelled=False)
    cases = cohort.images.drop_duplicates("subject").set_index("subject")["case"]
    truth = table.assign(case=table["subject"].map(cases)).groupby(["case", "region"])[targets].first().astype(float)
    store = ReadingStore(tmp_path / "readings")
    session = open_session(study, cohort, store, SessionRequest("blind"))
    orders = {reader: session.order_for(reader) for reader in READERS}
    store.close()
    rows = {reader: typed(order, truth, session.form.fields, reader) for reader, order in orders.items()}
    with chromium() as browser:
        for reader, planted in READERS.items():
            context = browser.new_context(viewport={"width": planted["width"], "height": 900})
            page, done = context.new_page(), 0
            for stop in filter(None, (planted["kill_after"], len(rows[reader]))):
                with rating(tmp_path, reader) as (process, address):
                    page.goto(address)
                    if not done:  # the keys are shown to a reader who begins
                        page.get_by_role("heading", name="How to score").wait_for()
                        page.keyboard.press("Enter")
                    score(page, rows[reader], done, stop)
                    done = stop
                    process.kill()  # at once, with nothing brought to an end
            context.close()
    readings = readings_of(study, cohort, ReadingStore(tmp_path / "readings"))
    entered = readings.table.set_index(["reader", "position", "target", "region"])["value"]
    assert len(entered) == 3 * 44 * 12
    for reader, of_reader in rows.items():
        for position, values in enumerate(of_reader, 1):
            own = [entered[reader, position, field.target, field.region] for field in session.form.fields]
            assert own == [float(value) for value in values]
    printed = casewise(tmp_path, "rate", "study.yaml", "--output", "readings", "--export", "labels.csv")
    assert "labels.csv" in printed
    labels = pd.read_csv(tmp_path / "labels.csv")
    first = {(each.item.case, each.position) for each in orders["ben"] if each.occurrence == 1}
    for case, position in first:
        value = entered["ben", position, "erythema", "trunk"]
        own = labels[(labels["region"] == "trunk") & (labels["subject"] == cohort_subject(cohort, case))]
        assert set(own["erythema_ben"]) == {value}
    casewise(tmp_path, "agreement", "study.yaml", "--output", "readings")
    assert (tmp_path / "readings" / "agreement.html").stat().st_size > 10_000
    for figures in agreements(readings.table, session.form.fields).values():
        drift = figures.readers["eva"].drift
        assert drift.low is not None
        assert drift.low > 0


def cohort_subject(cohort: Any, case: str) -> str:
    return str(cohort.images.set_index("case")["subject"].loc[case].iloc[0])
