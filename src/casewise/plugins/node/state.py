"""The database of a node: the state of each study, the deliveries of its answers, and the audit trail.

The images stay in Orthanc. Each event of the audit trail has the hash of the previous event, so that a later change is
detected.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, cut, printable
from casewise.inference.drift import KEPT, RecentCases
from casewise.plugins.node.monitoring.observation import Observation
from casewise.plugins.node.records import Answer, Delivery, NodeStudy, StudyAnswer, StudyState, study_label
from casewise.plugins.node.settings import ORTHANC, Retry
from casewise.web.database import Database
from casewise.web.settings import Json

if TYPE_CHECKING:
    from casewise.plugins.node.orthanc import OrthancStudy

NAME = "node.sqlite"
# Database of a node of casewise 1.0.
_FORMER_NAME = "queue.sqlite"
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO facts VALUES ('format', '1'), ('change', '-1'), ('bundle', ''), ('problem', '');
CREATE TABLE studies (
    id TEXT PRIMARY KEY, uid TEXT NOT NULL, label TEXT NOT NULL, state TEXT NOT NULL, content TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1, images INTEGER NOT NULL, updated TEXT NOT NULL, changed_at REAL NOT NULL,
    reason TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0, next_at REAL NOT NULL DEFAULT 0,
    failing_since REAL, begun INTEGER NOT NULL DEFAULT 0, unwritten TEXT NOT NULL DEFAULT ''
);
CREATE INDEX by_state ON studies (state, changed_at);
CREATE TABLE predictions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT NOT NULL REFERENCES studies, observation TEXT NOT NULL,
    accession TEXT NOT NULL
);
CREATE TABLE answers (
    study TEXT NOT NULL REFERENCES studies, name TEXT NOT NULL, format TEXT NOT NULL, path TEXT NOT NULL,
    sha256 TEXT NOT NULL, instance TEXT NOT NULL DEFAULT '', PRIMARY KEY (study, name)
);
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT NOT NULL, name TEXT NOT NULL, partner TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending', job TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0, failing_since REAL, reason TEXT NOT NULL DEFAULT '',
    UNIQUE (study, name, partner), FOREIGN KEY (study, name) REFERENCES answers ON DELETE CASCADE
);
CREATE INDEX pending ON deliveries (state, next_at);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, study TEXT NOT NULL, event TEXT NOT NULL,
    facts TEXT NOT NULL, previous TEXT NOT NULL
);
CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_last BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
"""
_EVENT_COLUMNS = "id, at, study, event, facts, previous"
# Stands for the sources that have too few studies to be tested by themselves.
FEW_STUDIES = "of few studies"
# What is recorded of recent studies besides their observations.
_KEPT_OF_RECENT = ("tests", "untested", "warnings", "confirmed")
ANSWERED = (StudyState.ANSWERED, StudyState.REFUSED)
# A time has come, or is further ahead than the longest wait: the clock was then set back.
_DUE = "NOT ({0} > ? AND {0} <= ?)"


class NodeState(Database):
    """The state of a node, in its folder.

    Args:
        retry: waits between attempts after a failure.

    Raises:
        CasewiseError: the file is damaged, of a newer casewise, or cannot be written; or casewise 1.0 used the folder.
    """

    schema, timeout = _SCHEMA, 30

    def __init__(self, folder: Path, retry: Retry | None = None) -> None:
        self.folder, self._retry = folder.absolute(), retry or Retry()
        super().__init__(self.folder / NAME)

    def check_new(self) -> None:
        """Refuse the folder of a node of casewise 1.0, whose queue may hold waiting studies.

        Raises:
            CasewiseError: casewise 1.0 used the folder.
        """
        if (self.folder / _FORMER_NAME).exists():
            text = f"folder: {self.folder} is of a node of casewise 1.0, and its queue is not read"
            raise CasewiseError(f"{text}. State another `folder`, and send Orthanc the studies without an answer.")

    def remedy(self) -> str:
        return f"Restore {self.path} from a backup, or move it away: every study in Orthanc is then answered again."

    # -------------------------------------------------------------------------------------------------------- events

    def _event(self, study: str, event: str, **facts: Any) -> None:
        query = f"SELECT {_EVENT_COLUMNS} FROM events ORDER BY id DESC LIMIT 1"  # noqa: S608
        last = self._db.execute(query).fetchone()
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        values = [at, study and study_label(study), event, json.dumps(facts), _digest(last)]
        self._db.execute("INSERT INTO events (at, study, event, facts, previous) VALUES (?, ?, ?, ?, ?)", values)

    def events(self, study: str = "") -> list[Json]:
        """The audit trail in order; only the events of one study if its label is given."""
        query = f"SELECT {_EVENT_COLUMNS} FROM events WHERE ? = '' OR study = ? ORDER BY id"  # noqa: S608
        return [
            {"id": row[0], "at": row[1], "study": row[2], "event": row[3], **json.loads(row[4])}
            for row in self._rows(query, [study, study])
        ]

    def check_trail(self) -> tuple[list[int], str]:
        """IDs of events whose stored hash is not that of the previous event, and the hash of the last event."""
        breaks, last = list[int](), None
        for number, row in enumerate(self._rows(f"SELECT {_EVENT_COLUMNS} FROM events ORDER BY id"), 1):  # noqa: S608
            if row[0] != number or row[5] != _digest(last):
                breaks.append(int(row[0]))
            last = row
        return breaks, _digest(last)

    def start(self, bundle: str, casewise: str, partners: Iterable[str]) -> str:
        """Record the start of the node; return the checksum of its previous bundle, empty at the first start.

        Deliveries to partners that are no longer in the settings are dropped.
        """
        with self._writing() as db:
            before = self._fact("bundle")
            self._set("bundle", bundle)
            self._event("", "started", bundle=bundle, bundle_before=before, casewise=casewise)
            query = "SELECT DISTINCT partner FROM deliveries WHERE state = 'pending'"
            for partner in {row[0] for row in db.execute(query).fetchall()} - set(partners):
                db.execute("DELETE FROM deliveries WHERE partner = ? AND state = 'pending'", [partner])
                self._event("", "partner removed", partner=partner)
        return before

    def _set(self, name: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", [name, str(value)])

    @property
    def problem(self) -> str:
        """The problem that the node has now; empty if none."""
        return self._fact("problem")

    @property
    def bundle(self) -> str:
        """The checksum of the bundle that the node started with; empty before its first start."""
        return self._fact("bundle")

    def record_problem(self, problem: str) -> None:
        """Record the present problem; empty if it is over."""
        if problem != self.problem:
            with self._writing():
                self._set("problem", problem)

    # ------------------------------------------------------------------------------------------------------- arrival

    @property
    def last_change(self) -> int:
        """Number of the last entry read from Orthanc's list of changes; -1 before the first."""
        return int(self._fact("change"))

    def record_change(self, change: int) -> None:
        """Record the last change that was read, after the studies that it names."""
        with self._writing():
            self._set("change", change)

    def updates(self) -> dict[str, str]:
        """Time of the last instance of each study, by Orthanc's ID, as Orthanc last stated it."""
        return dict(self._rows("SELECT id, updated FROM studies"))

    def arrived(self, study: OrthancStudy) -> bool:
        """Record a stable study; return whether it is new or its images have changed.

        Pending deliveries of its previous version are dropped. A study without images needs no answer.
        """
        state = StudyState.WAITING if study.images else StudyState.DISCARDED
        reason = "" if study.images else "It has no image."
        with self._writing() as db:
            row = db.execute("SELECT content, version FROM studies WHERE id = ?", [study.id]).fetchone()
            if row and row[0] == study.content:
                db.execute("UPDATE studies SET updated = ? WHERE id = ?", [study.updated, study.id])
                return False
            columns = "id, uid, label, state, content, images, updated, changed_at"
            if row is None:
                values = [study.id, study.uid, study_label(study.uid), state, study.content, 0, "", time.time()]
                db.execute(f"INSERT INTO studies ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608
            version = row[1] + 1 if row else 1
            db.execute("DELETE FROM deliveries WHERE study = ? AND state = 'pending'", [study.id])
            about = {"content": study.content, "images": len(study.images), "updated": study.updated}
            self._change(study.id, study.uid, state, reason, version=version, unwritten="", **about)
        return True

    def _change(self, study: str, uid: str, state: StudyState, reason: str = "", **columns: Any) -> None:
        """Set the state of a study; the caller holds the transaction."""
        fresh: Json = {"attempts": 0, "next_at": 0, "failing_since": None, "begun": 0}
        values = fresh | columns | {"state": state, "reason": _cut_text(reason), "changed_at": time.time()}
        stated = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE studies SET {stated} WHERE id = ?", [*values.values(), study])  # noqa: S608
        facts = {name: columns[name] for name in ("version", "content", "images") if name in columns}
        if state not in ANSWERED:
            self._event(uid, state, reason=_cut_text(reason), **facts)

    # ---------------------------------------------------------------------------------------------------- prediction

    def next(self, now: float) -> NodeStudy | None:
        """The next study to predict, WAITING or FAILED and due; None if there is none."""
        condition = f"state IN (?, ?) AND {_DUE.format('next_at')}"
        studies = self._studies(condition, [StudyState.WAITING, StudyState.FAILED, *self._span(now)], limit=1)
        return studies[0] if studies else None

    def _span(self, now: float) -> tuple[float, float]:
        """The two values of `_DUE`."""
        return now, now + self._retry.longest

    def begin(self, study: NodeStudy) -> None:
        """Count the start of a prediction, to detect a study that crashes the node."""
        with self._writing() as db:
            db.execute("UPDATE studies SET begun = begun + 1 WHERE id = ?", [study.id])

    def postpone(self, study: NodeStudy, seconds: float = 0) -> None:
        """Put a study off without counting a failure, for example while images arrive."""
        with self._writing() as db:
            query = "UPDATE studies SET begun = max(begun - 1, 0), next_at = ? WHERE id = ?"
            db.execute(query, [time.time() + seconds, study.id])

    def answered(
        self,
        study: NodeStudy,
        answer: StudyAnswer,
        bundle: str,
        routes: Mapping[str, Sequence[str]],
        recent: RecentCases | None = None,
        **facts: Any,
    ) -> None:
        """Record the answers of a study, already written to their files, and their deliveries.

        Args:
            routes: formats to deliver, by name of the partner.
        """
        refused = answer.observation.refused
        state = StudyState.REFUSED if refused else StudyState.ANSWERED
        with self._writing() as db:
            db.execute("DELETE FROM answers WHERE study = ?", [study.id])  # with their deliveries
            for written in answer.answers:
                path = os.path.relpath(written.path.absolute(), self.folder)
                query = "INSERT INTO answers (study, name, format, path, sha256) VALUES (?, ?, ?, ?, ?)"
                db.execute(query, [study.id, written.name, written.format, path, written.sha256])
            self._route(study.id, routes)
            query = "INSERT INTO predictions (study, observation, accession) VALUES (?, ?, ?)"
            db.execute(query, [study.id, answer.observation.as_json(), answer.accession])
            text = _cut_text(" ".join(f"Without {name}: {reason}" for name, reason in answer.unwritten.items()))
            self._change(study.id, study.uid, state, refused, unwritten=text)
            hashes = {written.name: written.sha256 for written in answer.answers}
            about = {"version": study.version, "bundle": bundle, "answers": hashes, "unwritten": dict(answer.unwritten)}
            about["withheld"] = answer.observation.withheld
            self._event(study.uid, state, **about, **facts)
            if recent is not None:
                self._record_recent(bundle, recent)

    def record_recent(self, bundle: str, recent: RecentCases) -> None:
        """Record what the tests of recent studies found, and who has confirmed which source."""
        with self._writing():
            self._record_recent(bundle, recent)

    def _record_recent(self, bundle: str, recent: RecentCases) -> None:
        about = {name: value for name, value in asdict(recent).items() if name in _KEPT_OF_RECENT}
        before = self._recent_facts(bundle)
        for source in sorted(set(recent.warnings) - set(before.get("warnings", {}))):
            text = recent.warnings[source]["drift"]["text"]
            self._event("", "source unlike the training", source=source or FEW_STUDIES, reason=text, bundle=bundle)
        for source, entry in recent.confirmed.items():
            if before.get("confirmed", {}).get(source) != entry:
                self._event("", "source confirmed", source=source, by=entry["by"], reason=entry["reason"])
        for source in sorted(set(before.get("confirmed", {})) - set(recent.confirmed)):
            self._event("", "confirmation removed", source=source)
        self._set("sources", json.dumps(about | {"bundle": bundle}))

    def _recent_facts(self, bundle: str) -> Json:
        """What is recorded of the sources of a bundle."""
        rows = self._rows("SELECT value FROM facts WHERE name = 'sources'")
        facts: Json = json.loads(rows[0][0]) if rows else {}
        return facts if facts.get("bundle") == bundle else {}

    def recent(self, bundle: str, since: float = 0.0) -> RecentCases:
        """The recent studies that a bundle has predicted, their sources, and what their tests found.

        Args:
            since: studies and warnings before this time, in seconds, are left out.
        """
        query = (
            "SELECT label, observation FROM predictions p JOIN studies s ON s.id = p.study ORDER BY p.id DESC LIMIT ?"
        )
        latest: dict[str, Observation] = {}
        for label, text in self._rows(query, [KEPT]):
            latest.setdefault(label, Observation.from_json(text))
        cases = [
            each.as_recent(label)
            for label, each in reversed(latest.items())
            if each.images and each.bundle == bundle and each.at >= since
        ]
        facts = self._recent_facts(bundle)
        kept = {name: facts[name] for name in _KEPT_OF_RECENT if name in facts}
        recent = RecentCases(cases, **kept)
        warnings = recent.warnings.items()
        recent.warnings = {
            name: each for name, each in warnings if datetime.fromisoformat(each["at"]).timestamp() >= since
        }
        return recent

    def _route(self, study: str, routes: Mapping[str, Sequence[str]]) -> None:
        for name, style in self._db.execute("SELECT name, format FROM answers WHERE study = ?", [study]).fetchall():
            for partner in (partner for partner, formats in routes.items() if style in formats):
                values = [study, name, partner]
                self._db.execute("INSERT OR IGNORE INTO deliveries (study, name, partner) VALUES (?, ?, ?)", values)

    def failed(self, study: NodeStudy, reason: str) -> None:
        """Record a failed prediction: the study is tried again, or quarantined after `retry.give_up` seconds."""
        now = time.time()
        with self._writing() as db:
            since = db.execute("SELECT failing_since FROM studies WHERE id = ?", [study.id]).fetchone()[0] or now
            state = StudyState.QUARANTINED if now - since >= self._retry.give_up else StudyState.FAILED
            attempts = study.attempts + 1
            values: Json = {"attempts": attempts, "failing_since": since, "next_at": now + self._retry.wait(attempts)}
            self._change(study.id, study.uid, state, reason, **values)

    def quarantine(self, study: NodeStudy, reason: str) -> None:
        """Leave a study to a person."""
        with self._writing():
            self._change(study.id, study.uid, StudyState.QUARANTINED, reason)

    # ---------------------------------------------------------------------------------------------------- deliveries

    def deliveries(self, now: float, limit: int = 200) -> list[Delivery]:
        """Answers to deliver now, fewest failed attempts first.

        An answer that Orthanc forwards to a partner waits until Orthanc has stored it.
        """
        query = (
            "SELECT d.id, d.study, a.name, a.format, a.path, a.sha256, d.partner, a.instance, d.job, d.attempts "  # noqa: S608
            "FROM deliveries d JOIN answers a ON a.study = d.study AND a.name = d.name WHERE d.state = 'pending' AND "
            f"{_DUE.format('d.next_at')} AND (a.instance != '' OR d.partner = ? OR d.partner LIKE 'folder %') "
            "ORDER BY d.attempts, d.id LIMIT ?"
        )
        return [
            Delivery(
                row[0],
                self._studies("id = ?", [row[1]])[0],
                Answer(row[2], row[3], self.folder / row[4], row[5]),
                *row[6:],
            )
            for row in self._rows(query, [*self._span(now), ORTHANC, limit])
        ]

    def submitted(self, delivery: Delivery, job: str, seconds: float) -> None:
        """Record the job of Orthanc that sends an answer; it is checked again after `seconds`."""
        with self._writing() as db:
            values = [job, time.time() + seconds, delivery.id]
            db.execute("UPDATE deliveries SET job = ?, next_at = ? WHERE id = ?", values)

    def delivered(self, delivery: Delivery, instance: str = "") -> None:
        """Record that a partner has an answer; failed deliveries to this partner are tried again now.

        Args:
            instance: Orthanc's ID of an answer that it stored.
        """
        answer, partner = delivery.answer, delivery.partner
        facts = {"answer": answer.name, "sha256": answer.sha256, "partner": partner, "version": delivery.study.version}
        with self._writing() as db:
            db.execute("UPDATE deliveries SET state = 'delivered', reason = '' WHERE id = ?", [delivery.id])
            query = "UPDATE deliveries SET next_at = 0 WHERE partner = ? AND state = 'pending' AND attempts > 0"
            db.execute(query, [partner])
            if instance:
                values = [instance, delivery.study.id, answer.name]
                db.execute("UPDATE answers SET instance = ? WHERE study = ? AND name = ?", values)
            self._event(delivery.study.uid, "delivered", **facts)

    def not_delivered(self, delivery: Delivery, reason: str, *, final: bool = False) -> None:
        """Record that an answer could not be delivered: it is tried again, or given up.

        Args:
            final: another attempt would not help.
        """
        now, attempts = time.time(), delivery.attempts + 1
        with self._writing() as db:
            row = db.execute("SELECT failing_since FROM deliveries WHERE id = ?", [delivery.id]).fetchone()
            since = row[0] or now
            state = "given up" if final or now - since >= self._retry.give_up else "pending"
            query = (
                "UPDATE deliveries SET state = ?, job = '', attempts = ?, next_at = ?, failing_since = ?, reason = ? "
                "WHERE id = ?"
            )
            values = [state, attempts, now + self._retry.wait(attempts), since, _cut_text(reason), delivery.id]
            db.execute(query, values)
            facts = {"answer": delivery.answer.name, "partner": delivery.partner, "reason": _cut_text(reason)}
            self._event(delivery.study.uid, "not delivered" if state == "pending" else state, **facts)

    # ------------------------------------------------------------------------------------------- decisions of a person

    def _named(self, study: str) -> NodeStudy:
        studies = self._studies("uid = ? OR label = ? OR id = ?", [study] * 3)
        if not studies:
            text = f"There is no study {cut(study)}. `casewise node status` lists those that wait, node.log all."
            raise CasewiseError(text)
        return min(studies, key=lambda match: match.state in ANSWERED)  # unanswered ones first

    def discard(self, study: str) -> NodeStudy:
        """Dismiss a study without an answer or with undelivered answers, until new images arrive.

        Args:
            study: its UID or label.

        Raises:
            CasewiseError: there is no such study, or it waits for nothing.
        """
        with self._writing() as db:
            named = self._named(study)
            undelivered = "SELECT 1 FROM deliveries WHERE study = ? AND state != 'delivered'"
            waits = named.state not in (*ANSWERED, StudyState.DISCARDED)
            if not waits and not db.execute(undelivered, [named.id]).fetchone():
                raise CasewiseError(f"The study {named.label} is {named.state}: there is nothing to discard.")
            db.execute("DELETE FROM deliveries WHERE study = ? AND state != 'delivered'", [named.id])
            self._change(named.id, named.uid, StudyState.DISCARDED, unwritten="")
            return self._named(named.id)

    def retry(self, study: str, routes: Mapping[str, Sequence[str]]) -> NodeStudy:
        """Try a study again: deliver its answers if they are complete, else predict it.

        Args:
            study: its UID or label.
            routes: formats to deliver, by name of the partner.

        Raises:
            CasewiseError: there is no such study, or it waits for its prediction anyway.
        """
        with self._writing() as db:
            named = self._named(study)
            if named.state == StudyState.WAITING:
                raise CasewiseError(f"The study {named.label} is waiting: there is nothing to try again.")
            answers = db.execute("SELECT path FROM answers WHERE study = ?", [named.id]).fetchall()
            complete = named.state in ANSWERED and not named.unwritten
            if complete and answers and all((self.folder / path).exists() for (path,) in answers):
                undelivered = db.execute(
                    "SELECT 1 FROM deliveries WHERE study = ? AND state != 'delivered'", [named.id]
                ).fetchone()
                query = (
                    "UPDATE deliveries SET state = 'pending', job = '', attempts = 0, next_at = 0, "
                    "failing_since = NULL WHERE study = ? AND (? OR state != 'delivered')"
                )
                db.execute(query, [named.id, undelivered is None])
                self._route(named.id, routes)
                self._event(named.uid, "retry")
            else:
                self._change(named.id, named.uid, StudyState.WAITING, unwritten="")
            return self._named(named.id)

    def remove_answers(self, before: float) -> int:
        """Remove answer files of fully delivered studies unchanged since `before` (Unix time); return their number."""
        query = (
            "SELECT path FROM answers JOIN studies ON id = study WHERE changed_at < ? AND NOT EXISTS "
            "(SELECT 1 FROM deliveries d WHERE d.study = id AND d.state != 'delivered')"
        )
        paths = [self.folder / path for (path,) in self._rows(query, [before])]
        there = [path for path in paths if path.exists()]
        for path in there:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
        return len(there)

    # ------------------------------------------------------------------------------------------------------- reading

    def _studies(self, condition: str, values: Sequence[Any], limit: int = -1) -> list[NodeStudy]:
        columns = "id, uid, state, version, images, changed_at, reason, attempts, begun, unwritten"
        query = f"SELECT {columns} FROM studies WHERE {condition} ORDER BY changed_at, id LIMIT ?"  # noqa: S608
        return [
            NodeStudy(row[0], row[1], StudyState(row[2]), row[3], row[4], _iso(row[5]), *row[6:])
            for row in self._rows(query, [*values, limit])
        ]

    def studies(self, *, unfinished: bool = False) -> list[NodeStudy]:
        """All studies, or those that are not answered, lack a format, or have answers that are not delivered."""
        condition = (
            "NOT ? OR state NOT IN (?, ?, ?) OR unwritten != '' OR EXISTS "
            "(SELECT 1 FROM deliveries d WHERE d.study = studies.id AND d.state != 'delivered')"
        )
        return self._studies(condition, [unfinished, *ANSWERED, StudyState.DISCARDED])

    def undelivered(self, study: NodeStudy) -> list[str]:
        """Sentences on the undelivered answers of a study."""
        query = "SELECT partner, name, state, reason FROM deliveries WHERE study = ? AND state != 'delivered'"
        return [
            ": ".join(filter(None, (f"{row[1]} to {row[0]} {row[2]}", row[3]))) for row in self._rows(query, [study.id])
        ]

    def counts(self) -> dict[StudyState, int]:
        """How many studies are in each state."""
        rows: dict[str, int] = dict(self._rows("SELECT state, count(*) FROM studies GROUP BY state"))
        return {state: rows.get(state, 0) for state in StudyState}

    def delivery_counts(self) -> dict[tuple[str, str], int]:
        """How many answers are `pending`, `delivered` or `given up`, by partner and this state."""
        query = "SELECT partner, state, count(*) FROM deliveries GROUP BY partner, state ORDER BY partner, state"
        return {(partner, state): count for partner, state, count in self._rows(query)}

    def observations(self) -> list[tuple[str, Observation]]:
        """The observation of each prediction in order, with the label of the study."""
        query = "SELECT label, observation FROM predictions p JOIN studies s ON s.id = p.study ORDER BY p.id"
        return [(label, Observation.from_json(text)) for label, text in self._rows(query)]

    def accessions(self) -> dict[str, set[str]]:
        """Labels of studies by hashed accession number, which several studies can share."""
        query = "SELECT accession, label FROM predictions p JOIN studies s ON s.id = p.study WHERE accession != ''"
        studies: dict[str, set[str]] = {}
        for accession, label in self._rows(query):
            studies.setdefault(accession, set()).add(label)
        return studies


def state_of(folder: Path, retry: Retry | None = None) -> NodeState:
    """The state of a node, which may be running.

    Raises:
        CasewiseError: it never ran.
    """
    if not (folder / NAME).exists():
        raise CasewiseError(f"{folder} has no {NAME}: the node has not run. Start it: `casewise node run NODE`.")
    return NodeState(folder, retry)


def _digest(event: Sequence[Any] | None) -> str:
    """The hash of an event, which includes the hash of the previous event."""
    return hashlib.sha256(json.dumps(list(event)).encode()).hexdigest() if event else "0" * 64


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _cut_text(text: str) -> str:
    """A reason in one line of bounded length."""
    return printable(" ".join(text.split()))[:500]
