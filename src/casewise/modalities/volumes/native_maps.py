"""Saliency maps of slices, mapped to the scan or the slice images that they come from."""

from __future__ import annotations

from functools import lru_cache

from casewise.modalities.base import NativeMap, PreparedCohort, SlotMaps
from casewise.modalities.inverse_mapping import EMPTY, to_scan
from casewise.modalities.store.readers import read_image
from casewise.modalities.volumes.case_files import source_of
from casewise.modalities.volumes.case_loader import scans_of
from casewise.modalities.volumes.reading.scans import Scan
from casewise.modalities.volumes.slice_store import CaseSources, open_slices


def native_maps(prepared: PreparedCohort, panel: SlotMaps, sequence: str) -> list[NativeMap]:
    """The map of one sequence as a volume in the geometry of its scan or, for slice images, one map for each slice."""
    volumes = prepared.study.volumes
    assert volumes is not None
    number = volumes.sequences.index(sequence)
    sources = source_of(prepared.study, prepared.cohort, panel.row)
    scan = _scans(sources)[number]
    if scan is None:
        return []
    affine = open_slices(prepared.store.folder, prepared.store.address).affines[panel.row]
    values = to_scan(panel.maps, panel.slots, affine, scan.shape, scan.affine)
    if not volumes.slice_index:
        return [NativeMap(sequence, values, affine=scan.affine)]
    results = []
    for position in sorted({int(slot) for slot in panel.slots if slot != EMPTY}):
        path = sources.paths[number][position]
        picture = read_image(path, channels="grey")[..., 0]
        results.append(NativeMap(f"{sequence}-{position + 1:03d}-{path.stem}", values[:, :, position].T, picture))
    return results


@lru_cache(maxsize=1)
def _scans(sources: CaseSources) -> list[Scan | None]:
    """The scans of a case, read once for all its sequences and networks."""
    return scans_of(sources)
