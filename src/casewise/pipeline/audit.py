"""The audit of a run: stored in the run folder with the reasons of the study, repeated if its inputs have changed."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from casewise.audit.findings import Audit, audit_text, read_audit, with_noun
from casewise.audit.sentences import as_in_table
from casewise.cohort.cohort import Cohort
from casewise.cohort.decisions import LEAVE_OUT, add_decisions, name_in_study
from casewise.cohort.table import names_text
from casewise.console import Show, shown
from casewise.errors import BothSidesError, RunError, counted
from casewise.files import json_hash
from casewise.modalities.base import ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.pipeline.hooks import run_hooks
from casewise.pipeline.read import RunInputs, plan, prepare, read, split
from casewise.run_folder import RunFolder
from casewise.splits.grouped import Splits
from casewise.study.schema import Study
from casewise.version import __version__

# Settings of training and evaluation, and the rules of grades, which do not change the images and their labels.
NOT_AUDITED = (
    *("accept", "compute", "encoders", "recipe", "stack", "baselines", "stack_baselines", "external", "evaluation"),
    *("seeds", "test_time_augmentation", "title", "description"),
)
EXCLUDED: Any = dict.fromkeys(NOT_AUDITED, True) | {"targets": {"__all__": {"decision"}}}
# Errors about copies of one picture; of the last one, both images are left out.
LABELS = "twins-across-labels"
COPIES = ("twins-across-subjects", "twins-across-splits", LABELS)
SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z])")  # between two sentences


@shown("audit")
def audit(inputs: RunInputs, show: Show) -> Audit:
    """Search for one person under two names, for leaks of the split and for shortcuts.

    Raises:
        AuditError: naming the errors that the study does not accept; nothing was trained.
    """
    study, folder = inputs.study, inputs.folder
    result = _current_audit(study, inputs.cohort, inputs.store, inputs.splits, folder, show)
    verdict = result.verdict(study.accept)
    show.line("audit", SENTENCE.split(verdict)[0] if result.findings else verdict)
    for note in result.notes(study.accept):
        show.line("", note)
    if result.findings:
        show.line("", f"all findings and pairs: {folder.audit_page}")
    result.gate(study.accept)
    return result


def _current_audit(
    study: Study, cohort: Cohort, store: ImageStore, splits: Splits | None, folder: RunFolder, show: Show
) -> Audit:
    """The stored audit of a study, repeated only if its inputs have changed.

    `splits` is None if the predefined split cannot be used; the audit then reports the reason.
    """
    from casewise.pipeline.look import panels_section
    from casewise.report.audit_page import decisions_section, write_audit_page
    from casewise.report.context import report_title
    from casewise.study.weight_files import embedding_origin, embedding_weights

    modality, whole = modality_of(study), cohort
    prepared = PreparedCohort(study, cohort, folder.images(study.images.store), store)
    cohort, store = modality.audited(prepared, show)
    network = next((" ".join(embedding_origin(name, file)) for name, file in embedding_weights(study)), "")
    made_from = _inputs_hash(study, cohort, store, splits, network)
    result = None
    if folder.audit.made_from() == made_from:
        with suppress(RunError):  # it is of another version
            result = read_audit(folder.audit)
    if result is None:
        from casewise.audit.run import audit as run_audit
        from casewise.models.encoders import embedder

        embed = embedder(study, store) if network else None  # it passes over weights that do not fit
        side = splits.side if splits else None
        with show.bar("audit") as bar:

            def report(done: float, total: float, text: str) -> None:
                bar(0, 0, f"{text} ({done / total:.0%} of the audit)")  # no time left: its parts differ in speed

            result = run_audit(study, cohort, store, side, embed=embed, progress=report)
        if splits:
            findings = [finding for plugin in run_hooks() for finding in plugin.findings(study, whole, splits)]
            result = dataclasses.replace(result, findings=[*result.findings, *findings])
        if (noun := modality.noun(study)).singular != "image":
            result = with_noun(result, noun.singular, noun.plural)
        origin = embed.origin if embed else "none: no pretrained weights at hand"
        result = dataclasses.replace(result, facts={**result.facts, "embedding": origin})
    folder.audit.write(result.as_json(study.accept), made_from)  # the reasons may have changed
    panels = [panels_section(prepared, splits, most=1)] if splits else []
    decided = [decisions_section(study.audit.decisions)] if study.audit.decisions else []
    title, further = report_title(study), [*decided, *panels]
    write_audit_page(result, study.accept, cohort.images, store, folder.audit_page, title=title, further=further)
    return result


def audit_alone(
    study: Study, folder: RunFolder, show: Show, write: Callable[[str], object], *, resolve: Path | None = None
) -> None:
    """Audit a cohort without training, and pass the findings to `write` line by line.

    Args:
        resolve: the study file, beside which copies are left out: one image of each pair that an error names.

    Raises:
        CasewiseError: a run would be refused, for a finding that the study does not accept or an impossible split.
    """
    splits: Splits | None = None
    refused: BothSidesError | None = None
    with folder.lock():
        cohort = read(study, folder, show)
        try:
            splits = split(study, cohort, folder, show)
        except BothSidesError as error:
            refused = error
            show.line("split", "none that can be used: subjects are on several sides")
        study = plan(study, cohort, splits, folder, show)
        store = prepare(study, cohort, folder, show)
        result = _current_audit(study, cohort, store, splits, folder, show)
    write(audit_text(result, study.accept))
    for note in result.notes(study.accept):
        write(f"{'':<10} {note}")
    write(f"audit: {folder.audit.path}")
    write(f"pairs: {folder.audit_page}")
    if refused:
        raise refused  # a run would be refused independently of `accept`
    named = True
    if resolve:
        result, named = _resolved(result, study, resolve, write)
    result.gate(study.accept, already_shown=True)
    if resolve and named:
        write(f"next: casewise run {shlex.quote(str(resolve))}")


def _resolved(result: Audit, study: Study, study_file: Path, write: Callable[[str], object]) -> tuple[Audit, bool]:
    """Leave out the copies that errors name, in a file of decisions.

    Of two images with two values of a target both are left out, because it is not known which value is right.

    Returns:
        The audit without the errors whose images are left out now, and whether the study names the file.
    """
    copies = [each for each in result.of("error") if each.id not in study.accept and each.id in COPIES]
    root = (study.root or study.cohort.parent).absolute()
    reasons: dict[str, str] = {}
    of_finding: dict[str, set[str]] = {}
    for finding in copies:
        for pair in finding.pairs:
            first, second = as_in_table(pair, root)
            left = {second: first, first: second} if finding.id == LABELS else {second: first}
            of_finding.setdefault(finding.id, set()).update(left)
            for path, other in left.items():
                reasons.setdefault(path, f"the same picture as {other} ({finding.id})")
    if not reasons:
        write("resolve: no error is about copies, so no image is left out")
        return result, True
    file = study.audit.decisions or study_file.with_name(f"{study_file.stem}-decisions.csv")
    added, kept = add_decisions(file, reasons, root)
    write(f"resolve: {counted(added, 'image')} left out in {file}; `keep` in place of `{LEAVE_OUT}` takes one back")
    named = study.audit.decisions is not None or name_in_study(study_file, file)
    if not named:
        write(f"resolve: write `decisions: {file.name}` into the section `audit` of {study_file}, then audit it again")
    if kept:
        write(f"resolve: {names_text(kept, 3)} stay, as the file says; accept the finding with its reason")
    solved = [each for each in copies if not of_finding[each.id].intersection(kept)]
    return dataclasses.replace(result, findings=[each for each in result.findings if each not in solved]), named


def _inputs_hash(study: Study, cohort: Cohort, store: ImageStore, splits: Splits | None, network: str) -> str:
    """A hash of everything that the audit depends on."""
    from casewise.jobs.plan import table_hash

    inputs = {
        "table": table_hash(cohort, study),
        "columns": cohort.images.astype(str).to_json(),
        "tiles": store.address,
        "split": splits.hash if splits else "",
        "study": study.model_dump(mode="json", exclude=EXCLUDED),
        "network": network,
        "readers": study.evaluation.readers,
        "masks": _mask_files(study, cohort),
        "noun": dataclasses.asdict(modality_of(study).noun(study)),
        "casewise": __version__,
    }
    return json_hash(inputs)


def _mask_files(study: Study, cohort: Cohort) -> list[tuple[str, int, int]]:
    """The masks that the audit reads, with size and modification time."""
    root = study.root or study.cohort.parent
    column = study.audit.mask
    names = cohort.images[column].astype(str) if column and column in cohort.images else pd.Series(dtype=str)
    files = [(name, (root / name).stat()) for name in names if name and (root / name).is_file()]
    return [(name, status.st_size, status.st_mtime_ns) for name, status in files]
