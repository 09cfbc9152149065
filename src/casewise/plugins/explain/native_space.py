"""Writes maps in the space of the original photographs, slides and scans."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from casewise.errors import CasewiseError
from casewise.files import write_atomic
from casewise.modalities.base import NativeMap, PreparedCohort, SlotMaps
from casewise.modalities.registry import modality_of
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.explain.overlays import MEANING, SIGNED_MEANING, save_overlay
from casewise.plugins.explain.saliency import SaliencyMap


def file_name(text: str) -> str:
    """A case, network or sequence as a file name.

    >>> file_name("P01/week 4"), file_name("vit@early")
    ('P01_week-4', 'vit@early')
    """
    return re.sub(r"[^\w@.+-]+", "-", text.replace("/", "_")).strip("-.") or "unnamed"


def write_native(
    run: FinishedRun, maps: Sequence[SaliencyMap], channels: tuple[str, ...], folder: Path
) -> dict[str, dict[Path, bool]]:
    """Write the maps of one network of one case into `folder`; by channel the files, and whether each is empty."""
    files: dict[str, dict[Path, bool]] = {}
    signed = any(saliency.signed for saliency in maps)
    for channel, natives in native_maps(run.prepared, maps, channels).items():
        files[channel] = {}
        for native in natives:
            name = file_name(native.name)
            if native.picture is not None:
                path = save_overlay(folder / f"{name}.png", native.picture, native.values, signed=signed)
            elif native.affine is not None:
                path = save_scan(folder / f"{name}.nii.gz", native.values, native.affine, signed=signed)
            files[channel][path] = native.empty
    return files


def native_maps(
    prepared: PreparedCohort, maps: Sequence[SaliencyMap], channels: tuple[str, ...], *, side: int | None = None
) -> dict[str, list[NativeMap]]:
    """The maps of one network of one case in the space of its original images, by channel; missing channels are absent.

    Args:
        side: of photographs and slides, the longest side of the pictures in pixels; by default that of the originals.
    """
    modality, by_channel = modality_of(prepared.study), {}
    for number, channel in enumerate(channels):
        if all(np.isnan(saliency.by_sequence[:, number]).all() for saliency in maps):
            continue
        slot_maps = [
            SlotMaps(
                saliency.row,
                np.concatenate(
                    to_slots(saliency.by_sequence[:, number], rows=saliency.grid[0], columns=saliency.grid[1])
                ),
                saliency.slots.reshape(-1),
            )
            for saliency in maps
        ]
        by_channel[channel] = modality.to_native(prepared, slot_maps, channel, side=side)
    return by_channel


def to_slots(maps: np.ndarray, *, rows: int, columns: int) -> np.ndarray:
    """Cut panels into their slots, row by row: (B, rows·h, columns·w) → (B, S, h, w).

    Raises:
        CasewiseError: the map cannot be divided into these rows and columns.

    >>> to_slots(np.arange(4).reshape(1, 2, 2), rows=2, columns=2)[0, :, 0, 0].tolist()
    [0, 1, 2, 3]
    """
    count, height, width = maps.shape
    if height % rows or width % columns:
        raise CasewiseError(
            f"explain: a map of {height} x {width} pixels cannot be divided into {rows} x {columns} tiles."
        )
    tiles = maps.reshape(count, rows, height // rows, columns, width // columns)
    return np.ascontiguousarray(tiles.transpose(0, 1, 3, 2, 4)).reshape(
        count, rows * columns, height // rows, width // columns
    )


def save_scan(path: Path, values: np.ndarray, affine: np.ndarray, *, signed: bool = False) -> Path:
    """Write a map (X, Y, Z) as NIfTI in the geometry of its scan, atomically; equal maps give equal bytes.

    Args:
        path: ending in .nii or .nii.gz.
        affine: (4, 4) from voxels to mm (RAS), that of the scan.

    Raises:
        CasewiseError: the path has another suffix, or the map is not a volume.
    """
    import nibabel

    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise CasewiseError(f"{path}: the name of a volume must end in .nii or .nii.gz.")
    if values.ndim != 3 or not np.isfinite(values).all():
        raise CasewiseError(f"{path}: a map must be a volume (X, Y, Z) of finite numbers, not {values.shape}.")
    image = nibabel.Nifti1Image(np.asarray(values, dtype=np.float32), np.asarray(affine, dtype=float))
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = (SIGNED_MEANING if signed else MEANING).encode()
    content = image.to_bytes()
    return write_atomic(path, gzip.compress(content, 6, mtime=0) if path.suffix.lower() == ".gz" else content)
