"""The file of the queue: its tables, transactions that are durable when they end, and errors that say what to do."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from casewise.errors import printable
from casewise.plugins.node.queue.records import QueuedStudy, StudyState
from casewise.web.database import Database

NAME = "queue.sqlite"
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO facts VALUES ('format', '1');
CREATE TABLE studies (
    uid TEXT PRIMARY KEY, label TEXT NOT NULL, state TEXT NOT NULL, version INTEGER NOT NULL DEFAULT 1,
    first_at REAL NOT NULL, last_at REAL NOT NULL, changed_at REAL NOT NULL, reason TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0, next_at REAL NOT NULL DEFAULT 0, failing_since REAL,
    lease TEXT NOT NULL DEFAULT '', owner TEXT NOT NULL DEFAULT '', removed INTEGER NOT NULL DEFAULT 0,
    unwritten TEXT NOT NULL DEFAULT ''
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
    at REAL NOT NULL, seconds REAL NOT NULL, unwritten INTEGER NOT NULL, observation TEXT
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
CREATE INDEX pending ON deliveries (state, partner, next_at);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, study TEXT NOT NULL, event TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX events_of ON events (study);
CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_last BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
"""


class QueueDatabase(Database):
    """The file of a queue. It may be used by several threads and processes of one computer.

    Raises:
        CasewiseError: the file is damaged, of a newer casewise, or cannot be written.
    """

    schema, busy = SCHEMA, 30

    def __init__(self, folder: Path) -> None:
        self.folder, self.own_process = folder.absolute(), owner_of(os.getpid())
        super().__init__(self.folder / NAME)

    def close(self) -> None:
        """Give back the studies that this process works on, and close the file."""
        with self._writing() as db:
            db.execute("UPDATE studies SET lease = '', owner = '' WHERE owner = ?", [self.own_process])
        super().close()

    def check_writable(self) -> None:
        """Check that a transaction can begin.

        Raises:
            CasewiseError: it cannot.
        """
        with self._writing():
            pass

    def _event(self, study: str, event: str, detail: str = "") -> None:
        values = (time.time(), study, event, cut_text(detail))
        self._db.execute("INSERT INTO events (at, study, event, detail) VALUES (?, ?, ?, ?)", values)

    def _change(self, study: str, state: StudyState, reason: str = "", **values: Any) -> None:
        """Put a study into a state, in a transaction; nobody works on it any more."""
        columns = {"state": state, "reason": cut_text(reason), "changed_at": time.time(), "lease": "", "owner": ""}
        columns |= values
        stated = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"UPDATE studies SET {stated} WHERE uid = ?", [*columns.values(), study])  # noqa: S608
        self._event(study, state, reason)

    def _studies(self, condition: str, values: Sequence[Any]) -> list[QueuedStudy]:
        query = (
            "SELECT uid, state, (SELECT count(DISTINCT instance) FROM instances WHERE study = uid), "  # noqa: S608
            "first_at, changed_at, reason, attempts, next_at, version, lease, unwritten FROM studies "
            f"WHERE {condition} ORDER BY changed_at, uid"
        )
        return [
            QueuedStudy(row[0], StudyState(row[1]), row[2], _iso(row[3]), _iso(row[4]), *row[5:])
            for row in self._rows(query, values)
        ]


def owner_of(process: int) -> str:
    """A process, told from a later one with its number by its start; the number alone if it does not run."""
    try:
        return f"{process} {psutil.Process(process).create_time():.2f}"
    except psutil.Error:
        return str(process)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def cut_text(text: str) -> str:
    """A reason in one line of bounded length."""
    return printable(" ".join(text.split()))[:500]
