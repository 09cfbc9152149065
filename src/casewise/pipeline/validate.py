"""The steps before training by themselves: what a study file describes, and the audit alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from casewise.audit.findings import audit_text
from casewise.errors import BothSidesError
from casewise.modalities.registry import modality_of
from casewise.pipeline.audit import current_audit
from casewise.pipeline.read import prepare, read
from casewise.pipeline.split import split as split_step
from casewise.report.formatting import counted
from casewise.splits.grouped import Splits, split
from casewise.splits.learnable import check_learnable

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.run_folder import RunFolder
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
            # where images were cut into tiles, panels are not those of the table
            panels = "" if len(cohort.images) < len(table.images) else f", {counted(n['panels'], 'panel')}"
            lines.append(f"{side:<10} {counted(n['subjects'], 'subject')}, {counted(n['cases'], 'case')}{panels}")
    networks = len(study.networks) * splits.folds
    inner = networks * study.nested_cv.folds * len(study.rates) if study.nested_cv else 0
    total = f", after {counted(inner, 'inner training')}: {counted(inner + networks, 'training')} in all"
    of = f"{counted(len(study.networks), study.network_noun)} × {splits.folds} folds"
    return [*lines, f"jobs       {of} = {networks} networks" + (total if inner else "")]


def audit_alone(study: Study, folder: RunFolder, show: Show, write: Callable[[str], object]) -> None:
    """Audit a cohort without training, and pass the findings to `write` line by line.

    Raises:
        CasewiseError: a run would be refused, for a finding that the study does not accept or an impossible split.
    """
    splits: Splits | None = None
    refused: BothSidesError | None = None
    with folder.lock():
        cohort = read(study, folder, show)
        tiles = prepare(study, cohort, folder, show)
        try:
            splits = split_step(study, cohort, folder, show)
        except BothSidesError as error:
            refused = error
            show.line("split", "none that can be used: subjects are on several sides")
        result = current_audit(study, cohort, tiles, splits, folder, show)
    write(audit_text(result, study.accept))
    for note in result.notes(study.accept):
        write(f"{'':<10} {note}")
    write(f"audit: {folder.audit.path}")
    if refused:
        raise refused  # a run would be refused, whatever the study accepts
    result.gate(study.accept, already_shown=True)
