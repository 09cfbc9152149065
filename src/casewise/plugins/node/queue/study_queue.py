"""The queue of a node: one SQLite file with the state of each study, to which a change is made whole or not at all.

A study that was received stays in it until its answer is delivered, or a person has decided. Whatever is killed at any
moment loses nothing: what is durable here goes on at the next start, and a repeat of what was already received changes
nothing.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, cut
from casewise.plugins.node.queue.database import cut_text, owner_of
from casewise.plugins.node.queue.deliveries import DeliveryQueue
from casewise.plugins.node.queue.records import Answer, QueuedStudy, StoredInstance, StudyState, study_label

if TYPE_CHECKING:
    from casewise.plugins.node.monitoring.observation import Observation
    from casewise.plugins.node.settings import Retry


class StudyQueue(DeliveryQueue):
    """The studies of a node, in its folder. It may be used by several threads and processes of one computer.

    Args:
        routes: as in `DeliveryQueue`, for what delivers answers.

    Raises:
        CasewiseError: the file is damaged, of a newer casewise, or cannot be written.
    """

    # ------------------------------------------------------------------------------------------------------- arrival

    def add_instance(self, study: str, series: str, instance: str, path: Path, sha256: str, source: str) -> bool:
        """Record an image that lies durably at `path`; False if it is already there, with the same bytes.

        A study that is being predicted, or has an answer, becomes RECEIVED again. If another file with this SOP
        Instance UID is there, the study is put in quarantine; `retry` then uses the newer file.

        Raises:
            CasewiseError: it cannot be recorded, such as on a full disk; nothing has changed.
        """
        now = time.time()
        with self._writing() as db:
            if self._has(study, instance, sha256):
                return False
            row = db.execute("SELECT state, version FROM studies WHERE uid = ?", [study]).fetchone()
            if row is None:
                query = (
                    "INSERT INTO studies (uid, label, state, first_at, last_at, changed_at) VALUES (?, ?, ?, ?, ?, ?)"
                )
                db.execute(query, [study, study_label(study), StudyState.RECEIVED, now, now, now])
                self._event(study, StudyState.RECEIVED, source)
            other = db.execute("SELECT 1 FROM instances WHERE study = ? AND instance = ?", [study, instance]).fetchone()
            query = (
                "INSERT INTO instances (study, series, instance, path, sha256, source, at) VALUES (?, ?, ?, ?, ?, ?, ?)"
            )
            db.execute(query, [study, series, instance, os.path.relpath(path, self.folder), sha256, source, now])
            db.execute("UPDATE studies SET last_at = ? WHERE uid = ?", [now, study])
            state, version = row or (StudyState.RECEIVED, 1)
            if state in (StudyState.PREDICTED, StudyState.SENT, StudyState.QUARANTINED):
                self._drop_pending(study)  # what was predicted without this image
            if other:
                reason = f"An image ({study_label(instance)}) came again with other content, from {source}."
                self._change(study, StudyState.QUARANTINED, reason)
            elif state in (StudyState.COMPLETE, StudyState.FAILED, StudyState.PREDICTED, StudyState.SENT):
                version += state in (StudyState.PREDICTED, StudyState.SENT)
                values: dict[str, Any] = {"version": version, "attempts": 0, "next_at": 0, "failing_since": None}
                self._change(study, StudyState.RECEIVED, **values)
        return True

    def has_instance(self, study: str, instance: str, sha256: str) -> bool:
        """Whether an image is recorded, with the same bytes."""
        with self._lock, self._failures():
            return self._has(study, instance, sha256)

    def _has(self, study: str, instance: str, sha256: str) -> bool:
        query = "SELECT 1 FROM instances WHERE study = ? AND instance = ? AND sha256 = ?"
        return self._db.execute(query, [study, instance, sha256]).fetchone() is not None

    def note(self, event: str, detail: str, study: str = "") -> None:
        """Record an event, such as a file that was refused, once; without names of patients."""
        query = "SELECT 1 FROM events WHERE study = ? AND event = ? AND detail = ?"
        with self._writing() as db:
            if not db.execute(query, [study, event, cut_text(detail)]).fetchone():
                self._event(study, event, detail)

    def complete_ready(self, quiet: float, instances: int | None, now: float) -> list[str]:
        """Let each study become COMPLETE that has enough images, or none new since `quiet` seconds; their UIDs.

        A study whose images were removed (see `remove_sent`) is put in quarantine if fewer came again.
        """
        query = (
            "SELECT uid FROM studies WHERE state = ? AND (abs(? - last_at) >= ? OR (? IS NOT NULL AND "
            "(SELECT count(DISTINCT instance) FROM instances WHERE study = uid) >= ?)) ORDER BY first_at"
        )  # abs: the clock may be set back
        values = [StudyState.RECEIVED, now, quiet, instances, instances]
        if not self._rows(query, values):
            return []
        with self._writing() as db:
            ready = [str(row[0]) for row in db.execute(query, values).fetchall()]
            partial = []
            for study in ready:
                count, removed = db.execute(
                    "SELECT (SELECT count(DISTINCT instance) FROM instances WHERE study = uid), removed "
                    "FROM studies WHERE uid = ?",
                    [study],
                ).fetchone()
                if count < removed:
                    partial.append(study)
                    reason = f"{count} of {removed} images came again after these were removed. Send all images again."
                    self._change(study, StudyState.QUARANTINED, reason)
                else:
                    self._change(study, StudyState.COMPLETE, removed=0)
        return [study for study in ready if study not in partial]

    # ---------------------------------------------------------------------------------------------------- prediction

    def claim(self, state: StudyState, now: float) -> QueuedStudy | None:
        """The next study in a state to work on, for this process alone; None if there is none.

        `COMPLETE` includes FAILED ones that are due. What a killed process worked on is free again.
        """
        states = [state, StudyState.FAILED if state == StudyState.COMPLETE else state]
        query = "SELECT uid, owner FROM studies WHERE state IN (?, ?) AND next_at <= ? ORDER BY changed_at, uid"
        with self._writing() as db:
            gone: dict[str, bool] = {"": True}
            for uid, owner in db.execute(query, [*states, now]):
                if owner not in gone:
                    gone[owner] = owner != self.own_process and owner != owner_of(int(owner.partition(" ")[0]))
                if gone[owner]:
                    lease = secrets.token_hex(8)
                    db.execute("UPDATE studies SET lease = ?, owner = ? WHERE uid = ?", [lease, self.own_process, uid])
                    if owner:
                        self._event(uid, "released", "The process that worked on it ended.")
                    return self._studies("uid = ?", [uid])[0]
        return None

    def _holds(self, study: QueuedStudy) -> bool:
        row = self._db.execute("SELECT lease FROM studies WHERE uid = ?", [study.uid]).fetchone()
        return bool(study.lease) and row is not None and row[0] == study.lease

    def release(self, study: QueuedStudy) -> None:
        """Give a claimed study back unchanged, such as when the node stops."""
        with self._writing() as db:
            values = [study.uid, study.lease]
            db.execute("UPDATE studies SET lease = '', owner = '' WHERE uid = ? AND lease = ?", values)

    def predicted(
        self,
        study: QueuedStudy,
        answers: Sequence[Answer],
        observation: Observation | None,
        *,
        seconds: float = 0.0,
        unwritten: Mapping[str, str] | None = None,
    ) -> bool:
        """Record the answers of a claimed study, which lie durably at their paths, and what was observed.

        Args:
            seconds: that the prediction took.
            unwritten: by format the reason why it could not be written.

        Returns:
            False, and nothing is recorded, if images arrived meanwhile: the study will be predicted again.
        """
        with self._writing() as db:
            if not self._holds(study):
                return False
            db.execute("DELETE FROM answers WHERE study = ?", [study.uid])  # with their deliveries
            for answer in answers:
                path = os.path.relpath(answer.path.absolute(), self.folder)
                values = [study.uid, answer.name, answer.format, path, answer.sha256]
                db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", values)
            content, lacking = None if observation is None else observation.as_json(), unwritten or {}
            query = "INSERT INTO predictions (study, version, at, seconds, unwritten, observation) VALUES (?,?,?,?,?,?)"
            db.execute(query, [study.uid, study.version, time.time(), seconds, len(lacking), content])
            text = cut_text(" ".join(f"Without {name}: {reason}" for name, reason in lacking.items()))
            state = StudyState.PREDICTED
            self._change(study.uid, state, text, attempts=0, next_at=0, failing_since=None, unwritten=text)
            self._add_deliveries(study.uid)
            self._finish(study.uid)
        return True

    def failed(self, study: QueuedStudy, reason: str, retry: Retry) -> bool:
        """Record that a claimed study could not be predicted: it is tried again, or put in quarantine at last.

        Returns:
            False, and nothing is recorded, if images arrived meanwhile: the study will be predicted again.
        """
        now = time.time()
        with self._writing() as db:
            if not self._holds(study):
                return False
            since = db.execute("SELECT failing_since FROM studies WHERE uid = ?", [study.uid]).fetchone()[0] or now
            attempts = study.attempts + 1
            state = StudyState.QUARANTINED if now - since >= retry.give_up else StudyState.FAILED
            values = {"attempts": attempts, "next_at": now + retry.wait(attempts), "failing_since": since}
            self._change(study.uid, state, reason, **values)
        return True

    def quarantine(self, study: QueuedStudy, reason: str) -> bool:
        """Leave a claimed study to a person.

        Returns:
            False, and nothing has changed, if images arrived meanwhile: the study will be predicted again.
        """
        with self._writing():
            if current := self._holds(study):
                self._change(study.uid, StudyState.QUARANTINED, reason)
        return current

    def retry(self, study: str) -> QueuedStudy:
        """Put a study back to work that failed, is in quarantine, lacks a format, or whose answers wait for a partner.

        Answers that were given up are delivered again. Any other study is predicted again, with the newer of two files
        that have one SOP Instance UID.

        Args:
            study: its UID or label.

        Raises:
            CasewiseError: there is no such study, or it needs no retry.
        """
        with self._writing() as db:
            own = self._studies("uid = ? OR label = ?", [study, study])
            if not own:
                raise CasewiseError(f"There is no study {cut(study)}. `casewise node status` lists the studies.")
            uid, state = own[0].uid, own[0].state
            if state in (StudyState.RECEIVED, StudyState.COMPLETE) or (
                state == StudyState.SENT and not own[0].unwritten
            ):
                raise CasewiseError(f"The study {own[0].label} is {state}: there is nothing to try again.")
            values: dict[str, Any] = {"attempts": 0, "next_at": 0, "failing_since": None}
            undelivered = "study = ? AND state != 'delivered'"
            if db.execute(f"SELECT 1 FROM deliveries WHERE {undelivered}", [uid]).fetchone():  # noqa: S608
                query = "UPDATE deliveries SET state = 'pending', attempts = 0, next_at = 0, failing_since = NULL"
                db.execute(f"{query} WHERE {undelivered}", [uid])
                self._change(uid, StudyState.PREDICTED, "", **values)
            else:
                answered = db.execute("SELECT 1 FROM answers WHERE study = ?", [uid]).fetchone() is not None
                self._change(uid, StudyState.COMPLETE, "", **values, version=own[0].version + answered)
            self._event(uid, "retry", "A person put it back.")
            return self._studies("uid = ?", [uid])[0]

    def remove_sent(self, before: float, most: int = 100) -> int:
        """Remove images and answers of studies that were SENT before a time, in seconds since 1970; their number.

        The studies stay in the queue. If such a study comes again, it is predicted again.

        Args:
            most: studies at a time, so that nobody waits long.
        """
        query = (
            "SELECT uid FROM studies WHERE state = ? AND changed_at < ? AND EXISTS "
            "(SELECT 1 FROM instances WHERE study = uid) ORDER BY changed_at LIMIT ?"
        )
        studies = self._rows(query, [StudyState.SENT, before, most])
        for (uid,) in studies:
            with self._writing() as db:
                if self._studies("uid = ?", [uid])[0].state != StudyState.SENT:  # images arrived meanwhile
                    continue
                paths = db.execute(
                    "SELECT path FROM instances WHERE study = ? UNION SELECT path FROM answers WHERE study = ?",
                    [uid, uid],
                )
                for path in [self.folder / name for (name,) in paths.fetchall()]:
                    path.unlink(missing_ok=True)
                    for folder in path.parents[:2]:  # of a series and its study, or of the answers
                        if folder.parent != self.folder:
                            with suppress(OSError):  # it is not empty
                                folder.rmdir()
                query = "SELECT count(DISTINCT instance) FROM instances WHERE study = ?"
                (count,) = db.execute(query, [uid]).fetchone()
                db.execute("DELETE FROM instances WHERE study = ?", [uid])
                db.execute("DELETE FROM answers WHERE study = ?", [uid])
                db.execute("UPDATE studies SET removed = ?, unwritten = '' WHERE uid = ?", [count, uid])
                self._event(uid, "removed", f"{count} images")
        return len(studies)

    # ------------------------------------------------------------------------------------------------------- reading

    def studies(self, *, unfinished: bool = False) -> list[QueuedStudy]:
        """All studies, or those that are not SENT or lack a format; those that changed first come first."""
        return self._studies("NOT ? OR state != ? OR unwritten != ''", [unfinished, StudyState.SENT])

    def files(self, study: str) -> list[StoredInstance]:
        """The images of a study in the order of their arrival; of two with one SOP Instance UID, the newer."""
        query = "SELECT path, series, instance, sha256 FROM instances WHERE study = ? ORDER BY id"
        newest = {row[2]: StoredInstance(self.folder / row[0], *row[1:]) for row in self._rows(query, [study])}
        return list(newest.values())

    def counts(self) -> dict[StudyState, int]:
        """How many studies are in each state."""
        rows: dict[str, int] = dict(self._rows("SELECT state, count(*) FROM studies GROUP BY state"))
        return {state: rows.get(state, 0) for state in StudyState}

    def delivery_counts(self) -> dict[tuple[str, str], int]:
        """How many answers are `pending`, `delivered` or `given up`, by partner and this state."""
        query = "SELECT partner, state, count(*) FROM deliveries GROUP BY partner, state ORDER BY partner, state"
        return {(partner, state): count for partner, state, count in self._rows(query)}

    def prediction_totals(self) -> tuple[int, float, int]:
        """The number of predictions, the seconds that they took, and the formats that could not be written."""
        query = "SELECT count(*), coalesce(sum(seconds), 0.0), coalesce(sum(unwritten), 0) FROM predictions"
        count, seconds, unwritten = self._rows(query)[0]
        return count, seconds, unwritten

    def oldest_waiting(self) -> float | None:
        """When the first image arrived of the study that waits longest for its answer, in seconds since 1970."""
        states = [StudyState.RECEIVED, StudyState.COMPLETE, StudyState.PREDICTED, StudyState.FAILED]
        query = "SELECT min(first_at) FROM studies WHERE state IN (?, ?, ?, ?)"
        oldest: float | None = self._rows(query, states)[0][0]
        return oldest

    def observations(self) -> list[tuple[str, Observation]]:
        """What was observed at each prediction, with the label of its study, in their order."""
        from casewise.plugins.node.monitoring.observation import Observation

        query = "SELECT study, observation FROM predictions WHERE observation IS NOT NULL ORDER BY id"
        return [(study_label(study), Observation.from_json(text)) for study, text in self._rows(query)]

    def accessions(self) -> dict[str, str]:
        """The label of each study by the hash of its accession number."""
        rows = self._rows("SELECT detail, study FROM events WHERE event = 'accession' ORDER BY id")
        return {accession: study_label(study) for accession, study in rows}

    def events(self, study: str = "") -> list[tuple[float, str, str, str]]:
        """What happened, in its order: seconds since 1970, UID, event and detail; of one study if stated."""
        query = "SELECT at, study, event, detail FROM events WHERE ? = '' OR study = ? ORDER BY id"
        return [(at, uid, event, detail) for at, uid, event, detail in self._rows(query, [study, study])]
