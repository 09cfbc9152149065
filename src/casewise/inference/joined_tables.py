"""Tables of new cases that name no images: a plugin finds them in the folder, as for the table of the training."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pandas as pd

from casewise.cohort.checks import FOUND
from casewise.errors import CasewiseError
from casewise.plugin import implementing

if TYPE_CHECKING:
    from casewise.study.schema import Study

log = logging.getLogger("casewise")
# What a user may state of such a table, beside the subject.
_OF_TIME = ("visit", "date", "day")
# What a plugin advises, which are options of `casewise init`.
_SUBJECT = re.compile(r"--subject (?=[^\s,.:;])")


class JoinsTables(Protocol):
    """A plugin that finds the images of a table without their names."""

    def joined_cases(
        self,
        table: Path,
        images: Path,
        study: Study,
        *,
        subject: str = "",
        pattern: str = "",
        columns: Mapping[str, str] | None = None,
    ) -> tuple[pd.DataFrame, list[str], list[str]]:
        """A row for each image, and for each row without one; what was understood; what is doubted.

        Args:
            subject: the column that identifies people; '' if it is to be found.
            pattern: what paths state; '' if it is to be found.
            columns: the columns of the visit, date and day, as the user states them.

        Raises:
            CasewiseError: rows and images do not belong together.
        """
        raise NotImplementedError


def joined_table(table: Path, images: Path, study: Study, columns: Mapping[str, str], pattern: str) -> pd.DataFrame:
    """The table with the path of each image below a folder, by the first plugin that can; what it doubts is logged.

    Args:
        columns: standard name -> column, as the user states them.
        pattern: what paths state; '' if it is to be found.

    Raises:
        CasewiseError: rows and images do not belong together, or no plugin joins them.
    """
    plugin = next(iter(implementing(JoinsTables)), None)
    if plugin is None:
        raise CasewiseError("no plugin reads such tables")
    stated = {role: name for role, name in columns.items() if role in _OF_TIME and name}
    if others := [f"{r}={name}" for r, name in columns.items() if r not in ("subject", *stated) and name]:
        raise CasewiseError(
            f"`--column {shlex.quote(others[0])}` is about a table with a column of files. Leave it out."
        )
    try:
        joined, understood, doubts = plugin.joined_cases(
            table, images, study, subject=columns.get("subject", ""), pattern=pattern, columns=stated
        )
    except CasewiseError as error:
        raise CasewiseError(_SUBJECT.sub("--column subject=", str(error))) from error
    for sentence in (*understood, *doubts):
        log.warning("%s", sentence)
    return joined.drop(columns=FOUND, errors="ignore")
