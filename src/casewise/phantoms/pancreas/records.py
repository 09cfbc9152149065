"""What a pancreas phantom's folder holds: marked NIfTI volumes, its notes, and the table of its scans."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from casewise.errors import CasewiseError, nearest
from casewise.files import write_json
from casewise.phantoms.chest.records import write_rows
from casewise.phantoms.folders import check_classes, check_least, claim
from casewise.phantoms.pancreas.lesions import GRADES, Lesion
from casewise.phantoms.psoriasis.records import MARK, Labels
from casewise.phantoms.saving import save

KIND = "pancreas"
TABLE = "cohort.csv"
SMALLEST, LARGEST = 32, 512
# With fewer slices the pancreas would not be within them; more than so many no abdomen has.
FEWEST, MOST = 9, 200
COLUMNS = (
    "path",
    "subject",
    "visit",
    "sequence",
    "mask",
    "lesion",
    "grade",
    "site",
    "scanner",
    "sex",
    "age",
    "synthetic",
)
README = f"""Synthetic phantom cohort: {MARK}.

Every volume in this folder was drawn by casewise from random numbers. No person was scanned, and nothing here may be
used to judge how well a model does on patients.

{TABLE}    one row a scan: T1 or T2 of a subject
phantom.json  the settings, the seed, and the truth: cysts and duct of every subject, and how each scan was taken
images/       <subject>/<sequence>.nii.gz, each marked as synthetic in its header
masks/        <subject>/pancreas.nii.gz and lesion.nii.gz, 1 where they are, on the grid of T1 (of T2 where T1 lacks)
"""


@dataclass(frozen=True)
class PancreasSettings:
    """What decides every byte of the cohort. `size` in pixels, `slices` the least and the most."""

    subjects: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    slices: tuple[int, int]
    seed: int
    labels: Labels
    missing: float
    lesion: Lesion


def check(settings: PancreasSettings) -> None:
    """Refuse settings that nothing can be drawn with.

    Raises:
        CasewiseError: a setting is out of range, or the package that writes volumes is not installed.
    """
    check_least([("subjects", settings.subjects, 1), ("seed", settings.seed, 0)])
    check_classes(settings.classes, GRADES)
    if not all(SMALLEST <= side <= LARGEST for side in settings.size):
        found = f"{settings.size[0]}x{settings.size[1]}"
        raise CasewiseError(f"The phantom's size must be {SMALLEST} to {LARGEST} pixels a side; found {found}.")
    least, most = settings.slices
    if not FEWEST <= least <= most <= MOST:
        raise CasewiseError(
            f"The phantom's slices must be the least and the most, {FEWEST} to {MOST}; found {least} and {most}."
        )
    if not 0 <= settings.missing <= 1:
        raise CasewiseError(f"The phantom's missing must be a share from 0 to 1; found {settings.missing}.")
    for name, word, allowed in (
        ("labels", settings.labels, get_args(Labels)),
        ("lesion", settings.lesion, get_args(Lesion)),
    ):
        if word not in allowed:
            raise CasewiseError(
                f"The phantom's {name} must be one of {', '.join(allowed)}; found {word!r}.{nearest(word, allowed)}"
            )
    if settings.labels == "shuffled" and settings.subjects < 2:
        raise CasewiseError("Labels can be shuffled between two or more subjects; the phantom has 1.")
    nibabel()


def nibabel() -> Any:
    """Return the package that writes NIfTI.

    Raises:
        CasewiseError: it is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise CasewiseError(
            f"Volumes need an optional part of casewise: pip install 'casewise[volumes]' ({error})."
        ) from None
    return nibabel


def claim_folder(folder: Path, settings: PancreasSettings) -> None:
    """Write the folder's marks first, so that even half a phantom says what it is; refuse what is not one.

    Raises:
        CasewiseError: the folder is a file, or holds something that is not a pancreas phantom.
    """
    claim(folder, _note(settings, complete=False), README)
    # An older table must not describe volumes that are being replaced.
    (folder / TABLE).unlink(missing_ok=True)


def write_cohort(
    folder: Path, settings: PancreasSettings, rows: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]]
) -> Path:
    """Write the truth into `phantom.json` and the scans into `cohort.csv`; return the latter."""
    write_json(folder / "phantom.json", _note(settings, complete=True) | {"scans": len(rows), "subjects": list(truth)})
    return write_rows(folder / TABLE, COLUMNS, rows)


def write_volume(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64], codes: str) -> None:
    """Write a volume, (X, Y, Z) in the order of `affine`, as .nii.gz whose axes lie as `codes` say.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    nib = nibabel()
    image = nib.Nifti1Image(voxels.astype(np.uint8) if voxels.dtype == bool else voxels, affine)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    image = image.as_reoriented(turn)
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = MARK.encode()
    # Without the hour, so that the same volume is the same file.
    save(path, gzip.compress(image.to_bytes(), 4, mtime=0))


def _note(settings: PancreasSettings, *, complete: bool) -> dict[str, Any]:
    marks = {"synthetic": True, "kind": KIND, "mark": MARK}
    return marks | {"settings": asdict(settings), "seed": settings.seed, "complete": complete}
