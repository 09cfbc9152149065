"""The file of all readings: one SQLite database to which entries are only ever added."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from casewise.errors import CasewiseError, cut
from casewise.files import make_folder
from casewise.web.database import Database

NAME = "readings.sqlite"
BACKUPS, ENTRIES_BETWEEN_BACKUPS = 3, 200
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO facts VALUES ('format', '1'), ('secret', lower(hex(randomblob(32))));
CREATE TABLE forms (version TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE sessions (name TEXT PRIMARY KEY, kind TEXT NOT NULL, content TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE items (
    session TEXT NOT NULL REFERENCES sessions, number INTEGER NOT NULL, batch INTEGER NOT NULL, item TEXT NOT NULL,
    shown TEXT, PRIMARY KEY (session, number), UNIQUE (session, item)
);
CREATE TABLE windows (id INTEGER PRIMARY KEY, name TEXT UNIQUE, session TEXT NOT NULL, reader TEXT NOT NULL,
    at TEXT NOT NULL);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL REFERENCES sessions, reader TEXT NOT NULL,
    item TEXT NOT NULL, occurrence INTEGER NOT NULL, position INTEGER NOT NULL, field TEXT NOT NULL, value TEXT,
    form TEXT NOT NULL REFERENCES forms, milliseconds INTEGER NOT NULL, window INTEGER NOT NULL REFERENCES windows,
    at TEXT NOT NULL
);
CREATE INDEX by_reader ON entries (session, reader);
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries are never changed'); END;
CREATE TRIGGER entries_last BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries are never removed'); END;
"""


class WindowError(CasewiseError):
    """Another window of the same reader was opened since: this one may not write any more."""


@dataclass(frozen=True)
class Entry:
    """One value that a reader entered; the newest of a field counts.

    Attributes:
        item: the key of the case or image; occurrence: 2 where it is read a second time.
        position: in the reader's order, from 1.
        field: a key of the form, `#comment`, or empty for a reason why the case cannot be judged.
        value: as text; None where it was cleared.
        form: the version that the reader saw.
        milliseconds: since the case appeared on the page.
    """

    session: str
    reader: str
    item: str
    occurrence: int
    position: int
    field: str
    value: str | None
    form: str
    milliseconds: int = 0
    id: int = 0
    at: str = ""


@dataclass(frozen=True)
class SessionFacts:
    """The fixed settings of a session: the seed of its orders, the share that is read twice, and its source."""

    seed: int
    repeat: float
    longitudinal: bool
    source: str = ""


class ReadingStore(Database):
    """The readings in a folder. It may be used by several threads, and by several processes one after another.

    Raises:
        CasewiseError: the file is damaged, of a newer casewise, or cannot be written.
    """

    schema = SCHEMA

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        self.folder = folder
        if not (folder / NAME).exists() and not create:
            raise CasewiseError(
                f"{folder}: there are no readings yet ({NAME} is missing). `casewise rate` begins them."
            )
        super().__init__(folder / NAME)

    def remedy(self) -> str:
        """The newest backup, if there is one."""
        if not (copies := sorted(self.backups.glob("*.sqlite"))):
            return "There is no backup."
        return f"Remove {NAME}, {NAME}-wal and {NAME}-shm, then copy the newest backup, {copies[-1]}, to {NAME}."

    def close(self) -> None:
        """Back up and close the file."""
        self.back_up()
        super().close()

    @property
    def backups(self) -> Path:
        """The folder with copies of the file."""
        return self.folder / "backups"

    def back_up(self) -> Path:
        """Copy the file as it is now, and keep the newest copies."""
        with self._lock, self._failures():
            make_folder(self.backups)
            # numbered by the last entry, as the clock may be changed
            last = self._db.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()[0]
            path = self.backups / f"{last:09d}.sqlite"
            temporary = path.with_suffix(".part")
            temporary.unlink(missing_ok=True)
            copy = sqlite3.connect(temporary)
            temporary.chmod(0o600)
            try:
                self._db.backup(copy)
            finally:
                copy.close()
            temporary.replace(path)
            for old in sorted(self.backups.glob("*.sqlite"))[:-BACKUPS]:
                old.unlink()
        return path

    # ------------------------------------------------------------------------------------------------------ sessions

    def token(self, reader: str) -> str:
        """The secret of a reader, the same each time."""
        digest = hmac.digest(bytes.fromhex(self._fact("secret")), reader.encode(), hashlib.sha256)
        return urlsafe_b64encode(digest[:18]).decode()

    def session(self, name: str) -> tuple[str, SessionFacts] | None:
        """The kind and facts of a session; None if there is none of this name."""
        rows = self._rows("SELECT kind, content FROM sessions WHERE name = ?", [name])
        return (str(rows[0][0]), SessionFacts(**json.loads(rows[0][1]))) if rows else None

    def source(self, name: str) -> str:
        """The source of a session's items; empty without such a session."""
        recorded = self.session(name)
        return recorded[1].source if recorded else ""

    def sessions(self) -> dict[str, str]:
        """The kind of each session by its name, in the order of their beginnings."""
        return dict(self._rows("SELECT name, kind FROM sessions ORDER BY at, rowid"))

    def begin(self, name: str, kind: str, facts: SessionFacts) -> None:
        """Record a session; nothing happens if there is one of this name."""
        with self._writing():
            values = [name, kind, json.dumps(asdict(facts)), _now()]
            self._db.execute("INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?)", values)

    def items(self, session: str) -> list[tuple[int, str, dict[str, list[str]] | None]]:
        """The items of a session in the order of the table: batch, key, and the lines next to its images."""
        rows = self._rows("SELECT batch, item, shown FROM items WHERE session = ? ORDER BY number", [session])
        return [(batch, item, None if shown is None else json.loads(shown)) for batch, item, shown in rows]

    def add_items(self, session: str, items: Sequence[str], shown: Sequence[Mapping[str, list[str]] | None]) -> None:
        """Add items as a batch of their own, which every reader reads after the earlier ones."""
        with self._writing():
            query = "SELECT coalesce(max(number), -1), coalesce(max(batch), -1) FROM items WHERE session = ?"
            last, batch = self._db.execute(query, [session]).fetchone()
            texts = [None if lines is None else json.dumps(lines) for lines in shown]
            rows = [(session, last + n, batch + 1, *pair) for n, pair in enumerate(zip(items, texts, strict=True), 1)]
            self._db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)

    def add_form(self, version: str, content: Mapping[str, object]) -> None:
        """Record a version of the form."""
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO forms VALUES (?, ?)", [version, json.dumps(content)])

    def has_form(self, version: str) -> bool:
        """Whether a version of the form was recorded."""
        return bool(self._rows("SELECT 1 FROM forms WHERE version = ?", [version]))

    # ------------------------------------------------------------------------------------------------------- entries

    def check_names(self, readers: Sequence[str]) -> None:
        """Check that no reader has the name of an earlier one in other letters.

        Raises:
            CasewiseError: one differs from another, or from a reader of entries, by capital letters only.
        """
        recorded = [str(row[0]) for row in self._rows("SELECT DISTINCT reader FROM windows")]
        names: dict[str, str] = {}
        for name in [*recorded, *readers]:
            if names.setdefault(name.casefold(), name) != name:
                raise CasewiseError(
                    f"--reader: {name} and {names[name.casefold()]} differ by capital letters only. Use one."
                )

    def open_window(self, session: str, reader: str) -> str:
        """Begin a window of a reader; earlier ones of the same reader may not write any more."""
        name = secrets.token_urlsafe(12)
        with self._writing():
            values = [name, session, reader, _now()]
            self._db.execute("INSERT INTO windows (name, session, reader, at) VALUES (?, ?, ?, ?)", values)
        return name

    def check_window(self, session: str, reader: str, window: str) -> int:
        """The number of a window, which must be the newest of the reader in this session.

        Raises:
            WindowError: another one was opened since, or there is none of this name.
        """
        query = "SELECT id, name FROM windows WHERE session = ? AND reader = ? ORDER BY id DESC LIMIT 1"
        newest = self._rows(query, [session, reader])
        if not newest or newest[0][1] != window:
            raise WindowError("This reading goes on in another window. Load this page again to go on here.")
        return int(newest[0][0])

    def append(self, entry: Entry, window: str) -> int:
        """Add an entry; it is on the disk when this returns its number.

        Raises:
            WindowError: another window of the reader was opened since, or there is none of this name.
            CasewiseError: the disk is full, or the file cannot be written.
        """
        with self._writing():
            number = self.check_window(entry.session, entry.reader, window)
            values = [entry.session, entry.reader, entry.item, entry.occurrence, entry.position, entry.field]
            values += [entry.value, entry.form, entry.milliseconds, number, _now()]
            query = (
                "INSERT INTO entries (session, reader, item, occurrence, position, field, value, form, milliseconds, "
                "window, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            )
            number = int(self._db.execute(query, values).lastrowid or 0)
        if number % ENTRIES_BETWEEN_BACKUPS == 0:
            self.back_up()
        return number

    def entries(self, session: str = "", reader: str = "") -> list[Entry]:
        """The entries in the order in which they were made, of one session and reader if stated."""
        query = (
            "SELECT session, reader, item, occurrence, position, field, value, form, milliseconds, id, at FROM entries "
            "WHERE (? = '' OR session = ?) AND (? = '' OR reader = ?) ORDER BY id"
        )
        return [Entry(*row) for row in self._rows(query, [session, session, reader, reader])]

    def current(self, session: str, reader: str) -> dict[tuple[str, int], dict[str, Entry]]:
        """The newest entry of each field, by item and occurrence; those that were cleared have no value."""
        newest: dict[tuple[str, int], dict[str, Entry]] = {}
        for entry in self.entries(session, reader):
            newest.setdefault((entry.item, entry.occurrence), {})[entry.field] = entry
        return newest


def check_reader(name: str, option: str = "--reader") -> str:
    """Return the name of a reader or session.

    Raises:
        CasewiseError: it is empty, too long, or no plain name.
    """
    if not name or len(name) > 40 or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise CasewiseError(
            f"{option}: {cut(name)} is not a name. Use at most 40 letters, digits and - _ . , such as reader-1."
        )
    return name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
