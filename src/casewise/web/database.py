"""SQLite files of services: durable transactions, and errors that say what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar

from casewise.errors import CasewiseError
from casewise.files import make_folder, storage_message, sync_folder


class Database:
    """A SQLite file for several threads and processes of one computer, readable by its owner only.

    A subclass states its schema, which has a table `facts (name, value)` with a row `format`.

    Raises:
        CasewiseError: the file is damaged, of a newer casewise, or cannot be written.
    """

    schema: ClassVar[str]
    format: ClassVar[int] = 1
    # Seconds that a transaction waits for another process.
    timeout: ClassVar[float] = 10

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, RLock()
        with self._failures():
            if not path.exists() or not path.stat().st_size:
                self.check_new()
            if not path.parent.exists():
                make_folder(path.parent).chmod(0o700)
            self._db = sqlite3.connect(path, timeout=self.timeout, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self.check_new()
                try:
                    self._db.executescript(f"BEGIN IMMEDIATE; {self.schema} COMMIT;")
                except sqlite3.OperationalError as error:
                    self._db.rollback()
                    if "already exists" not in str(error):  # another process has just created the tables
                        raise
            problem = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
            try:
                stated = int(self._fact("format"))
            except (TypeError, ValueError):
                raise sqlite3.DatabaseError("it does not state its format") from None
        if stated > self.format:
            raise CasewiseError(
                f"{path} is of a newer casewise (format {stated}, here {self.format}). Update casewise."
            )
        sync_folder(path.parent)

    def check_new(self) -> None:
        """Check that a new database may be created here; subclasses override it.

        Raises:
            CasewiseError: it may not.
        """

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def remedy(self) -> str:
        """Sentences for the user whose file is damaged."""
        return f"Copy {self.path.parent} elsewhere, then restore it from a backup."

    def _fact(self, name: str) -> str:
        return str(self._db.execute("SELECT value FROM facts WHERE name = ?", [name]).fetchone()[0])

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn errors of the disk and of SQLite into a `CasewiseError` that names the file and what to do."""
        try:
            yield
        except sqlite3.IntegrityError as error:
            text = f"{self.path}: another program began the same at this moment. Give the command again."
            raise CasewiseError(text) from error
        except sqlite3.DatabaseError as error:
            # A full disk, a lock or missing rights, unless tables are missing: the file itself is intact.
            intact = isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError)
            if intact and "no such" not in str(error):
                text = f"{self.path} could not be written: {error}. Free space, or end the program that uses it."
                raise CasewiseError(f"{text} What was stored before is kept.") from error
            raise CasewiseError(f"{self.path} is damaged ({error}). {self.remedy()}") from error
        except OSError as error:
            raise CasewiseError(storage_message(error, self.path)) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, committed to the disk at the end of the block and rolled back if it fails."""
        with self._lock, self._failures():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock, self._failures():
            return self._db.execute(query, values).fetchall()
