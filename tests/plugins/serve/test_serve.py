"""The interface of a served model: predictions, saliency maps, and typed errors for every bad upload."""

import base64
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.inference.model import load_bundle
from casewise.plugins.serve.settings import ServiceSettings
from tests.bad_uploads import BAD, picture
from tests.conftest import absolute
from tests.film_files import film_bytes
from tests.plugins.serve.serving import Running, running
from tests.test_cli import casewise

REGIONS = ("upper", "trunk", "lower")


@pytest.fixture(scope="module")
def served(served_run: Path) -> Iterator[Running]:
    settings = ServiceSettings(served_run / "bundle", learner="linear_pixels", max_files=60)
    with running(settings) as service:
        yield service


@pytest.fixture(scope="module")
def table(phantom: Path) -> pd.DataFrame:
    rows = absolute(phantom)
    return rows[rows["subject"] == rows["subject"].iloc[0]]


def form_of(rows: pd.DataFrame) -> tuple[list[tuple[str, Any]], dict[str, str]]:
    """The files and fields of the visits in a table."""
    visits = list(dict.fromkeys(rows["visit"]))
    files = [
        (f"{visits.index(row.visit) + 1}.{row.region}", (Path(row.path).name, Path(row.path).read_bytes()))
        for row in rows.itertuples()
    ]
    return files, {f"{number}.visit": visit for number, visit in enumerate(visits, 1)}


def post(service: Running, rows: pd.DataFrame, path: str = "/api/predict", **fields: str) -> httpx.Response:
    files, data = form_of(rows)
    return httpx.post(service.url + path, files=files, data=data | fields, timeout=300)


def test_predictions_are_those_of_the_bundle(served: Running, served_run: Path, table: pd.DataFrame) -> None:
    answer = post(served, table)
    assert answer.status_code == 200, answer.text
    expected = load_bundle(served_run / "bundle").predict(table, learner="linear_pixels")
    columns = {"prediction": "prediction", "prediction low": "prediction_low", "prediction high": "prediction_high"}
    columns |= {"distance": "distance", "spread": "spread"}
    by_key = expected.set_index(["visit", "target", "region"])
    results = {
        (visit["visit"], each["target"], each["region"]): each
        for visit in answer.json()["visits"]
        for each in visit["results"]
    }
    assert set(results) == set(by_key.index)
    for key, result in results.items():
        for ours, theirs in columns.items():
            value = by_key.loc[key, ours]
            assert result[theirs] == (None if pd.isna(value) else pytest.approx(float(value), abs=1e-5))
        assert result["beyond"] == (None if pd.isna(by_key.loc[key, "beyond"]) else bool(by_key.loc[key, "beyond"]))
    scores = [results[visit, "pasi", ""] for visit in dict.fromkeys(table["visit"])]
    bounds = {"clear": (0, 1), "mild": (1, 10), "moderate-to-severe": (10, 72)}
    for score in scores:
        low, high = bounds[score["band"]]
        assert low <= score["prediction"] <= high
        ends = score["prediction_low"], score["prediction_high"]
        assert score["bands"] == [name for name, (low, high) in bounds.items() if ends[0] < high and ends[1] >= low]
    assert all(score["prediction_low"] is not None for score in scores)


def test_the_course_has_percent_change_and_response(served: Running, table: pd.DataFrame) -> None:
    answer = post(served, table).json()
    course = answer["trajectory"]
    values = [entry["value"] for entry in course["visits"]]
    assert len(values) == 3
    assert (course["target"], course["baseline"]) == ("pasi", table["visit"].iloc[0])
    assert course["visits"][0]["is_baseline"]
    for entry in course["visits"][1:]:
        change = 100 * (entry["value"] - values[0]) / values[0]
        assert entry["change"] == pytest.approx(change, abs=1e-6)
        assert all(entry["response"][t] == (change <= -float(t)) for t in ("50", "75", "90"))
        assert entry["response"]["100"] == (entry["value"] <= course["clear_at"])
    # days decide the order, not the order of the fields
    later_first = post(served, table, **{"1.day": "56", "2.day": "28", "3.day": "0"}).json()["trajectory"]["visits"]
    assert [entry["value"] for entry in later_first] == pytest.approx(values[::-1])
    assert later_first[0]["is_baseline"]
    assert [entry["day"] for entry in later_first] == [0, 28, 56]
    comma = post(served, table, **{"1.day": "0", "2.day": "3,5", "3.day": "010"}).json()["trajectory"]["visits"]
    assert [entry["day"] for entry in comma] == [0, 3.5, 10]
    assert [entry["day"] for entry in course["visits"]] == [None] * 3  # no day is invented
    some = post(served, table, **{"1.day": "5"})
    assert (some.status_code, some.json()["error"]["code"]) == (422, "day_missing")
    single = post(served, table[table["visit"] == table["visit"].iloc[0]]).json()
    assert single["trajectory"] is None


def test_saliency_lies_over_the_original_images(served: Running, table: pd.DataFrame) -> None:
    rows = table[table["visit"] == table["visit"].iloc[1]]
    answer = post(served, rows, "/api/explain", target="scaling")
    assert answer.status_code == 200, answer.text
    explained = answer.json()
    assert (explained["target"], explained["learner"], explained["signed"]) == ("scaling", "linear_pixels", True)
    names = {(entry["region"], entry["file"]) for entry in explained["maps"]}
    assert names == {(row.region, Path(row.path).name) for row in rows.itertuples()}
    for entry in explained["maps"]:
        path = next(p for p in rows["path"] if Path(p).name == entry["file"])
        original, overlay = (picture_of(entry[name]) for name in ("original", "overlay"))
        with Image.open(path) as image:
            assert original.shape == overlay.shape == np.asarray(image).shape
            assert np.abs(original.astype(float) - np.asarray(image)).mean() < 6  # JPEG of the same picture
        assert (original != overlay).any()
    wrong = post(served, rows, "/api/explain", target="scalling")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "unknown_target")
    assert "'scaling'" in wrong.json()["error"]["message"]
    other = post(served, rows, "/api/explain", learner="resnet18")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "no_saliency")


def picture_of(url: str) -> np.ndarray:
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def good_form(**changed: Any) -> dict[str, Any]:
    return {region: (f"{region}.jpg", picture(), "image/jpeg") for region in REGIONS} | changed


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_upload_is_an_error_that_names_it(served: Running, kind: str) -> None:
    name, content, status, code = BAD[kind]()
    answer = httpx.post(served.url + "/api/predict", files=good_form(trunk=(name, content)), timeout=300)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["files"]) == (code, [name])
    assert name in error["message"]
    assert len(error["message"]) < 700
    for private in ("Traceback", "Jane", "/tmp", "upload-", "request-", "casewise-serve"):
        assert private not in error["message"]


NAMES = ["../../etc/passwd", "..\\..\\windows\\win.ini", "/etc/shadow", "a\r\nX-Evil: 1.jpg"]
NAMES += ["x" * 900 + ".jpg", "\u202egpj.exe"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_lead_nowhere(served: Running, name: str) -> None:
    bad = httpx.post(served.url + "/api/predict", files=good_form(trunk=(name, b"text")), timeout=300)
    assert bad.status_code == 422
    error = bad.json()["error"]
    assert len(error["files"]) == 1
    assert "/" not in error["files"][0]
    assert "\\" not in error["files"][0].replace("\\x", "").replace("\\u", "")
    assert error["files"][0].isprintable()
    assert len(error["files"][0]) <= 120
    assert not list(served.folder.glob("request-*"))


def code_of(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"error"}
    return answer.status_code, answer.json()["error"]["code"]


def test_bad_forms_are_typed_errors(served: Running) -> None:
    url = served.url + "/api/predict"
    assert code_of(httpx.post(url, json={"a": 1})) == (415, "not_multipart")
    assert code_of(httpx.post(url, content=b"x", headers={"Content-Type": "text/html"})) == (415, "not_multipart")
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    nameless = b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--"
    for body in (b"", b"--x", b"--x\r\n\r\n", b"no boundary", nameless):
        assert code_of(httpx.post(url, content=body, headers=form)) in {(400, "bad_form"), (422, "no_image")}
    assert code_of(httpx.post(url, content=b"a", headers={"Content-Type": "multipart/form-data"})) == (400, "bad_form")
    many = [("upper", ("a.jpg", b"x"))] * 10_000
    assert code_of(httpx.post(url, files=many, timeout=300)) == (400, "bad_form")
    fields = {f"field{number}": "x" for number in range(10_000)}
    assert code_of(httpx.post(url, files=good_form(), data=fields, timeout=300)) == (400, "bad_form")
    long = {"visit": "x" * 100_000}
    assert code_of(httpx.post(url, files=good_form(), data=long)) == (400, "bad_form")
    assert code_of(httpx.post(url, files=good_form(), data={"visit": "a\x1b[31m"})) == (422, "bad_text")
    for day in ("1e999", "1,000", "3;5", "1_000", "nan", "0x1c"):
        assert code_of(httpx.post(url, files=good_form(), data={"day": day})) == (422, "bad_day")
    assert code_of(httpx.post(url, files=good_form(), data={"uper": "x"})) == (422, "unknown_field")
    for field in ("target", "learner"):  # they would have no effect
        assert code_of(httpx.post(url, files=good_form(), data={field: "x"})) == (422, "unknown_field")
    unknown = httpx.post(url, files=good_form(uper=("a.jpg", picture())))
    assert code_of(unknown) == (422, "unknown_field")
    assert "'upper'" in unknown.json()["error"]["message"]
    lacking = good_form()
    del lacking["trunk"]
    missing = httpx.post(url, files=lacking)
    assert code_of(missing) == (422, "missing_image")
    assert "trunk" in missing.json()["error"]["message"]
    assert code_of(httpx.post(url, files=good_form(), data={"2.visit": "week 4"})) == (422, "no_image")
    same = good_form() | {f"2.{name}": file for name, file in good_form().items()}
    assert code_of(httpx.post(url, files=same, data={"1.visit": "a", "2.visit": "a"})) == (422, "same_visit")
    assert code_of(httpx.get(url)) == (405, "wrong_method")
    assert code_of(httpx.get(served.url + "/page/../app.py")) == (404, "not_found")
    assert code_of(httpx.get(served.url + "/page/%2e%2e/app.py")) == (404, "not_found")


@pytest.mark.parametrize("path", ["/api/predict", "/api/explain"])
@pytest.mark.parametrize(("tags", "several"), [({}, False), ({"PatientID": "8"}, True), ({"PatientName": "Roe"}, True)])
def test_visits_of_two_patients_are_refused(served: Running, path: str, tags: dict[str, str], several: bool) -> None:
    pytest.importorskip("pydicom")
    stated = {"PatientID": "7", "PatientName": "Doe"}
    first, second = [film_bytes(np.eye(64, dtype=np.uint16) * 900, bits=12, **each) for each in (stated, stated | tags)]
    files = {name: (f"{name}.dcm", first) for name in REGIONS} | {f"2.{n}": (f"{n}-4.dcm", second) for n in REGIONS}
    answer = httpx.post(served.url + path, files=files, timeout=300)
    if not several:
        assert answer.status_code == 200, answer.text
        return
    assert code_of(answer) == (422, "several_patients")
    error = answer.json()["error"]
    assert len(error["files"]) == 2
    assert all(name in error["message"] for name in error["files"])
    assert not {"Doe", "Roe"} & set(error["message"].replace(".", " ").split())


def test_the_command_serves_until_it_is_stopped(served_run: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "casewise.cli.main", "serve", str(served_run / "bundle"), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "CASEWISE_SERVE_TOKEN": "a-token-of-tests"}
    with subprocess.Popen(
        [*words, "--learner", "linear_pixels"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        address = ""
        while not address:
            line = process.stdout.readline()
            assert line, "the command ended"
            address = next((word for word in line.split() if word.startswith("http://")), "")
        assert httpx.get(address + "health").json() == {"status": "ok"}
        assert httpx.get(address + "api/model").status_code == 401
        assert list(tmp_path.glob("casewise-serve-*"))
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_is_wrong(served_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = str(served_run / "bundle")
    with socket.create_server(("127.0.0.1", 0)) as used:
        taken = casewise("serve", bundle, "--port", str(used.getsockname()[1]))
    assert taken.returncode == 2
    assert "--port" in taken.stderr
    monkeypatch.setattr("casewise.plugins.serve.server.service", lambda *_: pytest.fail("a model is loaded"))
    for learner in ("linear_pixel", "networks", "all"):
        refused = casewise("serve", bundle, "--learner", learner, "--port", "0")
        assert refused.returncode == 2, refused.stderr
        assert "linear_pixels" in refused.stderr
