"""Which cases are explained, and what each network said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.errors import CohortError, RunError, nearest
from casewise.explain.finished_run import FinishedRun
from casewise.explain.methods.target import ExplainTarget
from casewise.models.outputs import outputs_of
from casewise.predictions.nested_cv import NESTED

if TYPE_CHECKING:
    import pandas as pd

# Of cases that were right, and of cases that were wrong.
EACH = 3


@dataclass(frozen=True)
class CasePrediction:
    """What one network said of a panel row's unit of the target, and what was recorded.

    `of`: the number of the class that it named, None of a number. `right`: None where nothing was recorded, and of
    numbers.
    """

    model: str
    stage: str
    fold: int | None
    y_true: float
    y_pred: float
    probability: float
    of: int | None
    right: bool | None


def asked_about(run: FinishedRun) -> ExplainTarget:
    """What the networks are asked: the main outcome where they predict it, or else their first target."""
    return ExplainTarget.about(run.study)


def about(run: FinishedRun, said: CasePrediction) -> ExplainTarget:
    """The same of the class that was named."""
    return ExplainTarget(outputs_of(run.study), asked_about(run).target, of=said.of)


def rows_of(run: FinishedRun, case: str) -> list[int]:
    """The panel rows of a case."""
    return np.flatnonzero(run.cohort.panels["case"].astype(str).to_numpy() == case).tolist()


def said_of(run: FinishedRun, model: str, row: int) -> CasePrediction | None:
    """What a network said of the unit that a panel row belongs to; None where it predicted nothing of it."""
    panel = run.cohort.panels.iloc[row]
    target = asked_about(run).target
    level = run.study.level_of(target)
    table = run.final
    mine = (table["model"] == model) & (table["target"] == target) & (table["case"] == str(panel["case"]))
    mine &= table["stage"] != "external"
    if level in ("region", "image") and (table.loc[mine, "region"] != "").any():
        mine &= table["region"] == str(panel["region"])
    if level == "image":
        mine &= table["image"] == str(run.cohort.images["path"].iloc[int(panel["tiles"][0])])
    found = table[mine]
    return _said(found.iloc[0]) if len(found) else None


def _said(row: pd.Series[Any]) -> CasePrediction:
    classed = row["kind"] != "regression"
    named = int(row["y_pred"]) if classed else None
    known = not np.isnan(row["y_true"])
    return CasePrediction(
        model=str(row["model"]),
        stage=str(row["stage"]),
        # out of fold one network alone; on the test set all of them
        fold=int(row["outer_fold"]) - 1 if row["stage"] == "oof" else None,
        y_true=float(row["y_true"]),
        y_pred=float(row["y_pred"]),
        probability=float(row[f"p{named}"]) if classed else float("nan"),
        of=named,
        right=bool(row["y_pred"] == row["y_true"]) if classed and known else None,
    )


def named_cases(run: FinishedRun, cases: list[str]) -> list[str]:
    """The cases asked for by `SUBJECT/VISIT`, or by a subject who has one case.

    Raises:
        CohortError: there is no such case, or the subject has several.
    """
    known = list(dict.fromkeys(run.cohort.panels["case"].astype(str)))
    by_subject: dict[str, list[str]] = {}
    for case, subject in zip(
        run.cohort.panels["case"].astype(str), run.cohort.panels["subject"].astype(str), strict=True
    ):
        if case not in by_subject.setdefault(subject, []):
            by_subject[subject].append(case)
    found, problems = [], []
    for name in dict.fromkeys(cases):
        if name in known:
            found.append(name)
        elif len(own := by_subject.get(name, [])) == 1:
            found.append(own[0])
        else:
            several = f" The subject has {', '.join(own[:8])}." if own else nearest(name, [*known, *by_subject])
            problems.append(f"--case: the run has no case {name!r}; a case is written as SUBJECT/VISIT.{several}")
    if problems:
        raise CohortError("\n  ".join(problems))
    return list(dict.fromkeys(found))


def chosen_cases(run: FinishedRun, models: list[str]) -> tuple[list[str], str]:
    """A few cases by a rule that looks at no map, and the rule as a sentence.

    Of classes: of the cases that the reference network had right those it was surest of, of different classes first;
    then likewise of those it had wrong. Of numbers: the closest and the furthest. Out of fold where that exists.

    Raises:
        RunError: the networks have no predictions.
    """
    model, rows = _reference(run, models)
    asked = asked_about(run)
    table = rows[rows["target"] == asked.target].dropna(subset=["y_true"])
    stage = "oof" if (table["stage"] == "oof").any() else "test"
    table = table[table["stage"] == stage].drop_duplicates("case")
    if table.empty:
        raise RunError(f"{run.folder}: {model} has no predictions of {asked.target} where it was recorded.")
    where = "out of fold" if stage == "oof" else "on the test set"
    if not asked.output.classes:
        table = table.assign(error=(table["y_pred"] - table["y_true"]).abs()).sort_values("error", kind="stable")
        near, far = table.head(EACH), table.iloc[EACH:].tail(EACH)
        rule = f"the {len(near)} cases that {model} came closest to and the {len(far)} it was furthest from, {where}"
        return [*near["case"], *far["case"][::-1]], rule
    named = table["y_pred"].astype(int)
    table = table.assign(sure=[row[f"p{of}"] for (_, row), of in zip(table.iterrows(), named, strict=True)])
    table = table.sort_values("sure", ascending=False, kind="stable")
    right = _varied(table[table["y_pred"] == table["y_true"]])
    wrong = _varied(table[table["y_pred"] != table["y_true"]])
    parts = [f"{len(part)} it had {word}" for part, word in ((right, "right"), (wrong, "wrong")) if part]
    rule = (
        f"of all cases {where}, by {model}: the {' and the '.join(parts)} that it was surest of, of different recorded "
        "classes where there are"
    )
    return [*right, *wrong], rule


def _reference(run: FinishedRun, models: list[str]) -> tuple[str, pd.DataFrame]:
    """The learner whose cases are chosen, as the rule names it, and its rows.

    That which the report shows: a network, or of `nested` each fold's own; where it is none of both (a stacker), or not
    among `models`, the first of these.
    """
    main, table = str((run.results.get("main") or {}).get("learner", "")), run.final
    nested = run.files.nested
    if main == NESTED and nested.exists():
        folds = {int(fold): choice["network"] for fold, choice in nested.read()["folds"].items()}
        if set(folds.values()) <= set(models):
            return "each fold’s chosen network", table[table["model"] == NESTED]
    if main in models:
        return main, table[table["model"] == main]
    name = models[0]
    told = f"{name} (in place of {main}, which the report shows)" if main else name
    return told, table[table["model"] == name]


def _varied(table: pd.DataFrame) -> list[str]:
    """The first cases of each recorded class in turn."""
    turn = table.groupby("y_true", sort=False).cumcount()
    return list(table.assign(turn=turn).sort_values("turn", kind="stable")["case"].head(EACH).astype(str))
