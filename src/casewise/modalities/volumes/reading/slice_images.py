"""Slices that are images of their own, put on each other as one scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from casewise.errors import ImageError
from casewise.modalities.volumes.reading.scans import Scan, unread


def stacked(paths: Sequence[Path], spacing: tuple[float, float], *, voxels: bool = True) -> Scan:
    """Axial slice images from the feet to the head as one scan, grey; rows from front to back, columns from the
    patient's right to the left, as radiologists look at them.

    `spacing`: mm between pixels, and between slices. Without `voxels` only their sizes are read, all values being 0.

    Raises:
        ImageError: one cannot be read, or is of another size than the first.
    """
    from casewise.modalities.store.readers import image_facts, read_image

    planes: list[np.ndarray] = []
    for path in paths:
        if voxels:
            plane = read_image(path, channels="grey")[..., 0]
        else:
            facts = image_facts(path)
            plane = np.broadcast_to(np.uint8(0), (facts["height"], facts["width"]))
        if planes and plane.shape != planes[0].shape:
            raise ImageError(
                f"{path}: this slice is {plane.shape[1]}×{plane.shape[0]} pixels, the first ({paths[0].name}) is "
                f"{planes[0].shape[1]}×{planes[0].shape[0]}. Slices of one scan have one size."
            )
        planes.append(plane)
    if voxels:
        values = np.ascontiguousarray(np.stack(planes, axis=-1).transpose(1, 0, 2).astype(np.float32))
    else:
        values = unread((planes[0].shape[1], planes[0].shape[0], len(planes)))
    affine = np.diag([-spacing[0], -spacing[0], spacing[1], 1.0])
    return Scan(values, affine, Path(paths[0]), {"format": "slice images"})
