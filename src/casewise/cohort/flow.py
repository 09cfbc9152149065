"""The flow of participants: what was read from the table, and every step that leaves rows out, with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study


class Flow:
    """The steps from the rows of the table to the cohort, collected where rows are left out.

    A step has a `code`, the numbers of `rows` and `subjects` that it leaves out (a subject counts if none of its rows
    remains), and those that are `left`. The first step, `read`, leaves nothing out. Subjects are None where the table
    has no such column.

    >>> import pandas as pd
    >>> flow = Flow(pd.Series(["A", "A", "B"], index=[2, 3, 4]))
    >>> flow.leave_out("where", pd.Series([True, False, False], index=[2, 3, 4]), column="view")
    >>> flow.steps[-1]
    {'code': 'where', 'column': 'view', 'rows': 2, 'subjects': 1, 'left': {'rows': 1, 'subjects': 1}}
    """

    def __init__(self, subjects: pd.Series | None, rows: int | None = None) -> None:
        self._subjects = subjects
        self._rows = len(subjects) if subjects is not None else rows or 0
        left = {"rows": self._rows, "subjects": self._count()}
        self.steps: list[dict[str, Any]] = [{"code": "read", "rows": 0, "subjects": 0, "left": left}]

    @classmethod
    def of(cls, cells: pd.DataFrame, study: Study) -> Flow:
        """The flow of a table that was just read."""
        column = study.columns.get("subject", "subject")
        return cls(cells[column].str.strip() if column in cells else None, len(cells))

    def leave_out(self, code: str, kept: pd.Series, **reason: Any) -> None:
        """Add a step; `kept` marks the rows that remain, by row number, and may still contain rows left out before."""
        before = self.steps[-1]["left"]
        if self._subjects is not None:
            self._subjects = self._subjects[kept.reindex(self._subjects.index, fill_value=False)]
            self._rows = len(self._subjects)
        else:
            self._rows = int(kept.sum())
        left = {"rows": self._rows, "subjects": self._count()}
        lost = None if left["subjects"] is None else before["subjects"] - left["subjects"]
        step = {"code": code, **reason, "rows": before["rows"] - left["rows"], "subjects": lost, "left": left}
        if step["rows"]:
            self.steps.append(step)

    def _count(self) -> int | None:
        return None if self._subjects is None else int(self._subjects[self._subjects != ""].nunique())


def cases_step(code: str, before: pd.DataFrame, after: pd.DataFrame) -> list[dict[str, Any]]:
    """A step that leaves out whole cases, from the tables of cases before and after it; none if nothing changed."""
    lost = before[~before["case"].isin(after["case"])]
    if lost.empty:
        return []
    left = {"cases": len(after), "subjects": int(after["subject"].nunique())}
    subjects = int(before["subject"].nunique()) - left["subjects"]
    return [{"code": code, "cases": len(lost), "subjects": subjects, "left": left}]
