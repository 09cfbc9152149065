"""Photographs and other single image files as a modality.

The size of tiles and how images become square are planned only from their shapes: labels are never read.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.cohort.companions import Companion, companions, companions_text
from casewise.cohort.folder_layout import (
    FolderImage,
    Pattern,
    find_region,
    read_new_layout,
)
from casewise.cohort.groups import table_column
from casewise.console import Show, duration
from casewise.errors import counted
from casewise.modalities import base
from casewise.modalities.alterations import ALTERATIONS, altered, png
from casewise.modalities.masks import EMPTY, check_masks, mask_on_tiles, to_photograph
from casewise.modalities.overlays import MOST_AREA, overlays_in_files, place_of, share_of
from casewise.modalities.photographs.skin_tone import with_skin_tone
from casewise.modalities.registry import FileClaims
from casewise.modalities.store.pixels import content_box
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.readers import image_shape, open_source, read_image
from casewise.modalities.store.stated_values import mixed_depths
from casewise.modalities.store.store import ImageSource, TileStore
from casewise.modalities.store.store_builder import PROBLEMS, SHOWN, check_images, not_read, prepare
from casewise.names import one_form
from casewise.plugin import implementing
from casewise.run_folder import ImageFolder
from casewise.study.evaluation import SKIN_TONE

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.modalities.dataset import PanelDataset
    from casewise.modalities.store.store_builder import ImageCheck
    from casewise.study.images import Images
    from casewise.study.schema import Panels, Study


# Images are stretched to a square unless more than this share is longer than this number of times its width.
LONG_RATIO, MAX_LONG_SHARE = 2.0, 0.05
# Planned sides of a tile: the usual one, and a larger one for at most this many images of at least this long side.
SIZE, LARGE_SIZE, MOST_LARGE, LARGE_FROM = 224, 384, 1000, 448
# Planned sides are multiples of this, which is the coarsest stride of most networks.
STRIDE = 32


def _needs_plan(images: Images) -> bool:
    """Whether the shapes of the images decide a setting that affects tiles."""
    return images.fit == "auto" or (images.fit == "pad" and images.padding == "auto")


def planned_size(sizes: Sequence[tuple[int, int]]) -> int:
    """The side of a tile for images of these widths and heights: 224 pixels, fewer for smaller images.

    For at most 1,000 images whose long sides have a median of 448 pixels or more it is 384, since more detail is there
    and the time for it as well.

    >>> [planned_size([size]) for size in ((4000, 3000), (320, 240), (100, 80))]
    [384, 224, 96]
    """
    long = float(np.median([max(size) for size in sizes])) if sizes else SIZE
    if long >= LARGE_FROM and len(sizes) <= MOST_LARGE:
        return LARGE_SIZE
    return max(STRIDE, min(SIZE, int(long) // STRIDE * STRIDE))


def planned(images: Images, sizes: Sequence[tuple[int, int]]) -> tuple[Images, str]:
    """The settings with `fit` and `padding` planned from widths and heights, and the reason in words.

    The reason is empty if all images have one shape.

    - All images fill the same box of the tile: `pad` on black, because bars that are always the same tell nothing.
    - Else `stretch`, which leaves no bars, if at least 95 % of the images are at most twice as long as wide.
    - Else `pad` by reflection, because stretching would distort the images much.

    >>> from casewise.study.images import Images
    >>> [planned(Images(), sizes)[0].fit for sizes in ([(40, 30), (80, 60)], [(40, 30), (40, 40)], [(9, 1), (1, 1)])]
    ['pad', 'stretch', 'pad']
    """
    boxes = {content_box(width, height, images.size, "pad") for width, height in sizes}
    long = float(np.mean([max(size) > LONG_RATIO * min(size) for size in sizes])) if sizes else 0.0
    one_box = len(boxes) <= 1
    fit = images.fit
    if fit == "auto":
        fit = "pad" if one_box or long > MAX_LONG_SHARE else "stretch"
    padding = images.padding
    if fit == "pad" and padding == "auto":
        padding = "black" if one_box else "reflect"
    unused = f"; no bars are left for `padding: {padding}`" if fit != "pad" and padding != "auto" else ""
    if unused:
        padding = "auto"
    reason = ""
    if not one_box:
        text = f"padded ({padding})" if fit == "pad" else "stretched to squares"
        extremes = f", and {long:.0%} are more than twice as long as wide" if long > MAX_LONG_SHARE else ""
        reason = f"images are {text}, because their shapes differ{extremes}{unused}"
    return images.model_copy(update={"fit": fit, "padding": padding}), reason


def shapes(sources: Sequence[ImageSource], side: int) -> list[tuple[int, int]]:
    """Upright width and height of every image that can be read; a region of a slide is a square of `side` pixels."""
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(lambda source: image_shape(source) if isinstance(source, Path) else (side, side), sources)
        return [size for size in sizes if size]


log = logging.getLogger("casewise")
# The longest side of a picture in a report, in pixels.
PICTURE_SIDE = 900
# The longest side of an image that is altered, in sides of a tile.
ALTERED_SIDES = 4


class Photographs(base.Modality):
    """Every row of the table is one image file, and a panel shows one or several of them in a grid."""

    name = "photographs"
    # whether a planned study without a size has one that suits the shapes of its images
    plans_size = True

    def start(self, files: Sequence[Path] | None, study: Study) -> base.Start:
        claims = (plugin.claim(files or [], study) for plugin in implementing(FileClaims))
        return next(filter(None, claims), None) or super().start(files, study)

    def new_table(self, study: Study, paths: Sequence[Path], pattern: Pattern | None = None) -> pd.DataFrame:
        images: list[FolderImage] = []
        files = [path.as_posix() for path in paths if not path.is_dir()]
        belonging, _ = companions(Path("/"), files) if len(files) > 1 else ({}, [])
        _warn_left_out("these files", belonging.values())
        for path in paths:
            if path.is_dir():
                images += _of_folder(study, path, pattern)
            elif path.as_posix() not in belonging:
                region = find_region(path.name, study.regions) if study.regions else ""
                images.append(FolderImage(str(path), one_form(path.name), region=region))
        images = _distinct(images)
        roles = ["path", "subject", *(role for role in ("visit", "region") if any(getattr(i, role) for i in images))]
        return pd.DataFrame({_heading(study, role): [getattr(image, role) for image in images] for role in roles})

    def read(self, study: Study, cohort: Cohort, folder: ImageFolder | None, show: Show) -> Cohort:
        for plugin in implementing(FileClaims):
            plugin.refuse(study, cohort)
        return cohort

    def check_files(self, study: Study, cohort: Cohort, show: Show) -> None:
        """Decode every image once, at a reduced size, and all masks.

        Raises:
            ImageError: images or masks cannot be used; the message lists them.
        """
        paths = [Path(path) for path in cohort.images["path"]]
        with show.bar("images") as bar:
            checks, problems = check_images(paths, study.images.size, study.images.channels, bar)
        if problems:
            raise not_read(problems, paths, Path(PROBLEMS))
        show.line("images", f"{counted(len(paths), 'image')} can be read")
        self._show_doubts(paths, [str(case) for case in cohort.images["case"]], checks, show)
        _show_depths(study, cohort, [checks[row].mode for row in range(len(paths))], show)
        for meaning, column in self.mask_columns(study).items():
            if column in cohort.images:
                with show.bar("masks") as bar:
                    check_masks(study, cohort.images, column, meaning, bar)

    def _show_doubts(
        self, paths: Sequence[Path], cases: Sequence[str], checks: Mapping[int, ImageCheck], show: Show
    ) -> None:
        """Warn of images that show nothing, of films read with a doubt, and of slices of one scan."""
        empty = {row: check.empty for row, check in checks.items()}
        notes = {row: check.note for row, check in checks.items()}
        for texts, singular, plural in (
            (empty, "image shows nothing", "images show nothing"),
            (notes, "film was read with a doubt", "films were read with a doubt"),
        ):
            if named := [f"{paths[row]} ({text})" for row, text in texts.items() if text]:
                more = " …" if len(named) > SHOWN else ""
                show.line("WARNING", f"{counted(len(named), singular, plural)}: {', '.join(named[:SHOWN])}{more}")
        scans = Counter((cases[row], check.series) for row, check in checks.items() if check.series)
        if sliced := sorted({case for (case, _), count in scans.items() if count > 1}):
            text = f"{counted(len(sliced), 'case has', 'cases have')} several slices of one scan, such as {sliced[0]}"
            show.line(
                "WARNING",
                f"{text}. Each is read with its own window or range, so their grey values cannot be compared. "
                "`volumes:` reads the slices of a scan on one scale.",
            )

    def planned(self, study: Study, cohort: Cohort, folder: ImageFolder, show: Show) -> Study:
        size_open = study.recipe.auto and self.plans_size and "size" not in study.images.model_fields_set
        images = study.images
        if size_open or _needs_plan(images):
            sizes = shapes(self.sources(cohort), images.size)
            if size_open:
                images = images.model_copy(update={"size": planned_size(sizes)})
            images, reason = planned(images, sizes)
            if reason:
                show.line("plan", reason)
        if images.mask_overlays is True:
            marks = overlays_in_files([Path(path) for path in cohort.images["path"]])
            boxes = [box for box in marks if share_of(box) <= MOST_AREA]
            if large := [place_of(box) for box in marks if box not in boxes]:
                text = "not masked, because it would hide too much of larger images: " + "; ".join(large)
                show.line("WARNING", f"{text}. Leave out the smallest images (`where_not`), or state boxes.")
            places = "; ".join(map(place_of, boxes)) or "no static mark that can be masked was found"
            show.line("plan", f"masked in all images: {places}" if boxes else places)
            images = images.model_copy(update={"mask_overlays": boxes})
        return study.model_copy(update={"images": images})

    def prepare(
        self, study: Study, cohort: Cohort, folder: ImageFolder, show: Show, step: str = "tiles"
    ) -> base.ImageStore:

        settings = self.planned(study, cohort, folder, show).images
        preparation = Preparation.of(settings)
        start = time.monotonic()
        with show.bar(step) as bar:
            store = prepare(self.sources(cohort), preparation, folder.of("tiles"), progress=bar)
        show.line(step, f"{counted(len(store), 'tile')} of {settings.size} px, {duration(time.monotonic() - start)}")
        _show_depths(study, cohort, store.index["mode"].astype(str).tolist(), show)
        return store

    def estimated(self, study: Study, cohort: Cohort, store: base.ImageStore, show: Show) -> Cohort:
        if SKIN_TONE not in study.evaluation.subgroup_cuts or table_column(study, cohort.images, SKIN_TONE):
            return cohort
        images, sentence = with_skin_tone(cohort.images, store.tiles, SKIN_TONE)
        show.line("skin tone", sentence)
        return replace(cohort, images=images, notes=[*cohort.notes, sentence])

    def sources(self, cohort: Cohort) -> Sequence[ImageSource]:
        """What each row of the cohort's images is read from."""
        return [Path(path) for path in cohort.images["path"]]

    def pretraining_panels(self, study: Study) -> Panels:
        return study.panels.model_copy(update={"by": "image"})

    def dataset(
        self,
        store: base.StoreReference,
        study: Study,
        panels: pd.DataFrame,
        labels: np.ndarray | None,
        fitted: base.Facts,
    ) -> PanelDataset:
        from casewise.modalities.dataset import PanelData, open_tiles
        from casewise.modalities.shape_variation import open_shapes

        shapes = open_shapes(store.folder) if labels is not None and study.panels.vary_shape else None
        return PanelData.of(open_tiles(store.folder, store.address), panels, study.panels, labels, shapes=shapes)

    def alterations(self, study: Study) -> tuple[str, ...]:
        """An image file is altered before it is prepared; where that stretches it, a crop is stretched back anyway."""
        return tuple(name for name in ALTERATIONS if study.images.fit != "stretch" or not name.endswith("_stretched"))

    def altered(self, prepared: base.PreparedCohort, rows: Sequence[int], alteration: str) -> base.AlteredPanels:
        from casewise.modalities.dataset import PanelData, three_channels

        panels = prepared.cohort.panels.iloc[list(rows)]
        numbers = sorted({int(number) for tiles in panels["tiles"] for number in tiles})
        with ThreadPoolExecutor() as pool:
            tiles = list(pool.map(lambda number: self.altered_tile(prepared, number, alteration), numbers))
        position = {number: index for index, number in enumerate(numbers)}
        panels = panels.assign(tiles=[[position[int(number)] for number in numbers] for numbers in panels["tiles"]])
        data = PanelData.of(three_channels(np.stack(tiles)), panels, prepared.study.panels, None)
        return lambda fitted: data

    def altered_tile(self, prepared: base.PreparedCohort, number: int, alteration: str) -> np.ndarray:
        """The tile (C, H, W) of an altered image file, made by the code and settings that made the store.

        A large image is reduced first, so that neither file nor decoding take long.
        """
        assert isinstance(prepared.store, TileStore)
        preparation, path = prepared.store.preparation, Path(str(prepared.store.index["path"].iloc[number]))
        image = read_image(path, size=ALTERED_SIDES * preparation.size, channels=preparation.channels)
        return open_source(path, png(altered(image, alteration))).tile(preparation)

    def picture(self, prepared: base.PreparedCohort, image: int) -> np.ndarray | None:
        return read_image(Path(self.picture_path(prepared, image)), size=PICTURE_SIDE)

    def to_native(
        self, prepared: base.PreparedCohort, maps: Sequence[base.SlotMaps], channel: str, *, side: int | None = None
    ) -> list[base.NativeMap]:
        """A map for each photograph of the case, the mean where a photograph occurs in several slots."""
        assert isinstance(prepared.store, TileStore)
        preparation = prepared.store.preparation
        tiles: dict[int, list[np.ndarray]] = {}
        for panel in maps:
            for tile, number in zip(panel.maps, panel.slots.tolist(), strict=True):
                if number != EMPTY:
                    tiles.setdefault(number, []).append(tile)

        def native(number: int) -> base.NativeMap:
            path = Path(self.picture_path(prepared, number))
            picture = read_image(path, size=side, channels=preparation.channels)
            picture = picture[..., 0] if picture.shape[2] == 1 else picture
            height, width = picture.shape[:2]
            values = to_photograph(np.mean(tiles[number], axis=0), width=width, height=height, fit=preparation.fit)
            return base.NativeMap(f"{number}-{path.stem}", values, picture)

        with ThreadPoolExecutor(1 if side is None else None) as pool:  # whole photographs need much memory
            return list(pool.map(native, tiles))

    def mask_columns(self, study: Study) -> dict[base.MaskMeaning, str]:
        columns: dict[base.MaskMeaning, str | None]
        columns = {"lesion": study.images.lesion, "segmentation": study.images.mask, "anatomy": study.audit.mask}
        return {meaning: column for meaning, column in columns.items() if column}

    def mask(self, prepared: base.PreparedCohort, row: int, meaning: base.MaskMeaning) -> base.CaseMask:
        return mask_on_tiles(prepared, row, self.mask_columns(prepared.study)[meaning], meaning)

    def picture_path(self, prepared: base.PreparedCohort, image: int) -> str:
        """The image file that shows one row of the cohort's images, for `picture` and `to_native`."""
        return str(prepared.cohort.images["path"].iloc[image])


MODALITY = Photographs()


def _show_depths(study: Study, cohort: Cohort, modes: Sequence[str], show: Show) -> None:
    """Warn of images whose values were taken to have different numbers of bits, with their classes."""
    outcome = study.primary_outcome
    classes = [""] * len(modes)
    if outcome in study.targets and outcome in cohort.panels and (names := study.classes_of(outcome)):
        labelled = cohort.panels[cohort.panels[outcome].notna()]
        for numbers, code in zip(labelled["tiles"], labelled[outcome], strict=True):
            for number in numbers:
                classes[int(number)] = str(names[int(code)])
    if sentence := mixed_depths(modes, classes):
        show.line("WARNING", f"{sentence}.")


def _warn_left_out(where: str, belonging: Collection[Companion]) -> None:
    if belonging:
        log.warning("%s: left out, because they belong to other images: %s.", where, companions_text(belonging))


def _of_folder(study: Study, folder: Path, pattern: Pattern | None) -> list[FolderImage]:
    visits = study.columns.get("visit") != ""
    layout = read_new_layout(folder, regions=study.regions, pattern=pattern, has_visits=visits)
    _warn_left_out(str(folder), layout.companions)
    if layout.skipped:
        count = counted(len(layout.skipped), "file")
        log.warning("%s: left out because of their names: %s, such as %s.", folder, count, layout.skipped[0])
    if layout.shape == "*.jpg" and len(layout.images) > 1:
        log.warning(
            "%s has no subfolders, so each of its %d images counts as a subject of its own. If subjects have several "
            "images, make a folder for each subject, or give a table with the columns %s.",
            folder,
            len(layout.images),
            " and ".join(repr(_heading(study, role)) for role in ("path", "subject")),
        )
    return [FolderImage(str(folder / image.path), image.subject, image.visit, image.region) for image in layout.images]


def _distinct(images: list[FolderImage]) -> list[FolderImage]:
    """Single files of the same name in several folders are subjects with their whole paths as names."""
    own = [image.subject for image in images if one_form(Path(image.path).name) == image.subject]
    repeated = {name for name in own if own.count(name) > 1} if len(set(own)) < len(own) else set()
    return [
        FolderImage(image.path, image.path, image.visit, image.region) if image.subject in repeated else image
        for image in images
    ]


def _heading(study: Study, role: str) -> str:
    return str(study.columns.get(role) or role)
