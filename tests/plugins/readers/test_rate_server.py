"""The service of a reading: every entry is kept, nobody sees what is of another, odd requests are refused."""

import json
import logging
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from casewise.errors import CasewiseError
from casewise.plugins.readers.form import COMMENT, Form
from casewise.plugins.readers.rating.server import Desk, RateSettings, application
from casewise.plugins.readers.rating.sessions import Session
from casewise.plugins.readers.rating.store import ReadingStore, SessionFacts
from tests.plugins.readers.rating import FORM, MIXED, SECRETS, TOKENS, items_in, session_of, store_of

COUNT = 4


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return session_of(items_in(tmp_path / "images", COUNT))


@pytest.fixture
def store(tmp_path: Path, session: Session) -> Iterator[ReadingStore]:
    opened = store_of(tmp_path / "readings", session)
    yield opened
    opened.close()


class Reader:
    """A reader at a window of the service, with a token."""

    def __init__(self, session: Session, store: ReadingStore, name: str, token: str | None = None) -> None:
        settings = RateSettings(readers=tuple(TOKENS), secrets=TOKENS)
        self.client = TestClient(application(session, store, settings), "http://127.0.0.1:8000")
        token = TOKENS.get(name, "") if token is None else token
        self.client.headers["authorization"] = f"Bearer {token}"
        self.window, self.form = "", FORM.version

    def open(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.post("/api/window").json()
        self.window, self.form = answer.get("window", ""), answer.get("version", self.form)
        return answer

    def enter(self, position: int, field: str, value: str | None, **changes: Any) -> Any:
        body = {"window": self.window, "form": self.form, "position": position, "field": field, "value": value}
        body["milliseconds"] = 1000
        return self.client.post("/api/entry", content=json.dumps(body | changes))

    def score(self, position: int, grade: str = "2") -> Any:
        answers = [self.enter(position, field.key, grade, milliseconds=4000 * position) for field in FORM.fields]
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        return answers[-1].json()

    def case(self, position: int) -> dict[str, Any]:
        answer: dict[str, Any] = self.get(position).json()
        return answer

    def get(self, position: int) -> Any:
        return self.client.get(f"/api/case/{position}", params={"window": self.window})


@pytest.fixture
def anna(session: Session, store: ReadingStore) -> Reader:
    reader = Reader(session, store, "anna")
    reader.open()
    return reader


@pytest.fixture
def ben(session: Session, store: ReadingStore) -> Reader:
    reader = Reader(session, store, "ben")
    reader.open()
    return reader


def values(store: ReadingStore, reader: str) -> dict[str, dict[str, str | None]]:
    current = store.current("main", reader)
    return {key: {name: entry.value for name, entry in of.items()} for (key, _), of in current.items()}


def test_a_case_is_scored_and_shown_again(anna: Reader, session: Session, store: ReadingStore) -> None:
    opened = anna.open()
    assert opened["progress"] == {"done": 0, "total": COUNT, "seconds_left": None}
    assert (opened["position"], opened["reader"]) == (1, "anna")
    assert [field["key"] for field in opened["form"]["fields"]] == [field.key for field in FORM.fields]
    answer = anna.score(1)
    assert answer == {"progress": {"done": 1, "total": COUNT, "seconds_left": 4 * (COUNT - 1)}, "next": 2}
    anna.enter(1, COMMENT, "blurred\x00 at the\nright")
    case = anna.case(1)
    assert case["values"] == {field.key: "2" for field in FORM.fields}
    assert case["comment"] == "blurred\\x00 at the\nright"
    assert case["complete"] is True
    item = session.order_for("anna")[0].item
    (entries,) = store.current("main", "anna").values()
    assert {entry.item for entry in entries.values()} == {item.key}
    assert {entry.form for entry in entries.values()} == {FORM.version}


def test_a_reader_goes_on_at_the_last_case(anna: Reader) -> None:
    anna.score(1)
    anna.enter(3, "area[trunk]", "6")
    assert anna.open()["position"] == 3
    assert anna.score(3)["next"] == 4
    anna.score(4)
    opened = anna.open()
    assert opened["position"] == 2
    assert opened["progress"] == {"done": 3, "total": COUNT, "seconds_left": 12}
    assert anna.score(2)["next"] is None
    assert anna.open()["position"] is None


def test_the_second_window_takes_over(anna: Reader, session: Session, store: ReadingStore) -> None:
    anna.score(1, "1")
    before = values(store, "anna")
    other = Reader(session, store, "anna")
    other.open()
    for refused in (anna.enter(1, "erythema[upper]", "4"), anna.get(1)):
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "other_window")
    assert values(store, "anna") == before
    assert other.enter(1, "erythema[upper]", "3").status_code == 200
    anna.open()
    assert anna.case(1)["values"]["erythema[upper]"] == "3"
    assert other.enter(2, "erythema[upper]", "3").status_code == 409


def test_nothing_tells_who_a_case_is(anna: Reader, session: Session) -> None:
    texts = [anna.client.get("/").text, json.dumps(anna.open())]
    for position in range(1, COUNT + 1):
        answer = anna.get(position)
        texts.append(answer.text + str(answer.headers))
        for image in answer.json()["images"]:
            content = anna.client.get(f"/api/image/{image['id']}")
            assert content.headers["content-type"] == "image/jpeg"
            texts.append(content.content.decode("latin1") + str(content.headers))
    joined = "".join(texts)
    assert not [secret for secret in SECRETS if secret in joined]
    assert "/images/" not in joined
    assert "Content-Security-Policy".lower() in str(anna.client.get("/").headers)


def test_names_of_images_say_nothing(session: Session, store: ReadingStore) -> None:
    twice = replace(session, repeat=1.0)
    readers = [Reader(twice, store, name) for name in ("anna", "ben", "anna")]  # the third is another start
    names = []
    for reader in readers:
        reader.open()
        total = reader.case(1)["total"]
        assert total > COUNT
        own = [image["id"] for position in range(1, total + 1) for image in reader.case(position)["images"]]
        assert own == [image["id"] for position in range(1, total + 1) for image in reader.case(position)["images"]]
        names += own
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w-]{16}", name) for name in names)


def test_nobody_reads_or_writes_what_is_of_another(session: Session, store: ReadingStore) -> None:
    app = application(session, store, RateSettings(readers=tuple(TOKENS), secrets=TOKENS))
    clients = {
        name: TestClient(app, "http://127.0.0.1:8000", headers={"authorization": f"Bearer {token}"})
        for name, token in TOKENS.items()
    }
    windows = {name: client.post("/api/window").json()["window"] for name, client in clients.items()}
    case = {name: f"/api/case/1?window={window}" for name, window in windows.items()}
    image = clients["anna"].get(case["anna"]).json()["images"][0]["id"]
    assert clients["anna"].get(f"/api/image/{image}").status_code == 200
    assert clients["ben"].get(f"/api/image/{image}").status_code == 404
    assert TestClient(app, "http://127.0.0.1:8000").get(f"/api/image/{image}").status_code == 401
    body = {"window": windows["anna"], **GOOD}
    assert clients["ben"].post("/api/entry", json=body).status_code == 409
    assert clients["anna"].post("/api/entry", json=body).status_code == 200
    assert clients["ben"].get(case["anna"]).status_code == 409
    assert clients["ben"].get(case["ben"]).json()["values"] == {}
    assert values(store, "ben") == {}


def test_a_page_stays_with_its_reader_and_session(session: Session, store: ReadingStore) -> None:
    """Another reader, or session, may be served at the address of a page that is still open."""

    def client(session: Session, reader: str) -> TestClient:
        return TestClient(application(session, store, RateSettings(readers=(reader,))), "http://127.0.0.1:8000")

    second = replace(session, name="second")
    store.begin("second", "blind", SessionFacts(0, 0.0, longitudinal=False))
    address = f"/api/case/1?window={client(session, 'anna').post('/api/window').json()['window']}"
    client(session, "ben").post("/api/window")
    assert client(session, "ben").get(address).status_code == 409
    assert client(second, "anna").get(address).status_code == 409
    assert client(session, "anna").get("/api/case/1").status_code == 409
    assert client(session, "anna").get(address).status_code == 200  # started again


def test_values_of_an_earlier_form_are_missing(anna: Reader, session: Session, store: ReadingStore) -> None:
    anna.score(1)
    fewer = Form(tuple(replace(field, options=field.options[:2]) for field in FORM.fields[:1]), FORM.reasons, 50)
    changed = Reader(replace(session, form=fewer), store, "anna")
    assert changed.open()["progress"]["done"] == 0
    assert (changed.case(1)["values"], changed.case(1)["complete"]) == ({}, False)


TOKENLESS = ["", "Bearer", "Bearer ", "Bearer wrong", "Basic token-of-anna", "token-of-anna", "Bearer token-of-anna2"]
TOKENLESS += ["Bearer token-of-ann", "Bearer TOKEN-OF-ANNA", "Bearer token-of-anna token-of-ben", "Bearer anna"]
PRIVATE = ["GET /api/case/1", "POST /api/window", "POST /api/entry", "GET /api/image/x", "GET /api/other"]


@pytest.mark.parametrize("header", TOKENLESS)
def test_without_a_token_there_is_nothing(session: Session, store: ReadingStore, header: str) -> None:
    client = Reader(session, store, "anna").client
    client.headers["authorization"] = header
    for request in PRIVATE:
        answer = client.request(*request.split())
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "token")
    assert store.entries() == []


GOOD: dict[str, Any] = {
    "form": FORM.version,
    "position": 1,
    "field": "erythema[upper]",
    "value": "2",
    "milliseconds": 5,
}
ODD_ENTRIES: dict[str, tuple[Any, int]] = {
    "no body": (b"", 422),
    "no JSON": (b"{", 422),
    "a list": (b"[]", 422),
    "a number": (b"7", 422),
    "nested deeply": (b"[" * 8000, 422),
    "no UTF-8": (b'{"window": "\xff"}', 422),
    "half a surrogate": (
        b'{"window": "\\ud800", "form": "f", "position": 1, "field": "", "value": null, "milliseconds": 0}',
        422,
    ),
    "NaN": (b'{"window": "w", "form": "f", "position": NaN, "field": "", "value": null, "milliseconds": 0}', 422),
    "too large": (b" " * 20_000, 413),
    "no position": ({"position": None}, 422),
    "position as text": ({"position": "1"}, 422),
    "position as fraction": ({"position": 1.5}, 422),
    "position as truth": ({"position": True}, 422),
    "position 0": ({"position": 0}, 422),
    "position −1": ({"position": -1}, 422),
    "position after the last": ({"position": COUNT + 1}, 404),
    "huge position": ({"position": 10**30}, 404),
    "value as number": ({"value": 2}, 422),
    "value as list": ({"value": ["2"]}, 422),
    "value too high": ({"value": "5"}, 422),
    "value below": ({"value": "-1"}, 422),
    "value as fraction": ({"value": "2.0"}, 422),
    "value with blanks": ({"value": " 2"}, 422),
    "empty value": ({"value": ""}, 422),
    "value of another script": ({"value": "٢"}, 422),
    "value as SQL": ({"value": "2'); DROP TABLE entries; --"}, 422),
    "value as markup": ({"value": "<script>alert(1)</script>"}, 422),
    "long value": ({"value": "2" * 5000}, 422),
    "field of another region": ({"field": "erythema[leg]"}, 422),
    "field of a target": ({"field": "erythema"}, 422),
    "field as path": ({"field": "../../etc/passwd"}, 422),
    "field as list": ({"field": ["erythema[upper]"]}, 422),
    "long field": ({"field": "e" * 500}, 422),
    "cleared field that does not exist": ({"field": "no such", "value": None}, 422),
    "reason that is none": ({"field": "", "value": "no reason"}, 422),
    "long comment": ({"field": COMMENT, "value": "c" * 3000}, 422),
    "time as text": ({"milliseconds": "5"}, 422),
    "negative time": ({"milliseconds": -5}, 422),
    "endless time": ({"milliseconds": 1e300}, 422),
    "days of time": ({"milliseconds": 10**10}, 422),
    "another key": ({"reader": "ben"}, 422),
    "a window of nobody": ({"window": "x"}, 409),
    "an empty window": ({"window": ""}, 409),
    "window as number": ({"window": 1}, 422),
    "a long window": ({"window": "w" * 200}, 422),
    "no form": ({"form": None}, 422),
    "a form that never was": ({"form": "0" * 16}, 422),
}


@pytest.mark.parametrize("name", ODD_ENTRIES)
def test_odd_entries_change_nothing(anna: Reader, store: ReadingStore, name: str) -> None:
    body, status = ODD_ENTRIES[name]
    anna.score(1)
    before = values(store, "anna")
    content = body if isinstance(body, bytes) else json.dumps({"window": anna.window} | GOOD | body).encode()
    answer = anna.client.post("/api/entry", content=content)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message", "files"}
    assert len(answer.json()["error"]["message"]) < 300
    assert values(store, "anna") == before
    assert anna.enter(1, "area[upper]", "6").status_code == 200  # the reading goes on


ODD_ADDRESSES = {
    "/api/case/0": 404, "/api/case/5": 404, "/api/case/x": 404, "/api/case/-1": 404, "/api/case/1e3": 404,
    "/api/case/" + "9" * 40: 404, "/api/case/../case/1": 200, "/api/image/": 404, "/api/image/x": 404,
    "/api/image/..%2F..%2Fetc%2Fpasswd": 404, "/api/image/%00": 404, "/api/image/" + "a" * 5000: 404,
    "/page/../server.py": 404, "/page/..%2Fserver.py": 404, "/page/%2e%2e/server.py": 404, "/page//etc/passwd": 404,
    "/page/": 404, "/page": 307, "/etc/passwd": 404, "/api": 404, "/api/window": 405, "/api/entry": 405,
}  # fmt: skip


@pytest.mark.parametrize("address", ODD_ADDRESSES)
def test_odd_addresses_give_nothing_away(anna: Reader, address: str) -> None:
    answer = anna.client.get(address, params={"window": anna.window}, follow_redirects=False)
    assert answer.status_code == ODD_ADDRESSES[address]
    assert "root:" not in answer.text
    assert "import" not in answer.text


def test_films_and_scans_come_as_numbers(tmp_path: Path) -> None:
    pytest.importorskip("nibabel", reason="scans are optional")
    session = session_of(items_in(tmp_path / "images", 2, "scan"), MIXED)
    store = store_of(tmp_path / "readings", session)
    anna = Reader(session, store, "anna")
    anna.open()
    film, scan = anna.case(1)["images"]
    assert (film["kind"], film["width"], film["height"], film["slices"]) == ("grey", 48, 64, 1)
    assert (scan["kind"], scan["width"], scan["height"], scan["slices"], scan["spacing"]) == (
        "volume",
        20,
        24,
        9,
        [1, 1],
    )
    for number in (0, 8):
        content = anna.client.get(f"/api/image/{scan['id']}?slice={number}").content
        values = np.frombuffer(content, "<u2") * scan["slope"] + scan["intercept"]
        assert values.min() == 100 * (8 - number)
    assert anna.enter(1, "extent", "3.5").status_code == 200
    assert anna.enter(1, "extent", "3.25").status_code == 422
    assert anna.enter(1, "kind", "melanoma").status_code == 200
    store.close()


def test_a_damaged_image_is_told_to_the_owner_only(
    anna: Reader, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    path = session.order_for("anna")[1].item.images[0].path
    path.write_bytes(path.read_bytes()[:700])
    with caplog.at_level(logging.WARNING, "casewise.web"):
        damaged, whole = anna.case(2)["images"]
        assert path.name in caplog.text
    assert (damaged["kind"], whole["kind"]) == ("", "photo")
    assert not [secret for secret in SECRETS if secret in json.dumps(damaged)]
    answer = anna.client.get(f"/api/image/{damaged['id']}")
    assert answer.status_code == 422
    assert not [secret for secret in SECRETS if secret in answer.text]
    assert anna.enter(2, "", "poor quality").json()["progress"]["done"] == 1


def test_a_full_disk_loses_nothing(anna: Reader, store: ReadingStore, tmp_path: Path) -> None:
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    stored = {}
    for number in range(30):
        answer = anna.enter(1 + number % COUNT, COMMENT, text := f"{number}" * 500)
        if answer.status_code != 200:
            break
        stored[1 + number % COUNT] = text
    assert stored
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert str(tmp_path) not in answer.text
    assert {position: anna.case(position)["comment"] for position in stored} == stored
    store._db.execute("PRAGMA max_page_count = 100000")
    assert anna.enter(1, "erythema[upper]", "2").status_code == 200


def test_a_locked_file_is_tried_again(anna: Reader, store: ReadingStore, tmp_path: Path) -> None:
    store._db.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = anna.enter(1, "erythema[upper]", "2")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_saved")
    assert "retry-after" in answer.headers
    assert str(tmp_path) not in answer.text
    other.execute("ROLLBACK")
    other.close()
    assert anna.enter(1, "erythema[upper]", "2").status_code == 200


def test_earlier_visits_and_predictions_are_shown_where_the_session_says_so(
    session: Session, store: ReadingStore
) -> None:
    model = {"area[trunk]": ["Model: 3 (2 to 4)"]}
    aided = replace(session, longitudinal=True, shown=dict.fromkeys(session.items, model))
    desk = Desk(aided, store)
    window = store.open_window("main", "anna")
    counts = [len(desk.case("anna", position, window)["earlier"]) for position in range(1, COUNT + 1)]
    assert counts == [0, 1, 0, 1]
    case = desk.case("anna", 2, window)
    names = {image["id"] for visit in case["earlier"] for image in visit["images"]} | {i["id"] for i in case["images"]}
    assert len(names) == 4
    assert case["shown"] == {"area[trunk]": ["Model: 3 (2 to 4)"]}
    blind = Desk(session, store).case("anna", 2, window)
    assert (blind["earlier"], blind["shown"]) == ([], None)


def test_a_single_reader_at_this_computer_needs_no_token(session: Session, store: ReadingStore) -> None:
    settings = RateSettings(readers=("anna",))
    settings.check()
    client = TestClient(application(session, store, settings), "http://127.0.0.1:8000")
    assert client.post("/api/window").json()["reader"] == "anna"
    elsewhere = TestClient(application(session, store, settings), "http://rebound.example")
    assert elsewhere.post("/api/window").status_code == 421
    assert client.post("/api/window", headers={"origin": "http://other.example"}).status_code == 403


def test_several_readers_and_other_computers_get_tokens(store: ReadingStore) -> None:
    for settings in (RateSettings(readers=("anna", "ben")), RateSettings(readers=("anna",), host="0.0.0.0")):
        settings.check()
        tokens = settings.with_tokens(store).tokens
        assert set(tokens) == set(settings.readers)
        assert min(len(token) for token in tokens.values()) >= 20
        assert settings.with_tokens(store) == settings.with_tokens(store)
    assert RateSettings(readers=("anna",)).with_tokens(store).tokens == {}
    for readers in ((), ("anna", "anna")):
        with pytest.raises(CasewiseError):
            RateSettings(readers=readers).check()
