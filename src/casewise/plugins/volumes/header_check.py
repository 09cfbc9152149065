"""Checks of the headers of a study's scans before anything is prepared, which find the problems that stop a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.cohort import Cohort
from casewise.errors import CasewiseError, counted
from casewise.plugins.volumes.case_files import LoadedCase, gather, lesions_of, not_prepared, sources_of, summed
from casewise.plugins.volumes.grid import Grid, check_shown, covered, plane_grid, to_ras
from casewise.plugins.volumes.reading.scans import Scan
from casewise.plugins.volumes.roi import region_of_box
from casewise.plugins.volumes.settings import volumes_of
from casewise.study.schema import Study

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.plugins.volumes.case_files import CaseSources

__all__ = ["check_headers"]


def check_headers(study: Study, cohort: Cohort, show: Show) -> None:
    """Read the headers of every scan and mask, compare those of a case, and show notes on anything unusual.

    Voxels are not read: they are checked when the scans are prepared.

    Raises:
        ImageError: scans cannot be read, or those of a case do not match; the message names all of them.
    """
    cases, lesions = sources_of(study, cohort), lesions_of(study, cohort)
    problems: dict[str, list[str]] = {}
    notes: list[str] = []
    slices = short = 0
    with show.bar("scans") as bar:
        for number, case in enumerate(cases):
            bar(number, len(cases))
            loaded = gather(case, voxels=False)
            scans = [scan for scan in loaded.scans if scan is not None]
            if scans and not loaded.problems:
                _compare(study, case, loaded, scans)
            _check_lesions(study, lesions.get(case.case, []), scans[0] if scans else None, loaded)
            if loaded.problems:
                problems[case.case] = list(dict.fromkeys(loaded.problems))
            elif scans:
                count = to_ras(scans[0]).shape[2]
                slices += count
                short += not study.panels.bags and count < study.panels.slots
            notes += dict.fromkeys(loaded.notes)
    if problems:
        raise not_prepared(problems, len(cases))
    show.line(
        "scans",
        f"headers of {counted(len(cases), 'case')} in order, {counted(slices, 'slice')}; a run checks the voxels",
    )
    if short:
        text = f"{short:,} of {len(cases):,} cases have fewer than {study.panels.slots} slices"
        notes.insert(0, f"{text}; their first and last slices will be repeated around them.")
    for note in summed(notes, (study.root or study.cohort.parent).absolute()):
        show.line("", note)


def _compare(study: Study, case: CaseSources, loaded: LoadedCase, scans: list[Scan]) -> None:
    """Check that the scans of a case overlap, and that its region lies in them."""
    reference = scans[0]
    for scan in [*scans[1:], *([loaded.mask] if loaded.mask else [])]:
        _overlap(scan, reference, loaded)
    if case.box:
        grid = plane_grid(to_ras(reference), volumes_of(study).in_plane_size)
        try:
            box_notes = region_of_box(case.box, reference, grid, volumes_of(study).margin).notes
            loaded.notes += [f"{reference.path}: {note}" for note in box_notes]
        except CasewiseError as error:
            loaded.problems.append(str(error))


def _overlap(scan: Scan, reference: Scan, loaded: LoadedCase) -> None:
    share = float(covered(scan.shape, scan.affine, Grid(reference.shape, reference.affine)).mean())
    try:
        loaded.notes += check_shown(share, scan, reference)
    except CasewiseError as error:
        loaded.problems.append(str(error))


def _check_lesions(study: Study, paths: list[Path], reference: Scan | None, loaded: LoadedCase) -> None:
    """Check that the masks of lesions can be read and overlap the scans of the case."""
    from casewise.modalities.store.readers import image_facts
    from casewise.plugins.volumes.reading.read_scan import read_scan

    for path in paths:
        try:
            if volumes_of(study).slice_index:
                facts = image_facts(path)
                if reference is not None and (facts["width"], facts["height"]) != reference.shape[:2]:
                    loaded.problems.append(
                        f"{path}: this mask is {facts['width']}×{facts['height']} pixels, its slice "
                        f"{reference.shape[0]}×{reference.shape[1]}. A mask must have the size of its slice."
                    )
            else:
                mask = read_scan(path, voxels=False)
                loaded.notes += [f"{path}: {note}" for note in mask.notes]
                if reference is not None:
                    _overlap(mask, reference, loaded)
        except CasewiseError as error:
            loaded.problems.append(str(error))
