"""The deliveries of a queue: which answer each partner has still to receive, and when it is tried again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.plugins.node.queue.database import QueueDatabase, cut_text
from casewise.plugins.node.queue.records import Answer, Delivery, StudyState

if TYPE_CHECKING:
    from casewise.plugins.node.settings import Retry


class DeliveryQueue(QueueDatabase):
    """The deliveries.

    Args:
        routes: the formats that each partner receives, by its name. Only what delivers answers states them: deliveries
            to other partners are dropped, and new partners are added to the studies that are not SENT.
    """

    def __init__(self, folder: Path, routes: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(folder)
        self._routes = routes or {}
        if routes is not None:
            self._reroute()

    def _add_deliveries(self, study: str) -> None:
        for name, style in self._db.execute("SELECT name, format FROM answers WHERE study = ?", [study]).fetchall():
            for partner in [partner for partner, formats in self._routes.items() if style in formats]:
                values = [study, name, partner]
                self._db.execute("INSERT OR IGNORE INTO deliveries (study, name, partner) VALUES (?, ?, ?)", values)

    def _drop_pending(self, study: str) -> None:
        self._db.execute("DELETE FROM deliveries WHERE study = ? AND state != 'delivered'", [study])

    def _reroute(self) -> None:
        """Let the pending deliveries be those of the partners that are stated now."""
        with self._writing() as db:
            names = sorted(self._routes)
            marks = ", ".join("?" * len(names))
            query = f"DELETE FROM deliveries WHERE state != 'delivered' AND partner NOT IN ({marks})"  # noqa: S608
            db.execute(query, names)
            studies = db.execute("SELECT uid FROM studies WHERE state = ?", [StudyState.PREDICTED]).fetchall()
            for (uid,) in studies:
                self._add_deliveries(uid)
                self._finish(uid)

    def _finish(self, study: str) -> None:
        """Let a predicted study become SENT, or go into quarantine, if no delivery of it is pending."""
        query = "SELECT state, partner, reason FROM deliveries WHERE study = ? ORDER BY state = 'pending' DESC, id"
        rows = self._db.execute(query, [study]).fetchall()
        own = self._studies("uid = ?", [study])
        if not own or own[0].state != StudyState.PREDICTED or (rows and rows[0][0] == "pending"):
            return
        refused = list(dict.fromkeys(f"{partner}: {reason}" for state, partner, reason in rows if state == "given up"))
        self._change(
            study, StudyState.QUARANTINED if refused else StudyState.SENT, " ".join(refused), attempts=0, next_at=0
        )

    def deliveries(self, now: float, partner: str = "") -> list[Delivery]:
        """The answers that are to be delivered now, of one partner if stated; those that wait longest come first."""
        query = (
            "SELECT d.id, d.study, a.name, a.format, a.path, a.sha256, d.partner, d.attempts, s.version "
            "FROM deliveries d JOIN answers a ON a.study = d.study AND a.name = d.name "
            "JOIN studies s ON s.uid = d.study WHERE d.state = 'pending' AND d.next_at <= ? "
            "AND (? = '' OR d.partner = ?) ORDER BY d.next_at, d.id LIMIT 200"
        )
        return [
            Delivery(row[0], row[1], Answer(row[2], row[3], self.folder / row[4], row[5]), row[6], row[7], row[8])
            for row in self._rows(query, [now, partner, partner])
        ]

    def delivered(self, delivery: Delivery) -> None:
        """Record that a partner has an answer; what waits because this partner failed is then due at once."""
        with self._writing() as db:
            db.execute("UPDATE deliveries SET state = 'delivered', reason = '' WHERE id = ?", [delivery.id])
            query = "UPDATE deliveries SET next_at = 0 WHERE partner = ? AND state = 'pending' AND next_at > 0"
            db.execute(query, [delivery.partner])
            self._event(delivery.study, "delivered", f"{delivery.answer.name} to {delivery.partner}")
            self._finish(delivery.study)

    def not_delivered(self, delivery: Delivery, reason: str, retry: Retry, *, final: bool = False) -> None:
        """Record that an answer could not be delivered: it is tried again, or given up.

        Args:
            final: another attempt would not help. The study goes into quarantine when its other answers are delivered.
        """
        now = time.time()
        with self._writing() as db:
            row = db.execute("SELECT failing_since FROM deliveries WHERE id = ?", [delivery.id]).fetchone()
            if row is None:  # images arrived meanwhile
                return
            since, attempts = row[0] or now, delivery.attempts + 1
            state = "given up" if final or now - since >= retry.give_up else "pending"
            query = (
                "UPDATE deliveries SET state = ?, attempts = ?, next_at = ?, failing_since = ?, reason = ? WHERE id = ?"
            )
            values = [state, attempts, now + retry.wait(attempts), since, cut_text(reason), delivery.id]
            db.execute(query, values)
            text = cut_text(f"{delivery.partner}: {reason}")
            query = "UPDATE studies SET reason = ?, attempts = ?, next_at = ? WHERE uid = ? AND state = ?"
            db.execute(query, [text, attempts, values[2], delivery.study, StudyState.PREDICTED])
            self._event(delivery.study, "not delivered" if state == "pending" else state, text)
            self._finish(delivery.study)

    def postpone(self, partner: str, until: float) -> None:
        """Let all answers for a partner that cannot be reached wait until a time, in seconds since 1970."""
        with self._writing() as db:
            query = "UPDATE deliveries SET next_at = ? WHERE partner = ? AND state = 'pending' AND next_at < ?"
            db.execute(query, [until, partner, until])
