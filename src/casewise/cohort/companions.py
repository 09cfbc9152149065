"""Files that belong to an image and are not images of a case: masks, annotations, overlays and thumbnails.

A companion has a partner, the image that it belongs to, and is recognised in two ways:

- Its name is the name of the image and a word such as `mask` (`1_mask.png`, `masks/1.png`, `mask_1.png`). Words that
  may also describe what a photograph shows, such as `mask`, count only if the pixels agree.
- Its pixels: a second file of the same name, or of the name with an addition, has few values, or is the same picture
  with drawings or smaller.

Without a partner a file is an image, whatever its name, but for folders of masks next to folders of images.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from casewise.cohort.table import natural
from casewise.errors import counted
from casewise.names import one_form

Pixels: TypeAlias = NDArray[np.integer]
Words: TypeAlias = tuple[str, ...]
Reader: TypeAlias = "Callable[[str], _Picture | None]"

MASK, ANNOTATION, OVERLAY, THUMBNAIL = KINDS = ("mask", "annotation", "overlay", "thumbnail")
_BY_KIND = {
    MASK: "mask masks msk seg segs segm segmentation segmentations gt groundtruth groundtruths truth truths label "
    "labels labelmap labelmaps roi rois lesion lesions outline outlines",
    ANNOTATION: "annotation annotations annot superpixel superpixels contour contours bbox bboxes",
    OVERLAY: "overlay overlays annotated marked heatmap heatmaps gradcam saliency cam attention drawing drawings",
    THUMBNAIL: "thumb thumbs thumbnail thumbnails small preview previews icon icons tn lowres",
}
_KIND_OF = {word: kind for kind, words in _BY_KIND.items() for word in words.split()}
# In headings of tables, labels and truths are classes.
_IN_HEADINGS = {word for word in _BY_KIND[MASK].split() if word not in ("label", "labels", "truth", "truths")}
_LONGER = tuple(word for word in _IN_HEADINGS if len(word) >= 4)
# Words that no photograph is named by because of what it shows.
_CLEAR_TEXT = (
    "segmentation segmentations groundtruth groundtruths labelmap labelmaps annotation annotations superpixel "
    "superpixels contour contours overlay overlays annotated heatmap heatmaps gradcam saliency thumbnail thumbnails"
)
_CLEAR = frozenset(_CLEAR_TEXT.split())
# Words that name a file rather than what a photograph shows, for files that Pillow cannot read.
_OF_FILES = frozenset(("mask", "masks", "msk", "seg", "segs", "segm", "gt"))
# Words of the images themselves, which say nothing.
_NEUTRAL_TEXT = (
    "image images img imgs photo photos picture pictures original originals orig input inputs raw source sources "
    "volume volumes scan scans dermoscopic ground x y tr ts png jpg jpeg tif"
)
_NEUTRAL = frozenset(_NEUTRAL_TEXT.split())
_GLUED = re.compile(rf"(?<=\d)(?=(?:{'|'.join(sorted(_KIND_OF, key=len, reverse=True))})(?:[\W_]|\d*$))")
_VOLUMES = (".nii", ".nii.gz", ".mha", ".nrrd")

# Rows and columns are passed over so that about this many remain of each side.
_SIDE = 512
# A mask has at most this many values; one without a word in its name fewer, and its image many.
_MOST_LEVELS, _FEW_LEVELS, _MANY_LEVELS = 16, 8, 32
# All pictures of a folder that is not named for masks have at most this many.
_TWO_LEVELS = 2
# Compression and smooth borders leave this share of a mask near black and white.
_NEAR, _NEAR_SHARE = 24, 0.95
# The same picture: this correlation of reduced pictures, or this share of pixels other than background that are equal
# up to a compression, or exactly.
_CORRELATED, _REDUCED, _EQUAL_SHARE, _SAME_SHARE = 0.97, 24, 0.7, 0.5
# Drawings change at least this share of the pixels by so much; most of it in a few colours.
_DRAWN_SHARE, _CHANGED, _DRAWN_COLOURS = 0.001, 60, 8
_SMALLER = 0.75
# More additions to one name number images.
_MOST_ADDITIONS = 8
# At most this many files of one name and folder are compared with another, so that the cost is linear.
_MOST_ALIKE = 64
# At most this many folders side by side may be classes, sites or kinds of images; more are people's folders.
_MOST_FOLDERS = 40
# Pictures in memory.
_MOST_KEPT = 8
# Larger pictures, such as slides, are judged by their names only.
_MOST_PIXELS = 80_000_000

# Said of companions that a table lists as images, around the text on them.
ARE_THESE_IMAGES = "ARE THESE IMAGES? Rows of the table name"
LEAVE_OUT = "Leave such rows out, because what is drawn may tell the label."


@dataclass(frozen=True)
class Companion:
    """A file that belongs to an image; `image` is '' where several images, or none, have its name."""

    path: str
    kind: str
    image: str


def companions(
    folder: Path, paths: Sequence[str], stored: Mapping[str, str] | None = None
) -> tuple[dict[str, Companion], list[str]]:
    """The companions among image files below a folder, by path; and images that only their names, or only their
    pixels, say are companions.

    Args:
        paths: relative to the folder, with `/`; volumes are judged by their names only, and may be folders.
        stored: the paths of the files where they are stored under other names.
    """

    # an image with several companions is opened once
    @lru_cache(_MOST_KEPT)
    def read(path: str) -> _Picture | None:
        return _read(folder / (stored or {}).get(path, path))

    names = {path: _Name(path) for path in paths}
    volumes = [path for path in paths if path.casefold().endswith(_VOLUMES)]
    pictures = [path for path in paths if not path.casefold().endswith(_VOLUMES)]
    series = [path for path in pictures if "." not in path.rpartition("/")[2]]
    result = _volume_masks([names[path] for path in volumes], bool(series))
    pairs = sorted(_pairs([names[path] for path in pictures]), key=lambda pair: pair.partner)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kinds = list(pool.map(lambda pair: _kind_of_pair(pair, read), pairs))
    unclear = [pair.path for pair, kind in zip(pairs, kinds, strict=True) if not kind and pair.words and pair.in_name]
    for pair, kind in zip(pairs, kinds, strict=True):
        if kind:
            result[pair.path] = Companion(pair.path, kind, pair.image)
    # the image of an image that is itself a companion
    for path, companion in list(result.items()):
        if companion.image in result:
            result[path] = Companion(path, companion.kind, result[companion.image].image)
    result |= _without_partner([names[path] for path in pictures if path not in result], result, read)
    masks, doubtful = _folders_of_masks([names[path] for path in pictures if path not in result], read)
    result |= {path: Companion(path, MASK, "") for path in masks}
    return result, [path for path in [*unclear, *doubtful] if path not in result]


def listed_companions(files: Iterable[str | Path]) -> list[str]:
    """A doubt if a table lists companions as images, as absolute paths; [] if it does not."""
    paths = sorted({Path(file).as_posix() for file in files})
    if len(paths) < 2:
        return []
    folder = Path(os.path.commonpath([Path(path).parent for path in paths]))
    listed, _ = companions(folder, [Path(path).relative_to(folder).as_posix() for path in paths])
    return [f"WARNING: {ARE_THESE_IMAGES} {companions_text(listed.values())}. {LEAVE_OUT}"] if listed else []


def companions_text(group: Collection[Companion]) -> str:
    """Numbers by kind, each with an example.

    >>> companions_text([Companion("1_mask.png", "mask", "1.png"), Companion("2_mask.png", "mask", "2.png")])
    '2 masks, such as 1_mask.png of 1.png'
    """
    by_kind: dict[str, list[Companion]] = defaultdict(list)
    for companion in sorted(group, key=lambda each: natural(each.path)):
        by_kind[companion.kind].append(companion)
    texts = []
    for kind in KINDS:
        if of_kind := by_kind.get(kind):
            first = of_kind[0]
            of_image = f" of {first.image.rpartition('/')[2]}" if first.image else ""
            texts.append(f"{counted(len(of_kind), kind)}, such as {first.path}{of_image}")
    return "; ".join(texts)


def names_masks(text: str) -> bool:
    """Whether a heading is about masks: one of its words is, or begins or ends with a longer one.

    >>> [name for name in ("mask_file", "LungMask", "lungmask", "Segmentation", "image", "label") if names_masks(name)]
    ['mask_file', 'LungMask', 'lungmask', 'Segmentation']
    """
    words = _words(text)
    return any(word in _IN_HEADINGS for word in words) or any(
        word.startswith(own) or word.endswith(own) for word in words for own in _LONGER
    )


def masks_by_image(group: Iterable[Companion]) -> tuple[dict[str, str], list[str]]:
    """The mask of each image that has exactly one, and the images that have several."""
    masks: dict[str, list[str]] = defaultdict(list)
    for companion in group:
        if companion.kind == MASK and companion.image:
            masks[companion.image].append(companion.path)
    several = [image for image, of_image in masks.items() if len(of_image) > 1]
    return {image: of_image[0] for image, of_image in masks.items() if len(of_image) == 1}, several


class _Name:
    """The words of a path."""

    def __init__(self, path: str) -> None:
        self.path = path
        *self.folders, name = one_form(path).split("/")
        self.stem = _words(re.sub(r"\.(nii\.gz|[A-Za-z]{2,8})$", "", name))
        self.cores = _cores(self.stem)
        self.plain_folders = tuple(filter(None, map(_plain, self.folders)))
        self.all = Counter(word for text in self.folders for word in _words(text)) + Counter(self.stem)

    def beyond(self, other: _Name) -> set[str]:
        """The words that the other path does not have, or has less often."""
        return set(self.all - other.all)


def _plain(folder: str) -> str:
    """A folder's name; of one named for images or companions its number, or ''.

    >>> list(map(_plain, ["P 1", "images", "masks", "lesion_0001"]))
    ['P 1', '', '', '0001']
    """
    words = _words(folder)
    if _says(words) or not set(words) - _NEUTRAL:
        return " ".join(word for word in words if word.isdigit())
    return folder


# Names by how they are looked up: a word for it, and parts of a name.
_Index: TypeAlias = dict[tuple[object, ...], list[_Name]]


@dataclass(frozen=True)
class _Pair:
    """A file, the image that it may belong to, and the words that say so; none if only the pixels can."""

    path: str
    partner: str
    words: Words
    in_name: bool = True
    image: str = ""


def _words(text: str) -> Words:
    """Letters and digits between other characters, and before a capital letter, in lower case.

    >>> _words("benign (1)_mask_1"), _words("01leftMask"), _words("img7mask")
    (('benign', '1', 'mask', '1'), ('01left', 'mask'), ('img7', 'mask'))
    """
    spaced = _GLUED.sub(" ", re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", text).casefold())
    return tuple(re.findall(r"[^\W_]+", spaced))


def _says(words: Iterable[str]) -> list[str]:
    return [word for word in words if word in _KIND_OF]


def _cores(words: Words) -> list[Words]:
    """The words of a name without words of companions and of images; also without the number of a companion.

    >>> _cores(("benign", "1", "mask", "2"))
    [('benign', '1', '2'), ('benign', '1')]
    """
    core = tuple(word for word in words if word not in _KIND_OF and word not in _NEUTRAL)
    last = max((i for i, word in enumerate(words) if word in _KIND_OF), default=len(words))
    if last == len(words) - 2 and words[-1].isdigit():
        return [core, core[:-1]]
    return [core]


def _pairs(names: Sequence[_Name]) -> list[_Pair]:
    """The pairs of a file and an image that its name, or its pixels, may make its companion."""
    index: _Index = defaultdict(list)
    for name in names:
        index["core", name.cores[0]].append(name)
        index["here", name.cores[0], *name.folders].append(name)
        index["near", name.cores[0], name.plain_folders].append(name)
        index["beside", name.cores[0], *name.folders[:-1]].append(name)
        index["stem", name.stem, *name.folders].append(name)
    named: dict[str, _Pair] = {}
    for name in names:
        if _says(name.all) and (pair := _named_pair(name, index)):
            named[name.path] = pair
    added: dict[str, list[_Pair]] = defaultdict(list)
    for name in names:
        if name.path not in named and (partner := _addition_to(name, index)):
            added[partner.path].append(_Pair(name.path, partner.path, (), image=partner.path))
    few = [pair for pairs in added.values() if len(pairs) <= _MOST_ADDITIONS for pair in pairs]
    return [*named.values(), *few]


def _named_pair(name: _Name, index: _Index) -> _Pair | None:
    """The pair of a file with the image whose name it has, beyond which it has a word of companions."""

    def partners(others: Sequence[_Name]) -> list[_Name]:
        return [
            other
            for other in others
            if other is not name and _says(name.beyond(other)) and not _says(other.beyond(name))
        ]

    for core in name.cores:
        near = partners(index.get(("here", core, *name.folders), [])[:_MOST_ALIKE])
        near = near or partners(index.get(("near", core, name.plain_folders), [])[:_MOST_ALIKE])
        # `1.png` in many folders is not the name of one image
        far = index.get(("core", core), []) if core and not near else []
        best = near or (partners(far) if len(far) <= _MOST_ADDITIONS else [])
        if not best:
            continue
        best = [other for other in best if not _says(other.stem)] or best
        distinctive = near or (len("".join(core)) >= 5 and re.search(r"\d", "".join(core)))
        image = best[0].path if len(best) == 1 and distinctive else ""
        words, others = name.beyond(best[0]), best[0].beyond(name)
        in_name = bool(_says(set(name.stem) - set(best[0].stem))) or others <= _NEUTRAL
        return _Pair(name.path, best[0].path, tuple(_says(sorted(words))), in_name, image)
    return None


def _addition_to(name: _Name, index: _Index) -> _Name | None:
    """The image in the same folder whose name begins this one, of the same stem, or in the adjacent image folder."""
    for length in range(len(name.stem), 0, -1):
        same = index.get(("stem", name.stem[:length], *name.folders), [])
        others = [other for other in same[: _MOST_ADDITIONS + 1] if other is not name]
        if others and (length < len(name.stem) or len(others) == 1):
            return others[0]
    beside = [
        other
        for other in index.get(("beside", name.cores[0], *name.folders[:-1]), [])[: _MOST_ADDITIONS + 1]
        if other.folders != name.folders and len(other.folders) == len(name.folders)
        if other.beyond(name) and other.beyond(name) <= _NEUTRAL
    ]
    return beside[0] if len(beside) == 1 else None


def _kind_of_pair(pair: _Pair, read: Reader) -> str:
    """The kind of companion that a file is for its image; '' if it is an image."""
    by_word = next((_KIND_OF[word] for word in pair.words), "")
    clear = pair.in_name and any(word in _CLEAR for word in pair.words)
    own = read(pair.path)
    if own is None:
        return by_word if clear or (pair.in_name and _OF_FILES & set(pair.words)) else ""
    if pair.words and _is_mask(own.pixels):
        return by_word
    image = read(pair.partner)
    if image is None:
        return by_word * clear
    if not pair.words and _levels(own.pixels) <= _FEW_LEVELS < _MANY_LEVELS <= _levels(image.pixels):
        return MASK * (own.size == image.size)
    if kind := _same_picture(own, image):
        return kind
    # a soft mask is not a mask of labels
    return (ANNOTATION if by_word == MASK else by_word) * clear


def _without_partner(rest: Sequence[_Name], result: dict[str, Companion], read: Reader) -> dict[str, Companion]:
    """Masks by name and pixels whose image is missing or has another name, among others that have their image.

    The others have the same word in their name, or there are images in the folder next to a folder of masks.
    """
    words = {word for path in result for word in _says(_words(path.rpartition("/")[2].rpartition(".")[0]))}
    images = {
        (*name.folders[:-1], "")
        for name in rest
        if name.folders and _words(name.folders[-1])[:1] and not (set(_words(name.folders[-1])) - _NEUTRAL)
    }
    images |= {(*name.folders, "") for name in rest if not _says(name.all)}
    candidates = []
    for name in rest:
        last = next((level for level, text in enumerate(name.folders) if _says(_words(text))), -1)
        beside = last >= 0 and (*name.folders[:last], "") in images
        if beside or words & set(_says(name.stem)):
            candidates.append(name)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pictures = list(pool.map(lambda name: read(name.path), candidates))
    masks = [name for name, own in zip(candidates, pictures, strict=True) if own and _is_mask(own.pixels)]
    # if nothing else is left, these are the images
    if len(masks) == len(rest) and not result:
        return {}
    return {name.path: Companion(name.path, MASK, "") for name in masks}


def _folders_of_masks(rest: Sequence[_Name], read: Reader) -> tuple[list[str], list[str]]:
    """The files of folders that hold only pictures of few values, next to folders that hold none.

    Files in a folder that is named for masks, or whose pictures have the sizes of the others, are masks; the second
    list has the files of other folders. One picture of each folder is opened, and the rest if it has few values.
    """
    masks: list[str] = []
    doubtful: list[str] = []
    for level in range(max((len(name.folders) for name in rest), default=0)):
        by_folder: dict[str, list[_Name]] = defaultdict(list)
        for name in rest:
            by_folder[name.folders[level] if level < len(name.folders) else ""].append(name)
        if not 2 <= len(by_folder) <= _MOST_FOLDERS:
            continue
        firsts = {folder: read(names[len(names) // 2].path) for folder, names in by_folder.items()}
        several = {folder: first for folder, first in firsts.items() if folder and first and len(by_folder[folder]) > 1}
        of_masks = [folder for folder, first in several.items() if _is_folder_mask(folder, first)]
        sizes = {first.size for folder, first in firsts.items() if first and folder not in of_masks}
        for folder in of_masks if sizes else ():
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                pictures = list(pool.map(lambda name: read(name.path), by_folder[folder]))
            drawn = any(picture and _levels(picture.pixels) > 1 for picture in pictures)
            if drawn and all(picture and _is_folder_mask(folder, picture) for picture in pictures):
                fit = _says(_words(folder)) or {picture.size for picture in pictures if picture} <= sizes
                (masks if fit else doubtful).extend(name.path for name in by_folder[folder])
        removed = {*masks, *doubtful}
        rest = [name for name in rest if name.path not in removed]
    return masks, doubtful


def _is_folder_mask(folder: str, picture: _Picture) -> bool:
    """Whether a picture is labels, by fewer values in a folder that is not named for masks."""
    return _is_mask(picture.pixels) if _says(_words(folder)) else _levels(picture.pixels) <= _TWO_LEVELS


def _volume_masks(volumes: Sequence[_Name], has_series: bool) -> dict[str, Companion]:
    """Volumes whose names say that they are masks; none if all scans do."""
    masks = [name for name in volumes if _says(name.stem) or _says(word for f in name.folders for word in _words(f))]
    scans = [name for name in volumes if name not in masks]
    if not (scans or has_series):
        return {}
    result = {}
    for name in masks:
        core = name.cores[0]
        partners = [scan for scan in scans if scan.folders == name.folders and scan.stem[: len(core)] == core]
        result[name.path] = Companion(name.path, MASK, partners[0].path if len(partners) == 1 else "")
    return result


@dataclass(frozen=True)
class _Picture:
    """A picture with rows and columns passed over: (h, w) or (h, w, 3), and its width and height."""

    size: tuple[int, int]
    pixels: Pixels


def _read(path: Path) -> _Picture | None:
    """The picture; None if Pillow cannot read it."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            size, mode = picture.size, picture.mode
            if size[0] * size[1] > _MOST_PIXELS:
                return None
            plain = {"LA": "L", "PA": "RGB", "RGBA": "RGB", "RGBa": "RGB"}.get(mode)
            pixels = np.asarray(picture.convert(plain) if plain else picture)
    except Exception:  # noqa: BLE001 (whatever a damaged file raises; `validate` names it)
        return None
    step = max(1, min(size) // _SIDE)
    pixels = pixels[::step, ::step]
    if pixels.ndim == 3 and np.ptp(pixels[..., :3].astype(int), axis=2).max(initial=0) <= 2 * (mode == "RGB"):
        pixels = pixels[..., 0]
    return _Picture(size, pixels.astype(np.int64)) if pixels.size else None


def _levels(pixels: Pixels) -> int:
    """The number of different values or colours."""
    packed = pixels if pixels.ndim == 2 else pixels[..., 0] * 2**20 + pixels[..., 1] * 2**10 + pixels[..., 2]
    return len(np.unique(packed))


def _is_mask(pixels: Pixels) -> bool:
    """Whether pixels are labels, also after a compression with loss."""
    if _levels(pixels) <= _MOST_LEVELS:
        return True
    if pixels.ndim == 3:
        if np.ptp(pixels, axis=2).max() > _NEAR:
            return False
        pixels = pixels.mean(axis=2).astype(np.int64)
    near = (pixels <= _NEAR) | ((pixels >= 255 - _NEAR) & (pixels <= 255))
    return float(near.mean()) >= _NEAR_SHARE


def _same_picture(own: _Picture, image: _Picture) -> str:
    """An overlay or a thumbnail, if the file shows its image; '' if not."""
    smaller = max(own.size) <= _SMALLER * max(image.size)
    ratios = np.log(own.size[0] / own.size[1]), np.log(image.size[0] / image.size[1])
    if smaller and abs(ratios[0] - ratios[1]) < 0.05:
        first, second = (_reduced(picture.pixels).ravel() for picture in (own, image))
        if first.std() and second.std() and np.corrcoef(first, second)[0, 1] >= _CORRELATED:
            return THUMBNAIL
    if own.size != image.size:
        return ""
    drawn, original = (_coloured(picture.pixels) for picture in (own, image))
    difference = np.abs(drawn - original).max(axis=2)
    shown = (original.max(axis=2) > _NEAR) & (original.min(axis=2) < 255 - _NEAR)
    changed = difference > _CHANGED
    if shown.mean() < 0.01 or (difference > _NEAR // 2).mean() < _DRAWN_SHARE:
        return ""
    # no two photographs have the same values in this many pixels
    if float((difference[shown] == 0).mean()) >= _SAME_SHARE and _levels(original) >= _MANY_LEVELS:
        return OVERLAY
    if changed.mean() < _DRAWN_SHARE:
        return ""
    colours = Counter(map(tuple, (drawn[changed] // 32).tolist())).most_common(_DRAWN_COLOURS)
    few = sum(count for _, count in colours) >= 0.6 * changed.sum()
    return OVERLAY if few and float((difference[shown] <= _NEAR // 2).mean()) >= _EQUAL_SHARE else ""


def _coloured(pixels: Pixels) -> Pixels:
    return pixels[..., :3] if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _reduced(pixels: Pixels) -> NDArray[np.floating]:
    """The means of grey over a grid of cells, (`_REDUCED`, `_REDUCED`)."""
    grey = pixels.mean(axis=2) if pixels.ndim == 3 else pixels.astype(float)
    rows, columns = (np.linspace(0, side, _REDUCED + 1).astype(int) for side in grey.shape)
    if min(grey.shape) < _REDUCED:
        grey = grey.repeat(-(-_REDUCED // grey.shape[0]), axis=0).repeat(-(-_REDUCED // grey.shape[1]), axis=1)
        rows, columns = (np.linspace(0, side, _REDUCED + 1).astype(int) for side in grey.shape)
    sums = np.add.reduceat(np.add.reduceat(grey, rows[:-1], axis=0), columns[:-1], axis=1)
    return np.asarray(sums / np.outer(np.diff(rows), np.diff(columns)))
