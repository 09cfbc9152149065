"""The file of the queue: its tables, the events of all that happens, and what partners must still receive."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from casewise.errors import CasewiseError, counted, printable
from casewise.files import TEMPORARY
from casewise.plugins.node.queue.records import (
    ANSWERS,
    RECEIVED,
    UNFINISHED,
    Answer,
    Delivery,
    QueuedStudy,
    StudyState,
    study_label,
)
from casewise.plugins.node.settings import Retry
from casewise.web.database import Database
from casewise.web.settings import Json

NAME = "queue.sqlite"
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO facts VALUES ('format', '1');
CREATE TABLE studies (
    uid TEXT PRIMARY KEY, label TEXT NOT NULL, state TEXT NOT NULL, version INTEGER NOT NULL DEFAULT 1,
    waiting_since REAL NOT NULL, last_at REAL NOT NULL, changed_at REAL NOT NULL, reason TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0, next_at REAL NOT NULL DEFAULT 0, failing_since REAL,
    lease TEXT NOT NULL DEFAULT '', removed INTEGER NOT NULL DEFAULT 0, unwritten TEXT NOT NULL DEFAULT ''
);
CREATE INDEX by_state ON studies (state, changed_at);
CREATE INDEX by_label ON studies (label);
CREATE TABLE instances (
    id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT NOT NULL REFERENCES studies, series TEXT NOT NULL,
    instance TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL, source TEXT NOT NULL, at REAL NOT NULL,
    UNIQUE (study, instance, sha256)
);
CREATE TABLE predictions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT NOT NULL REFERENCES studies, version INTEGER NOT NULL,
    at REAL NOT NULL, seconds REAL NOT NULL, unwritten INTEGER NOT NULL, observation TEXT, accession TEXT NOT NULL
);
CREATE INDEX totals_of_predictions ON predictions (seconds, unwritten);
CREATE TABLE answers (
    study TEXT NOT NULL REFERENCES studies, name TEXT NOT NULL, format TEXT NOT NULL, path TEXT NOT NULL,
    sha256 TEXT NOT NULL, PRIMARY KEY (study, name)
);
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT NOT NULL, name TEXT NOT NULL, partner TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending', attempts INTEGER NOT NULL DEFAULT 0, next_at REAL NOT NULL DEFAULT 0,
    failing_since REAL, reason TEXT NOT NULL DEFAULT '', UNIQUE (study, name, partner),
    FOREIGN KEY (study, name) REFERENCES answers ON DELETE CASCADE
);
CREATE INDEX pending ON deliveries (state, partner, attempts, next_at);
CREATE TABLE pauses (
    partner TEXT PRIMARY KEY, failures INTEGER NOT NULL, until REAL NOT NULL, newest INTEGER NOT NULL
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, study TEXT NOT NULL, event TEXT NOT NULL,
    detail TEXT NOT NULL, facts TEXT NOT NULL
);
CREATE INDEX events_of ON events (study);
CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_last BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
"""
SETTLED = (StudyState.SENT, StudyState.QUARANTINED, StudyState.DISCARDED)
# A time that is no later than now, or so late that the clock was set back since.
DUE = "NOT ({0} > ? AND {0} <= ?)"


class QueueDatabase(Database):
    """The file of a queue, and the deliveries in it. Several threads and processes of one computer may use it.

    Args:
        routes: the formats that each partner receives, by its name. Only what delivers answers states them: deliveries
            that they do not include are dropped, and new ones are added to the studies that are not SENT.
        retry: when what failed is tried again.

    Raises:
        CasewiseError: the file is damaged, of a newer casewise, or cannot be written; or it is missing or empty, and
            images or answers lie in the folder.
    """

    schema, busy = SCHEMA, 30

    def __init__(
        self, folder: Path, routes: Mapping[str, Sequence[str]] | None = None, retry: Retry | None = None
    ) -> None:
        self.folder, self._routes, self._retry = folder.absolute(), routes or {}, retry or Retry()
        super().__init__(self.folder / NAME)
        if routes is not None:
            self._reroute()

    def check_new(self) -> None:
        """Refuse to begin an empty queue where there are images or answers, which it would not name.

        Raises:
            CasewiseError: there are some.
        """
        counts = {name: len(complete_files(self.folder / name)) for name in (RECEIVED, ANSWERS)}
        if any(counts.values()):
            there = " and ".join(counted(n, f"file in {name}", f"files in {name}") for name, n in counts.items() if n)
            problem = f"{self.path} is {'empty' if self.path.exists() else 'missing'}, but there are {there}"
            remedy = f"Restore {NAME} from a backup. Without one, move {RECEIVED} and {ANSWERS} out of {self.folder}"
            raise CasewiseError(f"{problem}. {remedy}; the files in {RECEIVED} can then be sent to the node again.")

    def check_writable(self) -> None:
        """Check that a transaction can begin.

        Raises:
            CasewiseError: it cannot.
        """
        with self._writing():
            pass

    # -------------------------------------------------------------------------------------------------------- events

    def _event(self, study: str, event: str, detail: str = "", **facts: Any) -> None:
        values = (time.time(), study, event, cut_text(detail), json.dumps(facts))
        self._db.execute("INSERT INTO events (at, study, event, detail, facts) VALUES (?, ?, ?, ?, ?)", values)

    def _change(
        self, study: str, state: StudyState, reason: str = "", *, event: str = "", facts: Json | None = None, **own: Any
    ) -> None:
        """Put a study into a state, in a transaction; nobody works on it any more.

        Args:
            event: by default the name of the state, with the facts that belong to it.
            own: further columns.
        """
        now = time.time()
        columns = {"state": state, "reason": cut_text(reason), "changed_at": now, "lease": ""} | own
        stated = ", ".join(f"{name} = ?" for name in columns)
        # what was answered or left to a person waits anew
        waits = f"waiting_since = CASE WHEN state IN ({marks(SETTLED)}) THEN ? ELSE waiting_since END"
        query = f"UPDATE studies SET {waits}, {stated} WHERE uid = ?"  # noqa: S608
        self._db.execute(query, [*SETTLED, now, *columns.values(), study])
        self._event(study, event or state, reason, **facts or {})

    def events(self, study: str = "") -> list[tuple[float, str, str, str]]:
        """What happened, in its order: seconds since 1970, UID, event and detail; of one study if stated."""
        query = "SELECT at, study, event, detail FROM events WHERE ? = '' OR study = ? ORDER BY id"
        return [(at, uid, event, detail) for at, uid, event, detail in self._rows(query, [study, study])]

    def recorded(self, after: int, most: int = 1000) -> list[Json]:
        """The events after one with a number, as the audit trail states them: no study is named by its UID."""
        query = "SELECT id, at, event, study, detail, facts FROM events WHERE id > ? ORDER BY id LIMIT ?"
        return [
            {
                "id": number,
                "at": _iso(at, "milliseconds"),
                "event": event,
                "study": study and study_label(study),
                "detail": detail,
                **json.loads(facts),
            }
            for number, at, event, study, detail, facts in self._rows(query, [after, most])
        ]

    def _studies(self, condition: str, values: Sequence[Any]) -> list[QueuedStudy]:
        query = (
            "SELECT uid, state, (SELECT count(DISTINCT instance) FROM instances WHERE study = uid), "  # noqa: S608
            f"changed_at, reason, attempts, version, lease, unwritten FROM studies WHERE {condition} "
            "ORDER BY changed_at, uid"
        )
        return [
            QueuedStudy(row[0], StudyState(row[1]), row[2], _iso(row[3]), *row[4:]) for row in self._rows(query, values)
        ]

    # ---------------------------------------------------------------------------------------------------- deliveries

    def _add_deliveries(self, study: str) -> None:
        for name, style in self._db.execute("SELECT name, format FROM answers WHERE study = ?", [study]).fetchall():
            for partner in [partner for partner, formats in self._routes.items() if style in formats]:
                values = [study, name, partner]
                self._db.execute("INSERT OR IGNORE INTO deliveries (study, name, partner) VALUES (?, ?, ?)", values)

    def _drop_pending(self, study: str) -> None:
        self._db.execute("DELETE FROM deliveries WHERE study = ? AND state != 'delivered'", [study])

    def _reroute(self) -> None:
        """Let what must be delivered be what the partners that are stated now receive; none of them pauses."""
        query = "SELECT id, study, partner, format FROM deliveries JOIN answers USING (study, name)"
        with self._writing() as db:
            db.execute("DELETE FROM pauses")
            rows = db.execute(f"{query} WHERE state != 'delivered'").fetchall()
            dropped = {row[0]: row[1] for row in rows if row[3] not in self._routes.get(row[2], ())}
            db.executemany("DELETE FROM deliveries WHERE id = ?", [(number,) for number in dropped])
            for uid in dict.fromkeys(dropped.values()):
                self._finish(uid, StudyState.QUARANTINED)
            for (uid,) in db.execute("SELECT uid FROM studies WHERE state = ?", [StudyState.PREDICTED]).fetchall():
                self._add_deliveries(uid)
                self._finish(uid)

    def _finish(self, study: str, state: StudyState = StudyState.PREDICTED) -> None:
        """Let a study in a state become SENT, or go into quarantine, if no delivery of it is pending."""
        query = "SELECT state, partner, reason FROM deliveries WHERE study = ? ORDER BY id"
        rows = self._db.execute(query, [study]).fetchall()
        own = self._studies("uid = ?", [study])
        if not own or own[0].state != state or any(row[0] == "pending" for row in rows):
            return
        problems = [f"{partner}: {reason}" for status, partner, reason in rows if status == "given up"]
        problems += [
            f"{partner} received {style} of a former version, and none of this one. {own[0].unwritten}"
            for partner, style in self._former(study)
        ]
        result = StudyState.QUARANTINED if problems else StudyState.SENT
        self._change(study, result, " ".join(dict.fromkeys(problems)), attempts=0)

    def _former(self, study: str) -> list[tuple[str, str]]:
        """Partners that received a format which they should have, and which the present answers lack."""
        query = (
            "SELECT DISTINCT json_extract(facts, '$.partner') AS partner, json_extract(facts, '$.format') AS format "
            "FROM events WHERE study = ? AND event = 'delivered' AND format NOT IN "
            "(SELECT format FROM answers WHERE study = ?)"
        )
        rows = self._db.execute(query, [study, study]).fetchall()
        return [(partner, style) for partner, style in rows if style in self._routes.get(partner, ())]

    def deliveries(self, partner: str, now: float) -> list[Delivery]:
        """The answers that are to be delivered to a partner now; those that failed least come first.

        While the partner pauses (see `pause`), these are only what was added since.
        """
        query = (
            "SELECT d.id, d.study, a.name, a.format, a.path, a.sha256, d.partner, d.attempts, s.version "  # noqa: S608
            "FROM deliveries d JOIN answers a ON a.study = d.study AND a.name = d.name "
            "JOIN studies s ON s.uid = d.study LEFT JOIN pauses p ON p.partner = d.partner "
            f"WHERE d.state = 'pending' AND d.partner = ? AND {DUE.format('d.next_at')} "
            f"AND (p.partner IS NULL OR d.id > p.newest OR {DUE.format('p.until')}) "
            "ORDER BY d.attempts, d.next_at, d.id LIMIT 200"
        )
        return [
            Delivery(row[0], row[1], Answer(row[2], row[3], self.folder / row[4], row[5]), row[6], row[7], row[8])
            for row in self._rows(query, [partner, *self._span(now), *self._span(now)])
        ]

    def _span(self, now: float) -> tuple[float, float]:
        """For `DUE`."""
        return now, now + self._retry.longest

    def delivered(self, delivery: Delivery) -> None:
        """Record that a partner has an answer; if it paused, that is over."""
        answer, partner = delivery.answer, delivery.partner
        facts = {"answer": answer.name, "format": answer.format, "sha256": answer.sha256, "partner": partner}
        with self._writing() as db:
            db.execute("UPDATE deliveries SET state = 'delivered', reason = '' WHERE id = ?", [delivery.id])
            db.execute("DELETE FROM pauses WHERE partner = ?", [partner])
            self._event(delivery.study, "delivered", version=delivery.version, **facts)
            self._finish(delivery.study)

    def not_delivered(self, delivery: Delivery, reason: str, *, final: bool = False, gone: bool = False) -> None:
        """Record that an answer could not be delivered: it is tried again, or given up.

        Args:
            final: another attempt would not help. The study goes into quarantine when its other answers are delivered.
            gone: the fault is not of the answer, which waits no longer than its partner pauses.
        """
        now = time.time()
        with self._writing() as db:
            row = db.execute("SELECT failing_since FROM deliveries WHERE id = ?", [delivery.id]).fetchone()
            if row is None:  # images arrived meanwhile
                return
            since, attempts = row[0] or now, delivery.attempts + 1
            state = "given up" if final or now - since >= self._retry.give_up else "pending"
            next_at = 0 if gone else now + self._retry.wait(attempts)
            query = (
                "UPDATE deliveries SET state = ?, attempts = ?, next_at = ?, failing_since = ?, reason = ? WHERE id = ?"
            )
            db.execute(query, [state, attempts, next_at, since, cut_text(reason), delivery.id])
            text = cut_text(f"{delivery.partner}: {reason}")
            query = "UPDATE studies SET reason = ?, attempts = ? WHERE uid = ? AND state = ?"
            db.execute(query, [text, attempts, delivery.study, StudyState.PREDICTED])
            self._event(delivery.study, "not delivered" if state == "pending" else state, text)
            self._finish(delivery.study)

    def pause(self, partner: str) -> None:
        """Let the answers for a partner wait that fails whatever it is sent; each time longer, until it takes one."""
        with self._writing() as db:
            row = db.execute("SELECT failures FROM pauses WHERE partner = ?", [partner]).fetchone()
            failures = row[0] + 1 if row else 1
            query = "INSERT OR REPLACE INTO pauses SELECT ?, ?, ?, coalesce(max(id), 0) FROM deliveries"
            db.execute(query, [partner, failures, time.time() + self._retry.wait(failures)])


def complete_files(folder: Path) -> list[Path]:
    """The regular files below a folder, without those that a killed process did not finish."""
    return [path for path in folder.rglob("*") if path.is_file() and not is_unfinished(path, folder)]


def is_unfinished(path: Path, folder: Path) -> bool:
    """Whether a process was still writing a file below a folder of images or answers."""
    return path.name.startswith(TEMPORARY) or path.relative_to(folder).parts[0].endswith(UNFINISHED)


def marks(values: Sequence[Any]) -> str:
    """Place holders of values in a statement.

    >>> marks((1, 2, 3))
    '?, ?, ?'
    """
    return ", ".join("?" * len(values))


def _iso(seconds: float, timespec: str = "seconds") -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec)


def cut_text(text: str) -> str:
    """A reason in one line of bounded length."""
    return printable(" ".join(text.split()))[:500]
