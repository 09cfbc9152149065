"""The labels of masks, by one rule for the audit, explanations, training and volumes.

- Grey pictures and volumes: the label is the stored value, of 8 or 16 bits; 0 is not marked. Volumes of fractions are
  no labels, so resampled or soft masks are refused and not cut at a level.
- Palettes: the label is the index; indices whose colour is black or transparent are not marked.
- Transparency: transparent pixels are not marked. If all others have one colour, they are marked, even if it is black.
- Colours, compression with loss and probability maps are refused, because their labels are unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from casewise.errors import ImageError
from casewise.modalities.store.readers import Source, open_source, read_bytes
from casewise.modalities.store.stated_values import PHOTOMETRIC, WHITE_IS_ZERO

# Compression moves black and white by at most this.
_COMPRESSION_RANGE = 48
# Above this number of values, and above this value, pixels between black and the largest value must form areas.
_FEW_LABELS, _SMALL_LABEL = 16, 127
# Above this number of values, areas with neighbouring values that mostly touch are steps of a probability map.
_MANY_LABELS, _STEPS = 32, 0.8
# Numbers this close to an integer are integers that were stored with rounding.
_ROUNDING = 1e-3
_MOST_SHOWN = 8


def read_labels(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The labels of the mask of an image of `size`, its width and height: (H, W) integers, 0 is not marked.

    Raises:
        ImageError: it cannot be read, has another size, or its values are not labels.
    """
    source = open_source(path, read_bytes(path))
    facts = source.facts()
    if (width_height := (facts["width"], facts["height"])) != size:
        both = "{}×{} pixels, its image {}×{}".format(*width_height, *size)
        raise ImageError(f"{path}: this mask has {both}. Name the mask of this image, in its size.")
    labels = _of_source(source)
    if _is_lossy(source) and not set(_levels(labels)) <= {0, 255}:
        raise _no_labels(path, _levels(labels), "as after a compression with loss")
    _check_areas(labels, path)
    return labels


def whole_labels(values: np.ndarray, path: Path) -> np.ndarray:
    """The labels of a volume: its values (X, Y, Z), rounded where they are integers but for the rounding of a file.

    Raises:
        ImageError: some are negative, no numbers, or fractions.

    >>> whole_labels(np.array([[[0.0, 1e-7, 0.9999999, 2.0]]]), Path("a.nii")).tolist()
    [[[0.0, 0.0, 1.0, 2.0]]]
    """
    nonzero = values != 0
    numbers = values[nonzero]
    whole = np.rint(numbers)
    fractions = ~(np.abs(numbers - whole) <= _ROUNDING)
    if fractions.any():
        examples = np.unique(numbers[fractions])
        shown = ", ".join(f"{value:.4g}" for value in examples[:_MOST_SHOWN])
        raise ImageError(
            f"{path}: this mask has values that are not integers ({shown}{', …' * (len(examples) > _MOST_SHOWN)}), as "
            "after resampling, or of a probability map. Resample it with the nearest neighbour, or save what exceeds a "
            "threshold, such as 0.5, as 1."
        )
    labels = values.copy()
    labels[nonzero] = whole
    _check_areas(labels, path)
    return labels


def marked_labels(labels: np.ndarray, wanted: Collection[int] | None) -> np.ndarray:
    """Which pixels or voxels are marked: those with one of the `wanted` labels, or any label other than 0; `bool`.

    >>> marked_labels(np.array([0, 1, 2, 200]), None).tolist(), marked_labels(np.array([0, 1, 2, 200]), [1, 2]).tolist()
    ([False, True, True, True], [False, True, True, False])
    """
    return np.asarray(labels != 0 if wanted is None else np.isin(labels, sorted(wanted)))


def occurring(labels: np.ndarray) -> frozenset[int]:
    """The labels of a mask, without 0."""
    return frozenset(_levels(labels)) - {0}


def check_wanted(wanted: Collection[int] | None, present: Iterable[int], where: str) -> None:
    """Check that every label of `images.mask_labels` is one of the labels `present` in `where`.

    Raises:
        ImageError: lists the labels that occur.
    """
    labels = sorted(set(present))
    if missing := sorted(set(wanted or ()) - set(labels)):
        absent = f"{'label' if len(missing) == 1 else 'labels'} {', '.join(map(str, missing))}"
        there = f"where {_listed(labels)} occur" if labels else "where nothing is marked"
        raise ImageError(f"images.mask_labels: no {absent} in {where}, {there}. Correct `mask_labels`.")


def _is_lossy(source: Source) -> bool:
    """Whether the compression of a format may change values; a WebP without loss has no chunk `VP8 `."""
    if source.reader.name == "WebP":
        source.stream.seek(0)
        return b"VP8 " in source.stream.read()
    return source.reader.name in ("JPEG", "HEIC")


def _of_source(source: Source) -> np.ndarray:
    """The labels of an open picture, before compression and probabilities are excluded."""
    path, values = source.path, source.stored()
    if source.mode in {"P", "PA"}:
        return _of_palette(source, values)
    clear = source.image.info.get("transparency")
    if values.ndim == 2:
        labels = values.astype(np.int64)
        if getattr(source.image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO and labels.all() and np.ptp(labels):
            raise ImageError(f"{path}: this mask states that 0 is white, so no pixel is background. {_SAVE_LABELS}")
        return _not_negative(np.where(labels == clear, 0, labels) if isinstance(clear, int) else labels, path)
    if source.mode in {"CMYK", "YCbCr", "LAB", "HSV"}:
        raise ImageError(f"{path}: this mask has colours ({source.mode}). {_SAVE_LABELS}")
    with_alpha = values.shape[2] in (2, 4)
    if isinstance(clear, tuple):
        values = values * (values != np.asarray(clear)).any(axis=2, keepdims=True)
    colours = (values[..., :-1] if with_alpha else values).astype(np.int64)
    visible = np.ones(colours.shape[:2], bool)
    if with_alpha and np.ptp(alpha := values[..., -1]):
        visible = alpha > 0
        if (partly := np.unique(alpha[visible])).size > 1:
            raise ImageError(
                f"{path}: pixels of this mask are partly transparent (opacity {_listed(partly.tolist())}). "
                f"{_SAVE_LABELS}"
            )
        first = colours[visible][0]
        if (colours[visible] == first).all():
            return np.where(visible, first.max() or np.int64(alpha.max()), 0)
    elif with_alpha and not alpha.any():
        if not np.ptp(colours, axis=(0, 1)).any():
            return np.zeros(visible.shape, np.int64)
        raise ImageError(f"{path}: all pixels of this mask are transparent, but have colours. {_SAVE_LABELS}")
    colours[~visible] = 0
    if np.ptp(colours, axis=2).any():
        kinds = np.unique(colours.reshape(-1, colours.shape[2])[np.ptp(colours, axis=2).ravel() > 0][:100_000], axis=0)
        shown = ", ".join("#" + "".join(f"{int(v):02x}" for v in kind) for kind in kinds[:_MOST_SHOWN])
        more = ", …" if len(kinds) > _MOST_SHOWN else ""
        raise ImageError(f"{path}: this mask has colours ({shown}{more}), whose labels are unknown. {_SAVE_LABELS}")
    return np.asarray(colours[..., 0])


_SAVE_LABELS = "Save it as PNG in black and white, or as labels 1, 2, … in grey."


def _of_palette(source: Source, values: np.ndarray) -> np.ndarray:
    """Indices of a palette; those that are black or transparent become 0."""
    indices = (values[..., 0] if values.ndim == 3 else values).astype(np.int64)
    colours = np.zeros((256, 3), int)
    palette = np.reshape(source.image.getpalette("RGB") or [], (-1, 3))
    colours[: len(palette)] = palette
    clear = source.image.info.get("transparency")
    if isinstance(clear, bytes):
        colours[: len(clear)][np.frombuffer(clear, np.uint8)[: len(colours)] == 0] = 0
    elif isinstance(clear, int):
        colours[clear] = 0
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    black = np.asarray((colours == 0).all(axis=1))
    if black[used].sum() > 1:
        shown = _listed(used[black[used]].tolist())
        raise ImageError(f"{source.path}: indices {shown} of this mask's palette are all black. {_SAVE_LABELS}")
    background = black[indices]
    if values.ndim == 3:
        background |= values[..., 1] == 0
    if not black[0] and (~background & (indices == 0)).any():
        if np.ptp(colours[used], axis=1).any():
            shown = "#" + "".join(f"{v:02x}" for v in colours[0])
            raise ImageError(
                f"{source.path}: index 0 of this mask's palette is {shown}, not black, so the background is unknown. "
                f"{_SAVE_LABELS}"
            )
        # a grey picture with a palette
        return np.where(background, 0, colours[indices, 0])
    grey = colours[used, 0]
    if not np.ptp(colours[used], axis=1).any() and (np.diff(grey) < 0).any():
        raise ImageError(
            f"{source.path}: the greys of this mask's palette are in another order than its indices, so its labels are "
            f"unknown. {_SAVE_LABELS}"
        )
    return np.where(background, 0, indices)


def _not_negative(labels: np.ndarray, path: Path) -> np.ndarray:
    if labels.min() < 0:
        raise ImageError(
            f"{path}: this mask has negative values, such as {int(labels.min())}. Save labels 0, 1, 2, …, where 0 is "
            "not marked."
        )
    return labels


def _levels(labels: np.ndarray) -> list[int]:
    return [int(value) for value in _counted(labels)]


def _counted(labels: np.ndarray) -> np.ndarray:
    """The values that occur, sorted, without sorting large arrays."""
    marked = labels != 0
    values = labels[marked]
    if values.size and values.max() < 2**20:
        values = np.flatnonzero(np.bincount(values.astype(np.int64)))
    values = np.unique(values)
    return values if marked.all() else np.append([0], values)


def _check_areas(labels: np.ndarray, path: Path) -> None:
    """Refuse masks whose values are noise of a compression, soft edges or probabilities, not areas of one label."""
    _not_negative(labels, path)
    levels = _counted(labels)
    largest = levels[-1]
    if len(levels) <= 2 or (len(levels) <= _FEW_LABELS and largest <= _SMALL_LABEL):
        return
    labels = labels[_marked_box(labels)]
    low, high = levels < _COMPRESSION_RANGE, levels > 255 - _COMPRESSION_RANGE
    if largest <= 255 and (low | high).all() and min(low.sum(), high.sum()) > 1:
        raise _no_labels(path, levels.tolist(), "as after a compression with loss")
    between = (labels > 0) & (labels < largest)
    if (between & ~_in_squares(labels) & _beside_larger(labels)).sum() > between.sum() / 2:
        raise _no_labels(path, levels.tolist(), "with soft edges, or as in a probability map")
    if len(levels) > _MANY_LABELS and _is_stepped(labels, levels):
        raise _no_labels(path, levels.tolist(), "as in a probability map")


def _marked_box(labels: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that contains all labels other than 0, with a margin of one pixel."""
    marked, box = labels != 0, []
    for axis in range(labels.ndim):
        others = tuple(other for other in range(labels.ndim) if other != axis)
        positions = np.flatnonzero(marked.any(axis=others))
        box.append(slice(max(0, int(positions[0]) - 1), int(positions[-1]) + 2))
    return tuple(box)


def _in_squares(labels: np.ndarray) -> np.ndarray:
    """Which pixels lie in a square of 2 × 2 pixels of one value."""
    down, across = labels[1:] == labels[:-1], labels[:, 1:] == labels[:, :-1]
    square, inside = down[:, 1:] & down[:, :-1] & across[1:], np.zeros(labels.shape, bool)
    for rows in (slice(1, None), slice(None, -1)):
        for columns in (slice(1, None), slice(None, -1)):
            inside[rows, columns] |= square
    return inside


def _beside_larger(labels: np.ndarray) -> np.ndarray:
    """Which pixels touch a larger value."""
    beside = np.zeros(labels.shape, bool)
    beside[:-1] |= labels[1:] > labels[:-1]
    beside[1:] |= labels[:-1] > labels[1:]
    beside[:, :-1] |= labels[:, 1:] > labels[:, :-1]
    beside[:, 1:] |= labels[:, :-1] > labels[:, 1:]
    return beside


def _is_stepped(labels: np.ndarray, levels: np.ndarray) -> bool:
    """Whether marked neighbours with different values mostly have neighbouring values."""
    ranks = np.searchsorted(levels, labels)
    near = differing = 0
    for first, second in ((ranks[1:], ranks[:-1]), (ranks[:, 1:], ranks[:, :-1])):
        touching = (first > 0) & (second > 0) & (first != second)
        differing += int(touching.sum())
        near += int((touching & (np.abs(first - second) <= 2)).sum())
    return near > _STEPS * max(differing, len(levels))


def _no_labels(path: Path, levels: list[int], kind: str) -> ImageError:
    return ImageError(
        f"{path}: this mask has {len(levels)} values ({_listed(levels)}), {kind}, so its labels are unknown. Save "
        "black and white, or labels 1, 2, …, without loss (PNG, NIfTI); of a probability map what exceeds a threshold."
    )


def _listed(values: Iterable[int]) -> str:
    numbers = [str(int(value)) for value in values]
    return ", ".join(numbers[:_MOST_SHOWN]) + (", …" if len(numbers) > _MOST_SHOWN else "")
