"""A cohort's slides cut into tiles: a row that names a slide becomes one row for each of its tiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.cohort import Cohort, with_panels
from casewise.cohort.table import names_text
from casewise.errors import CohortError, ImageError, RunError
from casewise.plugins.slides.notes import called, notes_of
from casewise.plugins.slides.settings import tiles_of
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd

    from casewise.console import Show
    from casewise.modalities.store.store import TileStore
    from casewise.modalities.store.store_builder import Budget
    from casewise.plugins.slides.plans import StoredSlide
    from casewise.plugins.slides.tiles import PlannedSlide, TilePlan

# Upper left corner and side of a tile in level-0 pixels; -1 if a row is a whole image.
TILE = ("tile_x", "tile_y", "tile_side")
# Facts of the slide as text; empty for other images.
FACTS = ("slide_vendor", "slide_mpp", "slide_magnification", "slide_size")
# The folder of planned tiles.
FOLDER = "slides"
# The thumbnail of a slide; only in `pictures`.
PICTURE = "slide_picture"
# The number of slides that are planned at a time, and the bytes they may use together: a large one uses half of them.
AT_ONCE = 4
MEMORY = 490 * 10**6
TIFFS = {".tif", ".tiff"}
SHOWN = 200


def has_tiles(cohort: Cohort) -> bool:
    """Whether the cohort has tiles of slides."""
    return TILE[0] in cohort.images


def plan_of(study: Study) -> TilePlan:
    """The rules by which the study cuts its slides.

    Raises:
        CohortError: the study states none.
    """
    from casewise.plugins.slides.tiles import TilePlan

    if (tiles := tiles_of(study)) is None:
        raise CohortError(f"{study.cohort}: the study has no `tiles:`.")
    return TilePlan(side=study.images.size, **tiles.model_dump())


def into_tiles(study: Study, cohort: Cohort, folder: Path | None, show: Show) -> Cohort:
    """The cohort with a row a tile: slides are replaced by their tiles, other images stay as they are.

    Rows of tiles have the columns `TILE` and `FACTS` and all columns of the slide's row. Planned tiles are stored in
    `folder`, so that a slide is read only once for them.

    Raises:
        CohortError: a row names a slide and the study has no `tiles:`, or it states labels of single tiles.
        ImageError: slides cannot be cut; every one of them is in the message, and the others are kept.
        CasewiseError: the package that reads slides is not installed.
    """
    if tiles_of(study) is None:
        refuse_slides(study, cohort)
        return cohort
    plan = plan_of(study)
    paths = [Path(path) for path in cohort.images["path"]]
    with show.bar("slides") as bar:
        planned = _planned(paths, plan, folder, lambda done: bar(done, len(paths)))
    slides = [slide for slide in planned if slide is not None]
    if not slides:
        note = "The study states how to cut slides, but no row names a slide: images are used as they are."
        return dataclasses.replace(cohort, notes=[*cohort.notes, note])
    _check(study, cohort)
    images = _expanded(cohort.images, planned)
    images, panels = with_panels(images, study)
    notes = [*cohort.notes, *notes_of(slides, plan)]
    if whole := [path for path, slide in zip(paths, planned, strict=True) if slide is None]:
        rows = "1 row names no slide" if len(whole) == 1 else f"{len(whole):,} rows name no slides"
        names = names_text(called(whole), 3)
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
    files = [Path(p) if slide is None else slide.picture for p, slide in zip(whole.images["path"], slides, strict=True)]
    preparation = Preparation(size=study.images.size, channels=study.images.channels)
    with show.bar("slides") as bar:
        store = prepare(files, preparation, folder / "pictures", progress=lambda done, total: bar(done, total))
    index = store.index.copy()
    for row, slide in enumerate(slides):
        if slide is None:
            continue
        # Bytes per pixel are those of the slide, but width and height are those of its thumbnail.
        shown = float(index.at[row, "width"]) * float(index.at[row, "height"])
        index.loc[row, ["path", "mode", "format"]] = [str(slide.path), slide.vendor, "slide"]
        index.loc[row, "bytes"] = max(1, round(slide.bytes * shown / (slide.size[0] * slide.size[1])))
    images = whole.images.assign(**{PICTURE: [str(file) for file in files]})
    return dataclasses.replace(whole, images=images), dataclasses.replace(store, index=index, overview=True)


def slide_of(study: Study, path: Path | str, folder: Path) -> StoredSlide:
    """The stored tiles of a slide.

    Raises:
        RunError: they are not there any more, or the slide has changed since.
    """
    from casewise.plugins.slides.plans import find

    stored = find(Path(path), plan_of(study), folder)
    if stored is None:
        raise RunError(f"{path}: the slide or its stored tiles in {folder} changed during this run. Run again.")
    return stored


def sweep(study: Study, cohort: Cohort, folder: Path) -> None:
    """Remove stored tiles of other settings and of slides that are no longer in the cohort."""
    from casewise.plugins.slides import plans as slide_plans

    if has_tiles(cohort):
        plan = plan_of(study)
        slide_plans.sweep(folder, {slide_plans.name_of(Path(path), plan) for path in cohort.images["path"].unique()})


def refuse_slides(study: Study, cohort: Cohort) -> None:
    """Refuse rows that name slides; a tiled TIFF of one level counts as an image.

    Raises:
        CohortError: naming the slides.
    """
    from casewise.plugins.slides.content import SLIDE_FILES
    from casewise.plugins.slides.reader import is_slide, slide_facts

    slides = []
    for path in map(Path, cohort.images["path"]):
        if path.suffix.lower() not in SLIDE_FILES | TIFFS or not is_slide(path):
            continue
        facts = None if path.suffix.lower() in SLIDE_FILES else slide_facts(path)
        if facts is None or len(facts.levels) > 1 or facts.vendor != "generic-tiff":
            slides.append(path)
    if slides:
        rows = "1 row names a whole slide" if len(slides) == 1 else f"{len(slides):,} rows name whole slides"
        raise CohortError(
            f"{study.cohort}: {rows} ({names_text(called(slides), 3)}), and the study does not state how to cut "
            f"them. Write for example `tiles: {{mpp: 1.0}}`: squares of {study.images.size} pixels (images.size) "
            "at one micron per pixel."
        )


def _check(study: Study, cohort: Cohort) -> None:
    """Refuse labels of single tiles, which are only known of slides, and columns with reserved names."""
    for name, target in study.targets.items():
        if target.level == "image":
            raise CohortError(
                f"targets.{name}: its level is image, but a label of a slide does not hold for each of its tiles. "
                "Write `level: case`, or leave `level` out: tiles then learn the label of their case, and the case is "
                "judged."
            )
    reserved = [name for name in (*TILE, *FACTS, PICTURE) if name in cohort.images]
    if reserved:
        raise CohortError(
            f"{study.cohort}: {reserved[0]} is a reserved column name if slides are cut. Rename that column."
        )


def _planned(
    paths: Sequence[Path], plan: TilePlan, folder: Path | None, tell: Callable[[int], None]
) -> list[StoredSlide | PlannedSlide | None]:
    """The tiles of each path; None for images that are not slides.

    Raises:
        ImageError: with the problems of all slides.
    """
    import joblib

    from casewise.modalities.store.store_builder import Budget

    budget = Budget(MEMORY)
    problems: dict[int, str] = {}
    planned: dict[int, StoredSlide | PlannedSlide | None] = {}
    pool = ThreadPoolExecutor(min(AT_ONCE, int(joblib.cpu_count())), thread_name_prefix="slides")
    try:
        jobs = {pool.submit(_plan, path, plan, folder, budget): row for row, path in enumerate(paths)}
        for done, job in enumerate(as_completed(jobs), 1):
            try:
                planned[jobs[job]] = job.result()
            except ImageError as error:
                problems[jobs[job]] = str(error)
            tell(done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if problems:
        slides = len(problems) + sum(slide is not None for slide in planned.values())
        lines = [f"  {problems[row]}" for row in sorted(problems)]
        if len(lines) > SHOWN:
            lines[SHOWN:] = [f"  … and {len(lines) - SHOWN:,} more like these."]
        more = " The plans of the others are kept." if folder and len(problems) < slides else ""
        raise ImageError("\n".join([f"{len(problems):,} of {slides:,} slides cannot be cut into tiles.{more}", *lines]))
    return [planned[row] for row in range(len(paths))]


def _plan(path: Path, plan: TilePlan, folder: Path | None, budget: Budget) -> StoredSlide | PlannedSlide | None:
    from casewise.plugins.slides.content import SLIDE_FILES, is_cut_tiff
    from casewise.plugins.slides.plans import find, keep, name_of
    from casewise.plugins.slides.reader import is_slide
    from casewise.plugins.slides.tiles import plan_tiles

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


def _expanded(images: pd.DataFrame, planned: Sequence[StoredSlide | PlannedSlide | None]) -> pd.DataFrame:
    """One row for each tile; images and panels still have the numbers of the slides."""
    import numpy as np

    whole = np.full((1, 3), -1, np.int64)
    boxes = [whole if slide is None else slide.boxes for slide in planned]
    rows = np.repeat(np.arange(len(images)), [len(tiles) for tiles in boxes])
    positions = dict(zip(TILE, np.concatenate(boxes).T, strict=True))
    facts = [("", "", "", "") if slide is None else _facts(slide) for slide in planned]
    fact_columns = {name: np.array([fact[i] for fact in facts], dtype=object)[rows] for i, name in enumerate(FACTS)}
    return images.iloc[rows].reset_index(drop=True).assign(**positions, **fact_columns)


def _facts(slide: StoredSlide | PlannedSlide) -> tuple[str, str, str, str]:
    """`FACTS` of a slide."""
    from casewise.plugins.slides.plans import StoredSlide

    about = slide if isinstance(slide, StoredSlide) else slide.facts
    width, height = slide.size if isinstance(slide, StoredSlide) else (slide.facts.width, slide.facts.height)
    mpp = f"{about.mpp:.4g}" if about.mpp else ""
    return about.vendor, mpp, f"{about.magnification:g}" if about.magnification else "", f"{width}x{height}"
