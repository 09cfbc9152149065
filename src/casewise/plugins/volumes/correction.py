"""Correction of a magnetic resonance scan: the bias field within the body, and edge-preserving smoothing.

N4 (Tustison et al., IEEE Trans. Med. Imaging 29, 1310-1320, 2010) is that of SimpleITK. The bias field is smooth, so it
is fitted on a shrunk grid and then evaluated on the full one.

The published preparation names an "edge-preserving Gaussian smoothing" (004_c22792b4e9a56ae8.txt, IV.A). Gaussian
smoothing is diffusion; diffusion whose conductance falls where the gradient is steep preserves edges (Perona and Malik,
IEEE Trans. PAMI 12, 629-639, 1990). Its curvature form (Whitaker and Xue, ICIP 2001) never sharpens an edge and
therefore adds no contrast. A bilateral filter is the other reading; in three dimensions it takes several times as long,
and its width in grey values differs in meaning between scans, whereas conductance is relative to the mean gradient of
the scan itself.
"""

from __future__ import annotations

import numpy as np

# The field is fitted on a grid so many times coarser.
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


def shrink_factors(shape: tuple[int, ...], shrink: int) -> list[int]:
    """The factor by which each axis is shrunk: `shrink`, or less if too few voxels would be left.

    >>> shrink_factors((256, 256, 40), 4), shrink_factors((256, 256, 20), 4), shrink_factors((256, 256, 9), 4)
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
    factors = shrink_factors(values.shape, shrink)[::-1]
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

    A scan with negative values is raised to 0 first, because the field multiplies the signal.
    """
    raised = values - min(0.0, float(values.min()))
    return np.asarray(raised * np.exp(-log_field(raised, spacing, mask, shrink=shrink)), dtype=np.float32)


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
