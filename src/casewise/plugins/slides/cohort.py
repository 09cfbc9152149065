"""A cohort's slides cut into tiles: a row that names a slide becomes one row for each of its tiles."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.cohort.cohort import Cohort, with_panels
from casewise.cohort.table import names_text
from casewise.errors import CasewiseError, CohortError, ImageError, RunError
from casewise.modalities.base import Start
from casewise.modalities.store.workers import Progress, Work, of_each_image, spread
from casewise.plugins.slides.reader import SLIDE_FILES, is_cut_tiff, is_slide, slide_facts
from casewise.plugins.slides.settings import Tiles, tiles_of
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd

    from casewise.console import Show
    from casewise.modalities.store.store import TileStore
    from casewise.modalities.store.store_builder import Budget
    from casewise.plugins.slides.tiles import PlannedSlide, TilePlan

# Upper left corner and side of a tile in level-0 pixels; -1 if a row is a whole image.
TILE = ("tile_x", "tile_y", "tile_side")
# Facts of the slide as text; empty for other images.
FACTS = ("slide_vendor", "slide_mpp", "slide_magnification", "slide_size")
# The folder of planned tiles.
FOLDER = "slides"
# The thumbnail of a slide; only in `pictures`.
PICTURE = "slide_picture"
# The bytes that slides may use together while they are read: a large one uses half of them.
MEMORY = 490 * 10**6
TIFFS = {".tif", ".tiff"}
# With fewer slides, other machines would take longer to begin than this one to finish.
FEWEST = 16
SHOWN = 200
FEW = 5
# Notes of several slides that differ only in numbers are merged, unless the number is a level.
VARYING = re.compile(r"(?<!level )(?<![\d.,])\d[\d.,]*")
# The greatest number of tiles of one slide in a new study.
MAX_TILES = 200


def has_tiles(cohort: Cohort) -> bool:
    """Whether the cohort has tiles of slides."""
    return TILE[0] in cohort.images


def _plan_of(study: Study) -> TilePlan:
    """The rules by which the study cuts its slides."""
    from casewise.plugins.slides.tiles import TilePlan

    tiles = tiles_of(study)
    assert tiles is not None
    return TilePlan(side=study.images.size, **tiles.model_dump())


def into_tiles(study: Study, cohort: Cohort, folder: Path | None, show: Show) -> Cohort:
    """The cohort with a row a tile: slides are replaced by their tiles, other images stay as they are.

    Rows of tiles have the columns `TILE` and `FACTS` and all columns of the slide's row. Planned tiles are stored in
    `folder`, so that a slide is read only once for them.

    Raises:
        CohortError: the study states labels of single tiles, or the table has a column with a reserved name.
        ImageError: slides cannot be cut; every one of them is in the message, and the others are kept.
        CasewiseError: the package that reads slides is not installed.
    """
    plan = _plan_of(study)
    paths = [Path(path) for path in cohort.images["path"]]
    with show.bar("slides") as bar:
        planned = _planned(paths, plan, folder, bar)
    slides = [slide for slide in planned if slide is not None]
    if not slides:
        note = "The study states how to cut slides, but no row names a slide: images are used as they are."
        return dataclasses.replace(cohort, notes=[*cohort.notes, note])
    _check(study, cohort)
    images = _expanded(cohort.images, planned)
    images, panels = with_panels(images, study)
    notes = [*cohort.notes, *_notes_of(slides, plan)]
    if whole := [path for path, slide in zip(paths, planned, strict=True) if slide is None]:
        rows = "1 row names no slide" if len(whole) == 1 else f"{len(whole):,} rows name no slides"
        names = names_text([short_path(path) for path in whole], 3)
        notes.append(f"{rows} but images ({names}), which are used whole, as one tile each.")
    return dataclasses.replace(cohort, images=images, panels=panels, notes=notes)


def without_tiles(study: Study, cohort: Cohort) -> Cohort:
    """The cohort with one row for each slide or image; a cohort without slides is returned as it is."""
    if not has_tiles(cohort):
        return cohort
    images = cohort.images.drop_duplicates("path").drop(columns=list(TILE)).reset_index(drop=True)
    images, panels = with_panels(images, study)
    return dataclasses.replace(cohort, images=images, panels=panels)


def pictures(study: Study, cohort: Cohort, folder: Path, show: Show) -> tuple[Cohort, TileStore]:
    """One thumbnail for each slide and each image, which audits compare instead of tiles.

    Returns:
        The cohort as from `without_tiles`, with the file of each thumbnail in the column `PICTURE`, and the tile store
        of these files. Its index describes the files of the slides.

    Raises:
        RunError: the stored tiles of a slide are not in `folder` any more.
    """
    from casewise.modalities.store.preparation import Preparation
    from casewise.modalities.store.store_builder import prepare

    whole = without_tiles(study, cohort)
    slide_paths = set(cohort.images.loc[cohort.images["tile_side"] >= 0, "path"])
    slides = [slide_of(study, path, folder) if path in slide_paths else None for path in whole.images["path"]]
    pairs = zip(whole.images["path"], slides, strict=True)
    files = [slide.picture if slide and isinstance(slide.picture, Path) else Path(path) for path, slide in pairs]
    preparation = Preparation(size=study.images.size, channels=study.images.channels)
    with show.bar("slides") as bar:
        store = prepare(files, preparation, folder / "pictures", progress=lambda done, total: bar(done, total))
    index = store.index.copy()
    for row, slide in enumerate(slides):
        if slide is None:
            continue
        # Bytes per pixel are the slide's, but width and height are its thumbnail's.
        shown = float(index.at[row, "width"]) * float(index.at[row, "height"])
        index.loc[row, ["path", "mode", "format"]] = [str(slide.path), slide.facts.vendor, "slide"]
        index.loc[row, "bytes"] = max(1, round(slide.facts.bytes * shown / (slide.size[0] * slide.size[1])))
    images = whole.images.assign(**{PICTURE: [str(file) for file in files]})
    store = dataclasses.replace(store, index=index, overview=True, cut=all(slides))
    return dataclasses.replace(whole, images=images), store


def slide_of(study: Study, path: Path | str, folder: Path) -> PlannedSlide:
    """The stored tiles of a slide.

    Raises:
        RunError: they are not there any more, or the slide has changed since.
    """
    from casewise.plugins.slides.tiles import find

    stored = find(Path(path), _plan_of(study), folder)
    if stored is None:
        raise RunError(f"{path}: the slide or its stored tiles in {folder} changed during this run. Run again.")
    return stored


def sweep(study: Study, cohort: Cohort, folder: Path) -> None:
    """Remove stored tiles of other settings and of slides that are no longer in the cohort."""
    from casewise.plugins.slides import tiles as slide_plans

    if has_tiles(cohort):
        plan = _plan_of(study)
        slide_plans.sweep(folder, {slide_plans.name_of(Path(path), plan) for path in cohort.images["path"].unique()})


def refuse_slides(study: Study, cohort: Cohort) -> None:
    """Refuse rows that name slides; a tiled TIFF of one level counts as an image.

    Raises:
        CohortError: naming the slides.
    """
    slides = []
    for path in map(Path, cohort.images["path"]):
        if path.suffix.lower() not in SLIDE_FILES | TIFFS or not is_slide(path):
            continue
        facts = None if path.suffix.lower() in SLIDE_FILES else slide_facts(path)
        if facts is None or len(facts.levels) > 1 or facts.vendor != "generic-tiff":
            slides.append(path)
    if slides:
        rows = "1 row names a whole slide" if len(slides) == 1 else f"{len(slides):,} rows name whole slides"
        names = names_text([short_path(path) for path in slides], 3)
        raise CohortError(
            f"{study.cohort}: {rows} ({names}), and the study does not state how to cut them. Write for example "
            f"`tiles: {{mpp: 1.0}}`: squares of {study.images.size} pixels (images.size) at one micron per pixel."
        )


def _check(study: Study, cohort: Cohort) -> None:
    """Refuse labels of single tiles, which are only known of slides, and columns with reserved names."""
    for name, target in study.targets.items():
        if target.level == "image":
            raise CohortError(
                f"targets.{name}: its level is image, but a label of a slide does not hold for each of its tiles. "
                "Write `level: case`, or leave `level` out."
            )
    reserved = [name for name in (*TILE, *FACTS, PICTURE) if name in cohort.images]
    if reserved:
        raise CohortError(
            f"{study.cohort}: {reserved[0]} is a reserved column name if slides are cut. Rename that column."
        )


def _planned(paths: Sequence[Path], plan: TilePlan, folder: Path | None, tell: Progress) -> list[PlannedSlide | None]:
    """The tiles of each path; None for images that are not slides.

    Raises:
        ImageError: with the problems of all slides.
    """
    from casewise.modalities.store.store_builder import Budget
    from casewise.plugins.slides.tiles import is_planned

    if folder:
        slides = [path for path in paths if path.suffix.lower() in SLIDE_FILES | TIFFS]
        parts = [[path] for path in slides if not is_planned(path, plan, folder)]
        if len(parts) >= FEWEST:
            work = Work(partial(_plan_part, plan, folder.absolute()), parts, folder, slides)
            spread(work, len(paths) - len(parts), tell)
    budget = Budget(MEMORY)
    planned, problems = of_each_image(len(paths), lambda row: _plan(paths[row], plan, folder, budget), progress=tell)
    if problems:
        count = len(problems) + sum(slide is not None for slide in planned.values())
        lines = [f"  {problems[row]}" for row in sorted(problems)]
        if len(lines) > SHOWN:
            lines[SHOWN:] = [f"  … and {len(lines) - SHOWN:,} more like these."]
        more = " The plans of the others are kept." if folder and len(problems) < count else ""
        raise ImageError("\n".join([f"{len(problems):,} of {count:,} slides cannot be cut into tiles.{more}", *lines]))
    return [planned[row] for row in range(len(paths))]


def _plan_part(plan: TilePlan, folder: Path, paths: Sequence[Path]) -> None:
    """Store the planned tiles of some slides; those that cannot be read are left out."""
    from casewise.modalities.store.store_builder import Budget

    of_each_image(len(paths), lambda row: _plan(paths[row], plan, folder, Budget(MEMORY)), workers=1)


def _plan(path: Path, plan: TilePlan, folder: Path | None, budget: Budget) -> PlannedSlide | None:
    from casewise.plugins.slides.tiles import find, keep, name_of, plan_tiles

    if folder and (stored := find(path, plan, folder)):
        return stored
    suffix = path.suffix.lower()
    # A file with the suffix of a slide, or a truncated TIFF: reading it raises the error.
    broken = suffix in SLIDE_FILES or (suffix in TIFFS and is_cut_tiff(path))
    if not broken and not is_slide(path):
        return None
    # The name is computed before reading: a slide that is replaced meanwhile counts as changed the next time.
    name = name_of(path, plan)
    planned = plan_tiles(path, plan, budget)
    return (keep(planned, folder, name) if folder and name else None) or planned


def _expanded(images: pd.DataFrame, planned: Sequence[PlannedSlide | None]) -> pd.DataFrame:
    """One row for each tile; images and panels still have the numbers of the slides."""
    whole = np.full((1, 3), -1, np.int64)
    boxes = [whole if slide is None else slide.boxes for slide in planned]
    rows = np.repeat(np.arange(len(images)), [len(tiles) for tiles in boxes])
    positions = dict(zip(TILE, np.concatenate(boxes).T, strict=True))
    facts = np.array([("",) * 4 if slide is None else _facts(slide) for slide in planned], dtype=object)
    fact_columns = dict(zip(FACTS, facts[rows].T, strict=True))
    return images.iloc[rows].reset_index(drop=True).assign(**positions, **fact_columns)


def _facts(slide: PlannedSlide) -> tuple[str, str, str, str]:
    """`FACTS` of a slide."""
    facts = slide.facts
    mpp = f"{facts.mpp:.4g}" if facts.mpp else ""
    magnification = f"{facts.magnification:g}" if facts.magnification else ""
    return facts.vendor, mpp, magnification, f"{facts.width}x{facts.height}"


def _notes_of(slides: Sequence[PlannedSlide], plan: TilePlan) -> list[str]:
    """The numbers of tiles and deviations from the plan; similar notes of several slides are merged."""
    counts = np.array([len(slide) for slide in slides])
    fewest, most = int(counts.min()), int(counts.max())
    notes = [
        f"Slides give {fewest:,} to {most:,} tiles, {np.median(counts):,.0f} in the median, of {plan.side} pixels at "
        f"{plan.resolution}; at least {plan.min_tissue:.0%} of each is tissue."
    ]
    names = [short_path(slide.path) for slide in slides]
    poor = [name for slide, name in zip(slides, names, strict=True) if len(slide) < FEW]
    if poor and fewest < most:
        verb = "gives" if len(poor) == 1 else "give"
        notes.append(f"{len(poor):,} of {len(slides):,} slides {verb} fewer than {FEW} tiles: {names_text(poor, 5)}.")
    by_text: dict[str, list[tuple[str, str]]] = {}
    for slide, name in zip(slides, names, strict=True):
        for note in slide.notes:
            by_text.setdefault(VARYING.sub("0", note), []).append((name, note))
    for similar in by_text.values():
        texts = Counter(text for _, text in similar)
        example = f"{texts.most_common(1)[0][0]}{' (numbers differ)' if len(texts) > 1 else ''}"
        notes.append(
            f"{len(similar):,} of {len(slides):,} slides ({names_text([name for name, _ in similar], 3)}): {example}."
        )
    return notes


def short_path(path: Path | str) -> str:
    """A file with its folder: many files have the same name in folders of their own.

    >>> short_path("/data/B0001/1.tiff")
    'B0001/1.tiff'
    """
    return "/".join(Path(path).parts[-2:])


def start_with_slides(files: Sequence[Path], study: Study) -> Start | None:
    """The beginning of a study if some of the files are whole slides; None if none is.

    Raises:
        CasewiseError: a TIFF looks like a slide, and the package that reads slides is not installed.
    """
    slides = [path for path in files if path.suffix.lower() in SLIDE_FILES or _has_levels(path)]
    if not slides:
        return None
    names = names_text([path.name for path in slides], 3)
    count = "is a whole slide" if len(slides) == 1 else "are whole slides"
    return Start(
        # labels are then of cases, not of images
        study.model_copy(update={"tiles": Tiles()}),
        _lines(slides[0], study),
        [
            f"{len(slides):,} of {len(files):,} {count} ({names}), cut into squares of {study.images.size} pixels: see "
            "`tiles` in the study file."
        ],
        "image or slide",
    )


def _has_levels(path: Path) -> bool:
    """Whether a TIFF has several levels, as only slides have."""
    if path.suffix.lower() not in TIFFS:
        return False
    try:
        return is_slide(path) and len(slide_facts(path).levels) > 1
    except ImageError:
        # `validate` names it; to begin a study no file needs to be readable.
        return False


def _lines(slide: Path, study: Study) -> list[str]:
    """The key that cuts slides, at a resolution that this slide states."""
    try:
        facts = slide_facts(slide)
    except CasewiseError:
        # The slide cannot be read here: `validate` says why.
        facts = None
    resolution = "mpp: 1.0"
    if facts is not None and facts.mpp is None:
        resolution = "level: 1" if facts.magnification is None else "magnification: 10"
    return [
        f"# Slides are cut into squares of {study.images.size} pixels (images.size). A square is used if at least",
        "# half of it is tissue (`min_tissue`); of more than `max_tiles` squares an even selection is used.",
        f"tiles: {{{resolution}, max_tiles: {MAX_TILES}}}",
    ]
