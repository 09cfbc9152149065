"""The slices of one case from its scans: reoriented, resampled, bias-corrected, smoothed and cut to a region.

N4 (Tustison et al., IEEE Trans. Med. Imaging 29, 1310-1320, 2010) is SimpleITK's. The bias field is smooth, so it
is fitted on a shrunk grid and then evaluated on the full one.

The published preparation names an "edge-preserving Gaussian smoothing" (preset `ipmn-mri`, IV.A). Gaussian
smoothing is diffusion; diffusion whose conductance falls where the gradient is steep preserves edges (Perona and Malik,
IEEE Trans. PAMI 12, 629-639, 1990). Its curvature form (Whitaker and Xue, ICIP 2001) never sharpens an edge and
therefore adds no contrast. A bilateral filter is the other reading; in three dimensions it takes several times as long,
and its width in grey values differs in meaning between scans, whereas conductance is relative to the mean gradient of
the scan itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from casewise.errors import CohortError, ImageError
from casewise.files import json_hash
from casewise.plugins.volumes import grid as regions
from casewise.plugins.volumes.grid import Grid, Region, check_shown, covered, plane_grid, resampled, to_ras
from casewise.plugins.volumes.reading.scans import Scan
from casewise.plugins.volumes.standardise import LEVELS

# The field is fitted on a grid this many times coarser.
SHRINK = 4
# The smallest number of voxels along each axis for the fit, if there are as many.
FEWEST = 8
# Percentiles; beyond are the few voxels of a vessel or of an artefact, which would distort a threshold.
ROBUST = (0.1, 99.9)


def body(values: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Separate the body from air by Otsu's threshold (IEEE Trans. SMC 9, 62-66, 1979) of the voxels `inside`.

    Returns:
        The voxels above the threshold; and the same with holes in each slice (axis 2) filled, because a duct or a
        ventricle may be as dark as air. Both `bool`, of the shape of `values`; both empty if all voxels are equal.
    """
    import cv2
    from scipy import ndimage

    low, high = np.percentile(values[inside], ROBUST) if inside.any() else (0.0, 0.0)
    if inside.any() and not high > low:
        # A small bright field in a large empty one, smaller than the share beyond the percentiles.
        low, high = values[inside].min(), values[inside].max()
    if not high > low:
        empty = np.zeros(values.shape, dtype=bool)
        return empty, empty
    grey = (np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(grey[inside].reshape(1, -1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    bright = (grey > threshold) & inside
    filled = np.stack([ndimage.binary_fill_holes(bright[..., n]) for n in range(bright.shape[2])], axis=2)
    return bright, filled & inside


def _shrink_factors(shape: tuple[int, ...], shrink: int) -> list[int]:
    """The factor by which each axis is shrunk: `shrink`, or less if too few voxels would be left.

    >>> _shrink_factors((256, 256, 40), 4), _shrink_factors((256, 256, 20), 4), _shrink_factors((256, 256, 9), 4)
    ([4, 4, 4], [4, 4, 2], [4, 4, 1])
    """
    return [max(1, min(shrink, count // FEWEST)) for count in shape]


def log_field(values: np.ndarray, spacing: np.ndarray, mask: np.ndarray, *, shrink: int = SHRINK) -> np.ndarray:
    """The natural logarithm of the bias field by N4, on the full grid; its mean over the mask is 0.

    (X, Y, Z) `float32` of values of at least 0, spacing in mm, and a `bool` mask that is not empty. One thread is used:
    cases are prepared in parallel, and one thread gives the same values on every machine.
    """
    import SimpleITK as sitk  # noqa: N813

    if values.shape[2] == 1:
        # A spline needs two points along every axis.
        twice = log_field(values.repeat(2, axis=2), spacing, mask.repeat(2, axis=2), shrink=shrink)
        return np.ascontiguousarray(twice[..., :1])
    # SimpleITK reverses the order of axes, which does not matter to the field if the spacing is reversed as well.
    image, body_image = sitk.GetImageFromArray(values), sitk.GetImageFromArray(mask.astype(np.uint8))
    for sitk_image in (image, body_image):
        sitk_image.SetSpacing([float(gap) for gap in spacing[::-1]])
    factors = _shrink_factors(values.shape, shrink)[::-1]
    # Evaluating the field has no thread setting of its own, only the global one.
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetNumberOfThreads(1)
        small = sitk.Shrink(body_image, factors)
        if not sitk.GetArrayViewFromImage(small).any():
            # The body is smaller than a step of the shrunk grid.
            factors, small = [1, 1, 1], body_image
        n4.Execute(sitk.Shrink(image, factors), small)
        field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return np.asarray(field - field[mask].mean(), dtype=np.float32)


def corrected(values: np.ndarray, spacing: np.ndarray, mask: np.ndarray, *, shrink: int = SHRINK) -> np.ndarray:
    """Divide a scan by its bias field; (X, Y, Z) `float32`, on the scale of the scan.

    A scan with negative values is raised to 0 before and lowered again after, because the field multiplies the signal.
    """
    low = min(0.0, float(values.min()))
    raised = values - low
    return np.asarray(raised * np.exp(-log_field(raised, spacing, mask, shrink=shrink)) + low, dtype=np.float32)


# The values of ITK. Five steps of a sixteenth are a Gaussian of sqrt(2 * 5 / 16) = 0.8 pixels in homogeneous tissue.
ITERATIONS, CONDUCTANCE, STEP = 5, 3.0, 0.0625


def smoothed(values: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Smooth (X, Y, Z) `float32` but not across edges; `spacing` in mm.

    Noise varies by pixel, so lengths are measured in pixels of the plane; distant slices are mixed less. One thread is
    used, because cases are prepared in parallel.
    """
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(values)
    relative = spacing / spacing[:2].min()
    image.SetSpacing([float(gap) for gap in relative[::-1]])
    diffusion = sitk.CurvatureAnisotropicDiffusionImageFilter()
    diffusion.SetNumberOfThreads(1)
    diffusion.SetNumberOfIterations(ITERATIONS)
    diffusion.SetConductanceParameter(CONDUCTANCE)
    # In three dimensions the solution is stable up to a sixteenth of the smallest distance.
    diffusion.SetTimeStep(STEP * min(1.0, float(relative.min())))
    return np.asarray(sitk.GetArrayFromImage(diffusion.Execute(image)))


# Increased whenever a change of these rules changes prepared slices: older stores are then prepared again.
STEP_RULES = 2
# Percentiles of the body by Nyúl, Udupa and Zhang (2000).
DECILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
# Percentiles between which a scan is stored; few voxels lie beyond.
DARKEST, BRIGHTEST = 0.1, 99.9
# The smallest range relative to the largest value; a smaller one is rounding error.
FLAT = 1e-6
# The number of values that describe the histogram of a body.
QUANTILES = 1000
THICK = 2.0


@dataclass(frozen=True)
class Steps:
    """The settings that determine prepared slices, as the study states and checks them.

    `in_plane_size`: axial slices are first resized to this number of pixels a side. `bias`: N4 or none. `smoothing`:
    edge-preserving or none. `roi`: the region around a mask with `margin` mm, the central `size` pixels
    (`centre`) or the whole plane (`none`); the region is resized to `size`×`size`.
    """

    in_plane_size: int = 256
    bias: str = "n4"
    smoothing: str = "edge_preserving"
    roi: str = "none"
    margin: float = 10.0
    size: int = 64

    def fingerprint(self) -> str:
        """A hash of these settings and the version of the rules."""
        return json_hash([asdict(self), STEP_RULES])


@dataclass(frozen=True, eq=False)
class Prepared:
    """The slices of one case.

    Attributes:
        slices: (N, S, H, W) `uint16`, 0 to 32767; one row for each slice position, from the feet to the head; rows from
            front to back, columns from the patient's right to the left. An absent sequence is 0.
        present: (S,) `bool`.
        affine: (4, 4) `float64`, from (row, column, slice) to RAS mm; with the inverse of a scan's own affine, to its
            voxels.
        ranges: (S, 2) `float32`, the intensities (after bias correction, on the scan's scale) that are stored as 0
            and 32767; NaN if absent.
        landmarks: (S, L) `float32` in stored units; NaN if a sequence is absent or
            shows nothing.
        quantiles: (S, Q) `float32`, values of the body that stand for equal parts of its voxels, in the units of
            `ranges`; NaN where landmarks are. With them the percentiles of several slices together are computed.
        voxels: (S,) `int64`, the number of voxels of the body.
        notes: sentences on anything unusual.
    """

    slices: np.ndarray
    present: np.ndarray
    affine: np.ndarray
    ranges: np.ndarray
    landmarks: np.ndarray
    quantiles: np.ndarray
    voxels: np.ndarray
    notes: tuple[str, ...] = ()


def prepare_case(scans: Sequence[Scan | None], steps: Steps, *, mask: Scan | None = None) -> Prepared:
    """Prepare the scans of one case, in the order of the study's sequences; None for an absent one.

    The first present scan determines the grid: its axial field as a square of `steps.in_plane_size` pixels and its own
    slices. The others are resampled to it by their affines in one interpolation. SimpleITK uses one thread, because
    cases are prepared in parallel.

    Raises:
        CohortError: there is no scan.
        ImageError: two scans do not overlap, or the region lies outside the reference.
    """
    present_scans = [scan for scan in scans if scan is not None]
    if not present_scans:
        raise CohortError("A case without any scan cannot be prepared.")
    reference = present_scans[0]
    grid = plane_grid(to_ras(reference), steps.in_plane_size)
    region = _region(reference, grid, steps, mask)
    affine = regions.slice_affine(region, grid, steps.size)
    shape = (region.end - region.first, len(scans), steps.size, steps.size)
    slices = np.zeros(shape, dtype=np.uint16)
    ranges = np.full((len(scans), 2), np.nan, dtype=np.float32)
    landmarks = np.full((len(scans), len(DECILES)), np.nan, dtype=np.float32)
    quantiles = np.full((len(scans), QUANTILES), np.nan, dtype=np.float32)
    voxels = np.zeros(len(scans), dtype=np.int64)
    notes = [*(f"{reference.path}: {note}" for note in region.notes), *_thick(reference)]
    field = covered(reference.shape, reference.affine, grid)
    for n, scan in enumerate(scans):
        if scan is None:
            continue
        resampled_scan = _prepare_scan(scan, reference, grid, field, steps)
        notes += resampled_scan.notes
        ranges[n] = resampled_scan.range
        if not resampled_scan.flat:
            landmarks[n] = resampled_scan.landmarks
            quantiles[n], voxels[n] = resampled_scan.quantiles, resampled_scan.voxels
            slices[:, n] = _region_slices(resampled_scan, grid, affine, shape)
            if not slices[:, n].any():
                notes.append(f"{scan.path}: does not cover the region of interest; all its pixels are stored as 0")
    present = np.array([scan is not None for scan in scans])
    return Prepared(slices, present, affine, ranges, landmarks, quantiles, voxels, tuple(notes))


@dataclass(frozen=True, eq=False)
class _ResampledScan:
    """A corrected scan on the plane grid: values, the voxels that it shows, and the range that is stored."""

    values: np.ndarray
    shown: np.ndarray
    range: tuple[float, float]
    landmarks: np.ndarray
    quantiles: np.ndarray
    voxels: int
    notes: tuple[str, ...] = ()
    flat: bool = False


def _prepare_scan(scan: Scan, reference: Scan, grid: Grid, field: np.ndarray, steps: Steps) -> _ResampledScan:
    """Resample a scan to the grid, correct and smooth it, and compute its range and landmarks."""
    shown = field if scan is reference else field & covered(scan.shape, scan.affine, grid)
    if not field.any():
        wide, high = scan.shape[:2]
        raise ImageError(f"{reference.path}: {wide} x {high} voxels in plane are too few to prepare. Leave it out.")
    share = float(shown.sum() / field.sum())
    notes = tuple(check_shown(share, scan, reference))
    straight = to_ras(scan)
    values = resampled(straight.values, straight.affine, grid, fill=float(scan.values.min()))
    bright, filled = body(values, shown)
    none = np.empty(0)
    nothing = (*notes, f"{scan.path}: hardly two voxels differ; it shows nothing and is stored as 0")
    blank = _ResampledScan(values, shown, (float(values.min()),) * 2, none, none, 0, nothing, flat=True)
    if not bright.any():
        return blank
    spacing = np.sqrt((grid.affine[:3, :3] ** 2).sum(axis=0))
    if steps.bias == "n4":
        values = corrected(values, spacing, bright)
    if steps.smoothing == "edge_preserving":
        values = smoothed(values, spacing)
    # The lower end is a percentile of the field of view, which depends on no threshold, so nothing dark is clipped.
    low = float(np.percentile(values[shown], DARKEST))
    *marks, high = np.percentile(values[filled], [*DECILES, BRIGHTEST])
    quantiles = np.percentile(values[filled], (np.arange(QUANTILES) + 0.5) / QUANTILES * 100)
    if high - low <= FLAT * max(abs(high), abs(low)):
        return blank
    stored = ((np.array(marks) - low) / (high - low)).clip(0, 1) * (LEVELS - 1)
    return _ResampledScan(values, shown, (low, float(high)), stored, quantiles, int(filled.sum()), notes)


def _region_slices(
    resampled_scan: _ResampledScan, grid: Grid, affine: np.ndarray, shape: tuple[int, int, int, int]
) -> np.ndarray:
    """The region's slices (N, H, W) `uint16`."""
    low, high = resampled_scan.range
    values = np.where(resampled_scan.shown, resampled_scan.values, np.float32(low))
    region_values = resampled(values, grid.affine, Grid((shape[2], shape[3], shape[0]), affine), fill=low)
    scaled = ((region_values - low) / (high - low)).clip(0, 1) * (LEVELS - 1)
    return np.asarray(np.moveaxis(np.rint(scaled).astype(np.uint16), 2, 0))


def _region(reference: Scan, grid: Grid, steps: Steps, mask: Scan | None) -> Region:
    """The region of interest that the study states."""
    if steps.roi == "none":
        return regions.whole(grid)
    if steps.roi == "centre":
        return regions.central(grid, steps.size)
    assert mask is not None, reference.path
    return regions.region_of_mask(mask, reference, grid, steps.margin)


def _thick(scan: Scan) -> list[str]:
    """A note if the axial plane is interpolated between thick slices."""
    upright = to_ras(scan)
    x, y, z = upright.spacing
    if max(x, y) < THICK * min(x, y):
        return []
    return [
        f"{scan.path}: was not acquired in axial slices (voxels of {x:.2g} x {y:.2g} x {z:.2g} mm); its axial plane is "
        "interpolated between thick ones"
    ]
