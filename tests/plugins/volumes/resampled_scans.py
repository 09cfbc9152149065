"""Scans on another grid, for the tests of resampling."""

import dataclasses

from casewise.plugins.volumes.grid import Grid, check_shown, covered, plane_grid, resampled
from casewise.plugins.volumes.reading.scans import Scan


def in_plane(scan: Scan, size: int = 256) -> Scan:
    """A RAS scan with its axial slices resized to `size`×`size`; what lies outside its field is its least value."""
    grid = plane_grid(scan, size)
    values = resampled(scan.values, scan.affine, grid, fill=float(scan.values.min()))
    return dataclasses.replace(scan, values=values, affine=grid.affine)


def onto(scan: Scan, reference: Scan) -> Scan:
    """The scan on the reference's grid, linear between voxels; what it does not show is its least value.

    The fact `covered` is the share of the reference that it shows; below a quarter a note says so.

    Raises:
        ImageError: it shows nothing of the reference.
    """
    grid = Grid(reference.shape, reference.affine)
    share = float(covered(scan.shape, scan.affine, grid).mean())
    notes = (*scan.notes, *check_shown(share, scan, reference))
    values = resampled(scan.values, scan.affine, grid, fill=float(scan.values.min()))
    facts = {**scan.facts, "covered": share}
    return dataclasses.replace(scan, values=values, affine=reference.affine, facts=facts, notes=notes)
