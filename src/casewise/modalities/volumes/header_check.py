"""What a study's scans say by their headers alone, before anything is prepared: the problems a run would stop at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.cohort import Cohort
from casewise.errors import CasewiseError
from casewise.modalities.volumes.case_files import lesions_of, sources_of
from casewise.modalities.volumes.case_loader import Gathered, gather, not_prepared
from casewise.modalities.volumes.grid import Grid, check_shown, covered, plane_grid, to_ras
from casewise.modalities.volumes.notes import summed
from casewise.modalities.volumes.roi import region_of_box
from casewise.modalities.volumes.scans import Scan
from casewise.study.schema import Study

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.modalities.volumes.slice_store import CaseSources

__all__ = ["check_headers"]


def check_headers(study: Study, cohort: Cohort, show: Show) -> None:
    """Read the headers of every scan and mask, and compare those of a case; tell what is odd.

    Voxels are not read: whether they are numbers, whole, and show anything, is known when the scans are prepared.

    Raises:
        ImageError: scans cannot be read, or those of a case do not go together; all of them are in the message.
    """
    assert study.volumes is not None
    cases, lesions = sources_of(study, cohort), lesions_of(study, cohort)
    problems: dict[str, list[str]] = {}
    notes: list[str] = []
    slices = short = 0
    with show.bar("scans") as bar:
        for number, case in enumerate(cases):
            bar(number, len(cases))
            found = gather(case, voxels=False)
            given = [scan for scan in found.scans if scan is not None]
            if given and not found.problems:
                _compare(study, case, found, given)
            _look_at_lesions(study, lesions.get(case.case, []), given[0] if given else None, found)
            if found.problems:
                problems[case.case] = list(dict.fromkeys(found.problems))
            elif given:
                count = to_ras(given[0]).shape[2]
                slices += count
                short += count < study.panels.slots
            notes += dict.fromkeys(found.notes)
    if problems:
        raise not_prepared(problems, len(cases))
    show.line("scans", f"headers of {len(cases):,} cases are in order, {slices:,} slices; voxels are read by a run")
    if short:
        told = f"{short:,} of {len(cases):,} cases have fewer than {study.panels.slots} slices"
        notes.insert(0, f"{told}; their first and last slices will be repeated around them.")
    for note in summed(notes, (study.root or study.cohort.parent).absolute()):
        show.line("", note)


def _compare(study: Study, case: CaseSources, found: Gathered, given: list[Scan]) -> None:
    """Whether the scans of a case show a common part, and whether its region lies in them."""
    assert study.volumes is not None
    reference = given[0]
    for scan in [*given[1:], *([found.mask] if found.mask else [])]:
        _overlap(scan, reference, found)
    if case.box:
        grid = plane_grid(to_ras(reference), study.volumes.in_plane_size)
        try:
            told = region_of_box(case.box, reference, grid, study.volumes.margin).notes
            found.notes += [f"{reference.path}: {note}" for note in told]
        except CasewiseError as error:
            found.problems.append(str(error))


def _overlap(scan: Scan, reference: Scan, found: Gathered) -> None:
    share = float(covered(scan.shape, scan.affine, Grid(reference.shape, reference.affine)).mean())
    try:
        found.notes += check_shown(share, scan, reference)
    except CasewiseError as error:
        found.problems.append(str(error))


def _look_at_lesions(study: Study, paths: list[Path], reference: Scan | None, found: Gathered) -> None:
    """Whether the masks of lesions can be read, and lie where the case's scans do."""
    from casewise.modalities.store.readers import image_facts
    from casewise.modalities.volumes.reading import read_scan

    assert study.volumes is not None
    for path in paths:
        try:
            if study.volumes.slice_index:
                facts = image_facts(path)
                if reference is not None and (facts["width"], facts["height"]) != reference.shape[:2]:
                    found.problems.append(
                        f"{path}: this mask is {facts['width']}×{facts['height']} pixels, its slice "
                        f"{reference.shape[0]}×{reference.shape[1]}. A mask has the size of its slice."
                    )
            else:
                mask = read_scan(path, voxels=False)
                found.notes += [f"{path}: {note}" for note in mask.notes]
                if reference is not None:
                    _overlap(mask, reference, found)
        except CasewiseError as error:
            found.problems.append(str(error))
