"""Other cohorts: one for pretraining, and one for testing the trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from casewise.errors import cut
from casewise.study.model import RowFilter, StudyModel
from casewise.study.targets import Target

Apart = Literal["named_apart", "distinct"]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _groups_of_names(value: Any) -> Any:
    """Check lists of names of different people; whole numbers become text."""
    if isinstance(value, str) or not isinstance(value, list):
        return value
    groups = []
    for group in value:
        names = group if isinstance(group, list) else [group]
        groups.append([str(name).strip() if type(name) in (int, str) else name for name in names])
        if not all(isinstance(name, str) for name in groups[-1]) or len(set(groups[-1])) < 2:
            raise ValueError(
                f"{cut(group)} does not list different names of different people; write each name in quotes as the "
                'tables spell it, such as [["1", "01"]]'
            )
    return groups


SubjectNames = Annotated[Literal["refuse_similar", "as_written"] | list[list[str]], BeforeValidator(_groups_of_names)]


class OtherTable(StudyModel):
    """The table of another cohort."""

    cohort: Path
    """The other cohort's table."""
    sheet: str = ""
    """As in the study, but for this table only."""
    columns: dict[str, str] = {}
    """As in the study, but for this table only."""
    where: RowFilter = {}
    """As in the study, but for this table only."""
    where_not: RowFilter = {}
    """As in the study, but for this table only."""


class External(OtherTable):
    """Another cohort on which the trained networks are tested; nothing is fitted to it.

    No subject may have the name of a subject of the study, unless `subjects: distinct` states that they are different
    people.
    """

    cohort: Path
    """The other cohort's table, with the study's targets."""
    name: str = ""
    """Name of the cohort in the report, and prefix of its subjects' names. Default: the name of the table's folder."""
    root: Path | None = None
    """As in the study, but for this table only."""
    subjects: Apart = "named_apart"
    """`named_apart`: no subject may have the name of a subject of the study. `distinct`: equal names in the two tables
    denote different people."""
    pretraining_subjects: Apart = "named_apart"
    """The same for subjects of the cohort for pretraining that are not in the study."""
    bundle_subjects: Apart = "named_apart"
    """The same for subjects that a network of `weights: bundle:PATH` was trained on."""
    by: Annotated[list[str], BeforeValidator(_as_list)] = []
    """Columns of this table, such as `site`: results are also shown for each of their values separately. Default: the
    column of `split.leave_out`, if this table has it."""


class Pretraining(OtherTable):
    """Training on another cohort first. The held-out subjects of each fold are always left out of it."""

    subjects: Literal["shared", "distinct"]
    """`shared`: equal names are the same people, and held-out subjects are left out of a fold's pretraining.
    `distinct`: no person is in both tables, and a name that occurs in both is an error."""
    targets: dict[str, Target]
    """The targets of pretraining. Only the body of the pretrained network is used afterwards."""
    epochs: int = Field(5, ge=1)
    """Number of epochs; all of them are trained."""
    lr: float | None = Field(None, gt=0)
    """Learning rate; it falls as half a cosine. Default: the recipe's; required with `recipe.lr: find`."""
    batch_size: int | None = Field(None, ge=2)
    """Panels in a batch. Default: the recipe's."""
