"""Saliency maps as pictures for the page: the original image, and the map over it."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.plugin import Explainer
from casewise.plugins.serve.submission import NEUTRAL, Submission

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casewise.modalities.base import NativeMap

JPEG_QUALITY = 88
# Grey values of a scan between these percentiles are shown from black to white.
WINDOW = (1.0, 99.0)


def map_pictures(explainer: Explainer, shown: Any, submission: Submission) -> list[dict[str, Any]]:
    """A map of `Explainer.explain_new` and its original as data URLs, with the names that the client knows."""
    number = NEUTRAL.search(shown.native.name)
    file = submission.files[int(number[1])] if number else None
    visit = int(shown.case.rpartition(" ")[2])
    picture, values, note = shown.native.picture, shown.native.values, ""
    if picture is None:
        picture, values, note = strongest_slice(shown.native)
    return [
        {
            "visit": visit,
            "file": file.name if file else "",
            "stored": file.stored if file else "",
            "region": file.slot if file else shown.channel,
            "method": shown.method,
            "signed": shown.signed,
            "empty": shown.native.empty,
            "flat": shown.flat,
            "note": note,
            "width": picture.shape[1],
            "height": picture.shape[0],
            "original": data_url(picture),
            "overlay": data_url(explainer.overlay(picture, values, signed=shown.signed)),
        }
    ]


def strongest_slice(native: NativeMap) -> tuple[NDArray[np.uint8], NDArray[np.floating], str]:
    """The axial slice of a scan with the largest influence: its picture, its map, and a note on what it shows.

    The patient's front is up, and the patient's right is on the left, as radiologists view it.
    """
    import nibabel

    assert native.affine is not None
    assert native.voxels is not None
    turn = nibabel.orientations.io_orientation(native.affine)
    values, voxels = (nibabel.orientations.apply_orientation(a, turn) for a in (native.values, native.voxels))
    number = int(np.abs(values).sum(axis=(0, 1)).argmax())
    low, high = np.percentile(voxels, WINDOW)
    grey = np.clip((voxels[:, :, number] - low) / max(float(high - low), 1e-6), 0, 1) * 255
    picture = np.ascontiguousarray(np.rint(grey).astype(np.uint8).T[::-1, ::-1])
    which = f"axial slice {number + 1} of {values.shape[2]}, the one with the largest influence"
    note = f"{which}; the right of the patient is on the left"
    return picture, np.ascontiguousarray(values[:, :, number].T[::-1, ::-1]), note


def data_url(picture: NDArray[np.uint8]) -> str:
    """(h, w) or (h, w, 3) `uint8` as a data URL of a JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
