"""The check of a study file, its table and its split; nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.modalities.registry import modality_of
from casewise.pipeline.read import read
from casewise.report.formatting import counted
from casewise.splits.grouped import split
from casewise.splits.learnable import check_learnable

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.study.schema import Study


def validate(study: Study, show: Show) -> list[str]:
    """Check the cohort table, the image files and the split; return lines on the sides and the networks.

    Raises:
        CasewiseError: naming every problem.
    """
    modality = modality_of(study)
    table = read(study, None, show)
    cohort = modality.whole(study, table)
    modality.check_files(study, cohort, show)
    splits = split(cohort, study)
    check_learnable(splits, cohort.panels, study)
    lines = []
    for side, n in splits.record["n"].items():
        if n["subjects"]:
            # panels of tiles are not those of the table
            panels = "" if len(cohort.images) < len(table.images) else f", {counted(n['panels'], 'panel')}"
            lines.append(f"{side:<10} {counted(n['subjects'], 'subject')}, {counted(n['cases'], 'case')}{panels}")
    networks = len(study.networks) * splits.folds
    inner = networks * study.nested_cv.folds * len(study.rates) if study.nested_cv else 0
    total = f", after {counted(inner, 'inner training')}: {counted(inner + networks, 'training')} in all"
    of = f"{counted(len(study.networks), study.network_noun)} × {splits.folds} folds"
    return [*lines, f"jobs       {of} = {networks} networks" + (total if inner else "")]
