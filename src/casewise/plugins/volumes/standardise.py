"""Intensity standardisation between patients, so that a grey value has the same meaning in every scan.

Nyúl, Udupa and Zhang, IEEE Trans. Med. Imaging 19, 143-150, 2000, and Nyúl and Udupa, Magn. Reson. Med. 42, 1072-1081,
1999: landmarks of each scan's histogram (percentiles of the body) are mapped to a standard scale, linearly in between.
The standard scale depends on the landmarks of training scans only; the mapping of a scan depends on its own landmarks
and the standard scale. Where every slice is a case, a scan is all slices of a subject: the landmarks of a single slice
would follow the lesion in it, and the mapping would remove the lesion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from casewise.errors import CasewiseError

# Stored values are 0 to 32767.
LEVELS = 32768
# The values of the first and last landmark in 0 to 1. Darker and brighter voxels need a range of their own, because a
# cyst is among the brightest hundredth of a T2 scan.
SCALE = (0.1, 0.8)


@dataclass(frozen=True, eq=False)
class SubjectScans:
    """The slices of each subject as one scan for each sequence.

    Attributes:
        first: (P,) the first case of each case's subject.
        landmarks: (P, S, L) `float32`, of all slices of the case's subject, in levels from 0 to 32767 of the range of
            them all; NaN where none of them shows anything.
        spans: (P, S, 2) `float32`, the levels of the case's stored values 0 and 32767; NaN where it shows nothing.
    """

    first: np.ndarray
    landmarks: np.ndarray
    spans: np.ndarray

    def of(self, cases: np.ndarray) -> SubjectScans:
        """The scans of some cases, numbered from 0."""
        _, first, number = np.unique(self.first[cases], return_index=True, return_inverse=True)
        return replace(self, first=first[number], landmarks=self.landmarks[cases], spans=self.spans[cases])

    def one_case_each(self, cases: np.ndarray) -> np.ndarray:
        """One of these cases of each subject, in their order."""
        return np.asarray(cases)[np.sort(np.unique(self.first[cases], return_index=True)[1])]


def subject_scans(
    subjects: list[str], ranges: np.ndarray, quantiles: np.ndarray, voxels: np.ndarray, percentiles: tuple[float, ...]
) -> SubjectScans:
    """The landmarks of all slices of a subject together, from the histograms of each.

    Args:
        subjects: of each case.
        ranges: (P, S, 2), the intensities that are stored as 0 and 32767.
        quantiles, voxels: (P, S, Q) and (P, S), as in `casewise.plugins.volumes.preprocess.Prepared`.
        percentiles: (L,) of the body.

    >>> ranges, values = np.array([[[0.0, 10.0]], [[10.0, 20.0]]]), np.array([[[2.0, 4.0]], [[16.0, 18.0]]])
    >>> scans = subject_scans(["a", "a"], ranges, values, np.array([[50], [50]]), (0.0, 50.0, 100.0))
    >>> (scans.landmarks[1, 0] / 32767 * 20).round(2).tolist(), (scans.spans[1, 0] / 32767 * 20).round(2).tolist()
    ([2.0, 10.0, 18.0], [10.0, 20.0])
    """
    _, first, number = np.unique(subjects, return_index=True, return_inverse=True)
    landmarks = np.full((*voxels.shape, len(percentiles)), np.nan, dtype=np.float32)
    spans = np.full((*voxels.shape, 2), np.nan, dtype=np.float32)
    for subject in range(len(first)):
        cases = np.flatnonzero(number == subject)
        for sequence in range(voxels.shape[1]):
            shown = cases[voxels[cases, sequence] > 0]
            if not len(shown):
                continue
            low, high = ranges[shown, sequence, 0].min(), ranges[shown, sequence, 1].max()
            values = quantiles[shown, sequence].astype(np.float64)
            weights = np.repeat(voxels[shown, sequence] / values.shape[1], values.shape[1])
            marks = _percentiles(values.ravel(), weights, percentiles)
            landmarks[cases, sequence] = ((marks - low) / (high - low)).clip(0, 1) * (LEVELS - 1)
            spans[shown, sequence] = (ranges[shown, sequence] - low) / (high - low) * (LEVELS - 1)
    return SubjectScans(first[number], landmarks, spans)


def _percentiles(values: np.ndarray, weights: np.ndarray, percentiles: tuple[float, ...]) -> np.ndarray:
    """Percentiles of weighted values, linear between the middles of their weights."""
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    ranks = (np.cumsum(weights) - weights / 2) / weights.sum()
    return np.asarray(np.interp(np.asarray(percentiles) / 100, ranks, values))


def fit(landmarks: np.ndarray) -> np.ndarray:
    """The standard scale of training scans: (L,) `float64` ascending from 0 to 1.

    `landmarks`: (V, L) of one sequence, ascending along L. Each scan's landmarks are scaled to 0 to 1, then averaged.
    Absent scans (NaN) and scans of a single value are left out.

    Raises:
        CasewiseError: no scan is left.

    >>> fit(np.array([[0.0, 2.0, 10.0], [100.0, 140.0, 200.0], [np.nan] * 3])).round(3).tolist()
    [0.0, 0.3, 1.0]
    """
    marks = np.asarray(landmarks, dtype=np.float64)
    marks = marks[np.isfinite(marks).all(axis=1)]
    marks = marks[marks[:, -1] > marks[:, 0]]
    if not len(marks):
        raise CasewiseError(
            "Intensities cannot be standardised: no training scan of this sequence exists and shows anything."
        )
    low, high = marks[:, :1], marks[:, -1:]
    return np.asarray(((np.maximum.accumulate(marks, axis=1) - low) / (high - low)).clip(0, 1).mean(axis=0))


def tables(landmarks: np.ndarray, standard: np.ndarray, spans: np.ndarray | None = None) -> np.ndarray:
    """Each scan's mapping as a table from stored value to 0 to 1: (V, 32768) `float32`, never falling.

    It is linear between landmarks. Beyond the first and last it continues with the slope of the nearest piece, or less,
    so that the ends of the scan's range stay within 0 and 1 and nothing is clipped. The ends of the standard scale are
    mapped to `SCALE`. Equal landmarks get the mean of their targets; a scan whose landmarks are all equal is only
    scaled, as without standardisation; an absent scan (NaN) is 0.

    Args:
        spans: (V, 2), if landmarks are in levels of several slices together: the levels of each one's stored values 0
            and 32767 (see `SubjectScans`).

    >>> table = tables(np.array([[1000.0, 2000.0, 3000.0]]), np.array([0.0, 0.5, 1.0]))
    >>> [round(float(table[0, stored]), 3) for stored in (0, 1000, 2000, 3000, 32767)]
    [0.0, 0.1, 0.45, 0.8, 1.0]
    """
    marks = np.asarray(landmarks, dtype=np.float64)
    targets = SCALE[0] + (SCALE[1] - SCALE[0]) * np.asarray(standard, dtype=np.float64)
    levels = np.arange(LEVELS, dtype=np.float64)
    out = np.zeros((len(marks), LEVELS), dtype=np.float32)
    for number, marks_of_row in enumerate(marks):
        if not np.isfinite(marks_of_row).all():
            continue
        mapped = _mapped(levels, marks_of_row, targets)
        if spans is None:
            out[number] = mapped
        elif np.isfinite(spans[number]).all():
            low, high = spans[number]
            out[number] = np.interp(np.linspace(low, high, LEVELS), levels, mapped)
    return out


def _mapped(levels: np.ndarray, landmarks: np.ndarray, targets: np.ndarray) -> np.ndarray:
    # Landmarks closer than a millionth of a level count as equal.
    levels_unique, level_of_landmark = np.unique(np.maximum.accumulate(landmarks).round(6), return_inverse=True)
    if len(levels_unique) < 2:
        return levels / (LEVELS - 1)
    values = np.bincount(level_of_landmark, weights=targets) / np.bincount(level_of_landmark)
    mapped = np.interp(levels, levels_unique, values)
    for near, end, last, limit in ((1, 0, 0, 0.0), (-2, -1, LEVELS - 1, 1.0)):
        slope = (values[end] - values[near]) / (levels_unique[end] - levels_unique[near])
        beyond = (levels - levels_unique[end]) * np.sign(last - levels_unique[end]) > 0
        if beyond.any():
            # Cysts lie in this range, which is compressed and never clipped.
            slope = min(slope, (limit - values[end]) / (last - levels_unique[end]))
            mapped[beyond] = values[end] + slope * (levels[beyond] - levels_unique[end])
    # Rounding may decrease a value in its last digit.
    return np.asarray(np.maximum.accumulate(mapped.clip(0, 1)))


def plain_tables(count: int) -> np.ndarray:
    """Tables of scans that are not standardised: stored values over 32767; (V, 32768) `float32`.

    >>> plain_tables(2)[1, [0, 32767]].tolist()
    [0.0, 1.0]
    """
    return np.tile(np.arange(LEVELS, dtype=np.float32) / (LEVELS - 1), (count, 1))
