"""The queue of a node: one SQLite file with the state of each study, to which a change is made whole or not at all.

A study that was received stays in it until its answer is delivered, or a person has decided. Whatever is killed at any
moment loses nothing: what is durable here goes on at the next start, and a repeat of what was already received changes
nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, counted, cut
from casewise.plugins.node.queue.database import (
    DUE,
    SETTLED,
    QueueDatabase,
    complete_files,
    cut_text,
    is_unfinished,
    marks,
)
from casewise.plugins.node.queue.records import (
    RECEIVED,
    Answer,
    QueuedStudy,
    StoredInstance,
    StudyState,
    study_folder,
    study_label,
)

if TYPE_CHECKING:
    from casewise.plugins.node.monitoring.observation import Observation


class StudyQueue(QueueDatabase):
    """The studies of a node, in its folder; see `QueueDatabase`."""

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
                    "INSERT INTO studies (uid, label, state, waiting_since, last_at, changed_at) "
                    "VALUES (?, ?, ?, ?, ?, ?)"
                )
                db.execute(query, [study, study_label(study), StudyState.RECEIVED, now, now, now])
                self._event(study, StudyState.RECEIVED, source)
            elif row[0] == StudyState.DISCARDED:  # it begins anew, without the images that it had
                db.execute("DELETE FROM instances WHERE study = ?", [study])
                db.execute("UPDATE studies SET removed = 0 WHERE uid = ?", [study])
            other = db.execute("SELECT 1 FROM instances WHERE study = ? AND instance = ?", [study, instance]).fetchone()
            query = (
                "INSERT INTO instances (study, series, instance, path, sha256, source, at) VALUES (?, ?, ?, ?, ?, ?, ?)"
            )
            db.execute(query, [study, series, instance, os.path.relpath(path, self.folder), sha256, source, now])
            db.execute("UPDATE studies SET last_at = ? WHERE uid = ?", [now, study])
            state, version = row or (StudyState.RECEIVED, 1)
            self._drop_pending(study)  # what was predicted without this image
            if other:
                reason = f"An image ({study_label(instance)}) came again with other content, from {source}."
                self._change(study, StudyState.QUARANTINED, reason)
            elif state not in (StudyState.RECEIVED, StudyState.QUARANTINED):
                version += state in (StudyState.PREDICTED, StudyState.SENT, StudyState.DISCARDED)
                self._change(study, StudyState.RECEIVED, version=version, attempts=0, next_at=0, failing_since=None)
        return True

    def has_instance(self, study: str, instance: str, sha256: str) -> bool:
        """Whether an image is recorded, with the same bytes; not of a study that was discarded."""
        with self._lock, self._failures():
            return self._has(study, instance, sha256)

    def _has(self, study: str, instance: str, sha256: str) -> bool:
        query = (
            "SELECT 1 FROM instances JOIN studies ON uid = study "
            "WHERE study = ? AND instance = ? AND sha256 = ? AND state != ?"
        )
        return self._db.execute(query, [study, instance, sha256, StudyState.DISCARDED]).fetchone() is not None

    def note(self, event: str, detail: str, study: str = "") -> None:
        """Record an event, such as a file that was refused, once; without names of patients."""
        query = "SELECT 1 FROM events WHERE study = ? AND event = ? AND detail = ?"
        with self._writing() as db:
            if not db.execute(query, [study, event, cut_text(detail)]).fetchone():
                self._event(study, event, detail)

    def keep_waiting(self, studies: Iterable[str]) -> None:
        """Let studies become complete as late as if an image had arrived now, because one of theirs still arrives."""
        query = "UPDATE studies SET last_at = ? WHERE uid = ? AND state = ?"
        with self._writing() as db:
            db.executemany(query, [(time.time(), study, StudyState.RECEIVED) for study in studies])

    def complete_ready(self, quiet: float, instances: int | None, now: float) -> list[str]:
        """Let each study become COMPLETE that has enough images, or none new since `quiet` seconds; their UIDs.

        A study whose images were removed (see `remove_sent`) is put in quarantine if fewer came again.
        """
        query = (
            "SELECT uid FROM studies WHERE state = ? AND (abs(? - last_at) >= ? OR (? IS NOT NULL AND "
            "(SELECT count(DISTINCT instance) FROM instances WHERE study = uid) >= ?)) ORDER BY waiting_since"
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

    def start(self, bundle: str, casewise: str) -> str:
        """Record that the node starts, with the checksum of its bundle; the one with which it started last, or nothing.

        What a node worked on when it was killed is free again; the caller knows that no other one works in the folder.
        """
        query = "SELECT facts FROM events WHERE study = '' AND event = 'started' ORDER BY id DESC LIMIT 1"
        with self._writing() as db:
            row = db.execute(query).fetchone()
            before = str(json.loads(row[0])["bundle"]) if row else ""
            self._event("", "started", bundle=bundle, bundle_before=before, casewise=casewise)
            for (uid,) in db.execute("SELECT uid FROM studies WHERE lease != ''").fetchall():
                self._event(uid, "released", "The node ended while it worked on it.")
            db.execute("UPDATE studies SET lease = '' WHERE lease != ''")
        return before

    def claim(self, now: float) -> QueuedStudy | None:
        """The next study to predict, COMPLETE or FAILED and due, for the caller alone; None if there is none."""
        states = [StudyState.COMPLETE, StudyState.FAILED]
        query = f"state IN (?, ?) AND lease = '' AND {DUE.format('next_at')}"
        with self._writing() as db:
            query = f"SELECT uid FROM studies WHERE {query} ORDER BY changed_at, uid LIMIT 1"  # noqa: S608
            row = db.execute(query, [*states, *self._span(now)]).fetchone()
            if row is None:
                return None
            db.execute("UPDATE studies SET lease = ? WHERE uid = ?", [secrets.token_hex(8), row[0]])
            return self._studies("uid = ?", row)[0]

    def _holds(self, study: QueuedStudy) -> bool:
        row = self._db.execute("SELECT lease FROM studies WHERE uid = ?", [study.uid]).fetchone()
        return bool(study.lease) and row is not None and row[0] == study.lease

    def release(self, study: QueuedStudy) -> None:
        """Give a claimed study back unchanged, such as when the node stops."""
        with self._writing() as db:
            db.execute("UPDATE studies SET lease = '' WHERE uid = ? AND lease = ?", [study.uid, study.lease])

    def predicted(
        self,
        study: QueuedStudy,
        answers: Sequence[Answer],
        observation: Observation | None,
        *,
        seconds: float = 0.0,
        unwritten: Mapping[str, str] | None = None,
        bundle: str = "",
        accession: str = "",
    ) -> bool:
        """Record the answers of a claimed study, which lie durably at their paths, and what was observed.

        Args:
            seconds: that the prediction took.
            unwritten: by format the reason why it could not be written.
            bundle: the checksum of the bundle; accession: a hash of the accession number.

        Returns:
            False, and nothing is recorded, if images arrived meanwhile: the study will be predicted again.
        """
        with self._writing() as db:
            if not self._holds(study):
                return False
            db.execute("DELETE FROM answers WHERE study = ?", [study.uid])  # with their deliveries
            for answer in answers:
                path = os.path.relpath(answer.path.absolute(), self.folder)
                values: list[Any] = [study.uid, answer.name, answer.format, path, answer.sha256]
                db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", values)
            content, lacking = None if observation is None else observation.as_json(), dict(unwritten or {})
            query = (
                "INSERT INTO predictions (study, version, at, seconds, unwritten, observation, accession) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)"
            )
            values = [study.uid, study.version, time.time(), seconds, len(lacking), content, accession]
            db.execute(query, values)
            text = cut_text(" ".join(f"Without {name}: {reason}" for name, reason in lacking.items()))
            facts = {
                "version": study.version,
                "bundle": bundle,
                "files": sorted(file.sha256 for file in self.files(study.uid)),
                "answers": {answer.name: answer.sha256 for answer in answers},
                "refused": bool(observation and observation.refused),
                "unwritten": lacking,
            }
            own: dict[str, Any] = {"attempts": 0, "next_at": 0, "failing_since": None, "unwritten": text}
            self._change(study.uid, StudyState.PREDICTED, text, facts=facts, **own)
            self._add_deliveries(study.uid)
            self._finish(study.uid)
        return True

    def failed(self, study: QueuedStudy, reason: str) -> bool:
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
            state = StudyState.QUARANTINED if now - since >= self._retry.give_up else StudyState.FAILED
            values: dict[str, Any] = {"attempts": attempts, "failing_since": since}
            values["next_at"] = now + self._retry.wait(attempts)
            self._change(study.uid, state, reason, facts={"version": study.version}, **values)
        return True

    def quarantine(self, study: QueuedStudy, reason: str) -> bool:
        """Leave a claimed study to a person.

        Returns:
            False, and nothing has changed, if images arrived meanwhile: the study will be predicted again.
        """
        with self._writing():
            if current := self._holds(study):
                self._change(study.uid, StudyState.QUARANTINED, reason, facts={"version": study.version})
        return current

    # ------------------------------------------------------------------------------------------- decisions of a person

    def _named(self, study: str) -> QueuedStudy:
        own = self._studies("uid = ? OR label = ?", [study, study])
        if not own:
            raise CasewiseError(
                f"There is no study {cut(study)}. `casewise node status` lists those that wait, node.log all."
            )
        return own[0]

    def discard(self, study: str) -> QueuedStudy:
        """Dismiss a study in quarantine, or one that failed or waits for a partner; it waits for nothing any more.

        If images of it arrive later, it begins anew with these.

        Args:
            study: its UID or label.

        Raises:
            CasewiseError: there is no such study, or it is in another state.
        """
        with self._writing():
            own = self._named(study)
            if own.state not in (StudyState.QUARANTINED, StudyState.FAILED, StudyState.PREDICTED):
                raise CasewiseError(f"The study {own.label} is {own.state}: there is nothing to discard.")
            self._drop_pending(own.uid)
            self._change(own.uid, StudyState.DISCARDED, attempts=0, unwritten="")
            return self._named(own.uid)

    def retry(self, study: str) -> QueuedStudy:
        """Put a study back to work that is not answered, lacks a format, or was discarded and still has its images.

        Answers that were given up, and those of a study that was sent, are delivered again. Any other study is
        predicted again, with the newer of two files that have one SOP Instance UID.

        Args:
            study: its UID or label.

        Raises:
            CasewiseError: there is no such study, or it needs no retry.
        """
        with self._writing() as db:
            own = self._named(study)
            uid, state = own.uid, own.state
            if state in (StudyState.RECEIVED, StudyState.COMPLETE):
                raise CasewiseError(f"The study {own.label} is {state}: there is nothing to try again.")
            if state in (StudyState.SENT, StudyState.DISCARDED) and not own.instances:
                raise CasewiseError(f"The images and answers of {own.label} were removed. Send its images again.")
            values: dict[str, Any] = {"attempts": 0, "next_at": 0, "failing_since": None}
            again = state == StudyState.SENT and not own.unwritten
            undelivered = "study = ?" if again else "study = ? AND state != 'delivered'"
            if db.execute(f"SELECT 1 FROM deliveries WHERE {undelivered}", [uid]).fetchone():  # noqa: S608
                query = f"DELETE FROM pauses WHERE partner IN (SELECT partner FROM deliveries WHERE {undelivered})"  # noqa: S608
                db.execute(query, [uid])
                query = "UPDATE deliveries SET state = 'pending', attempts = 0, next_at = 0, failing_since = NULL"
                db.execute(f"{query} WHERE {undelivered}", [uid])
                self._change(uid, StudyState.PREDICTED, event="retry", **values)
            else:
                answered = db.execute("SELECT 1 FROM answers WHERE study = ?", [uid]).fetchone() is not None
                values["version"] = own.version + answered
                self._change(uid, StudyState.COMPLETE, event="retry", **values)
            return self._named(uid)

    # ------------------------------------------------------------------------------------------------------- removal

    def sweep(self, folder: Path) -> list[Path]:
        """Remove from a folder of images or answers what kills left; the complete files that no study names.

        Only what a killed process did not finish is removed, and files of a study that are older than its last removal
        or the decision to discard it. Any other file may have been acknowledged to its sender, also where the queue
        does not name it, such as one that was restored from a backup. The caller knows that nothing is received or
        predicted meanwhile.

        Raises:
            CasewiseError: none of the images that the queue names is there, but others are.
        """
        named = {
            self.folder / row[0] for row in self._rows("SELECT path FROM instances UNION SELECT path FROM answers")
        }
        folder, ended, kept = folder.absolute(), self._ended(), list[Path]()
        with self._failures():
            complete = complete_files(folder)
            unnamed = [path for path in complete if path not in named]
            if unnamed and len(unnamed) == len(complete) and folder.name == RECEIVED and self._names_images():
                text = f"{self.path} names none of the {counted(len(unnamed), 'file')} in {folder}"
                raise CasewiseError(f"{text}: it is the queue of another folder. Restore the one of this folder.")
            for path in unnamed:
                if path.stat().st_mtime < ended.get(path.relative_to(folder).parts[0], 0):
                    path.unlink()
                else:
                    kept.append(path)
            for parent, _, names in os.walk(folder, topdown=False):
                for path in (Path(parent, name) for name in names):
                    if is_unfinished(path, folder):
                        path.unlink()
                if parent != str(folder):
                    with suppress(OSError):  # it is not empty
                        os.rmdir(parent)
        return kept

    def _names_images(self) -> bool:
        return bool(self._rows("SELECT EXISTS (SELECT 1 FROM instances)")[0][0])

    def _ended(self) -> dict[str, float]:
        """By the folder of a study the time at which its files were last removed, or the study discarded."""
        query = "SELECT study, max(at) FROM events WHERE event IN ('removed', ?) GROUP BY study"
        return {study_folder(study): at for study, at in self._rows(query, [StudyState.DISCARDED])}

    def remove_sent(self, before: float, most: int = 100) -> int:
        """Remove images and answers of studies that were SENT or DISCARDED before a time, in seconds since 1970.

        The studies stay in the queue. If such a study comes again, it is predicted again.

        Args:
            most: studies at a time, so that nobody waits long.

        Returns:
            The number of these studies.
        """
        done = "state IN (?, ?) AND changed_at < ? AND EXISTS (SELECT 1 FROM instances WHERE study = uid)"
        values = [StudyState.SENT, StudyState.DISCARDED, before]
        studies = self._rows(f"SELECT uid FROM studies WHERE {done} ORDER BY changed_at LIMIT ?", [*values, most])  # noqa: S608
        for (uid,) in studies:
            with self._writing() as db:
                own = self._studies(f"uid = ? AND {done}", [uid, *values])
                if not own:  # images arrived meanwhile
                    continue
                query = "SELECT path FROM instances WHERE study = ? UNION SELECT path FROM answers WHERE study = ?"
                paths = [self.folder / name for (name,) in db.execute(query, [uid, uid]).fetchall()]
                db.execute("DELETE FROM instances WHERE study = ?", [uid])
                db.execute("DELETE FROM answers WHERE study = ?", [uid])
                db.execute("UPDATE studies SET removed = ?, unwritten = '' WHERE uid = ?", [own[0].instances, uid])
                self._event(uid, "removed", f"{own[0].instances} images")
            for path in paths:  # what a kill leaves here, `sweep` removes
                path.unlink(missing_ok=True)
                for folder in path.parents[:2]:  # of a series and its study, or of the answers
                    if folder.parent != self.folder:
                        with suppress(OSError):  # it is not empty
                            folder.rmdir()
        return len(studies)

    # ------------------------------------------------------------------------------------------------------- reading

    def studies(self, *, unfinished: bool = False) -> list[QueuedStudy]:
        """All studies, or those that wait for something or lack a format; those that changed first come first."""
        condition = "NOT ? OR state NOT IN (?, ?) OR unwritten != ''"
        return self._studies(condition, [unfinished, StudyState.SENT, StudyState.DISCARDED])

    def files(self, study: str) -> list[StoredInstance]:
        """The images of a study in the order of their arrival; of two with one SOP Instance UID, the newer."""
        query = "SELECT path, instance, sha256 FROM instances WHERE study = ? ORDER BY id"
        newest = {row[1]: StoredInstance(self.folder / row[0], *row[1:]) for row in self._rows(query, [study])}
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
        """Since when the study waits that waits longest for its answer, in seconds since 1970."""
        query = f"SELECT min(waiting_since) FROM studies WHERE state NOT IN ({marks(SETTLED)})"  # noqa: S608
        oldest: float | None = self._rows(query, SETTLED)[0][0]
        return oldest

    def observations(self) -> list[tuple[str, Observation]]:
        """What was observed at each prediction, with the label of its study, in their order."""
        from casewise.plugins.node.monitoring.observation import Observation

        query = "SELECT study, observation FROM predictions WHERE observation IS NOT NULL ORDER BY id"
        return [(study_label(study), Observation.from_json(text)) for study, text in self._rows(query)]

    def accessions(self) -> dict[str, set[str]]:
        """The labels of the studies by the hash of their accession number, which is not always one of one study."""
        rows = self._rows("SELECT accession, study FROM predictions WHERE accession != '' ORDER BY id")
        studies: dict[str, set[str]] = {}
        for accession, study in rows:
            studies.setdefault(accession, set()).add(study_label(study))
        return studies
