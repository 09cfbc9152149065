"""A cohort's slides cut into tiles: a row that names a slide becomes as many rows as the study takes tiles of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.cohort import Cohort, with_panels
from casewise.cohort.table import names_text
from casewise.errors import CohortError, ImageError, RunError
from casewise.modalities.slides.notes import called, notes_of
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd

    from casewise.console import Show
    from casewise.modalities.slides.plans import KeptSlide
    from casewise.modalities.slides.tiles import PlannedSlide, TilePlan
    from casewise.modalities.store.store import TileStore
    from casewise.modalities.store.store_builder import Budget

# Of a tile: its left upper corner and its side in level-0 pixels; -1 where a row is a whole image.
TILE = ("tile_x", "tile_y", "tile_side")
# What the slide says about itself, as text; empty for other images.
FACTS = ("slide_vendor", "slide_mpp", "slide_magnification", "slide_size")
# The folder of what was planned.
FOLDER = "slides"
# The small picture that stands for a slide; only in `pictures`.
PICTURE = "slide_picture"
# Slides that are planned at a time, and the bytes they may hold together: a large one takes half of them.
AT_ONCE = 4
MEMORY = 490 * 10**6
TIFFS = {".tif", ".tiff"}
SHOWN = 200


def is_cut(cohort: Cohort) -> bool:
    """Whether the cohort has tiles of slides."""
    return TILE[0] in cohort.images


def plan_of(study: Study) -> TilePlan:
    """Which tiles the study takes of its slides.

    Raises:
        CohortError: it does not say so.
    """
    from casewise.modalities.slides.tiles import TilePlan

    if study.tiles is None:
        raise CohortError(f"{study.cohort}: the study has no `tiles:`.")
    return TilePlan(side=study.images.size, **study.tiles.model_dump())


def cut(study: Study, cohort: Cohort, folder: Path | None, show: Show) -> Cohort:
    """The cohort with a row a tile: slides are replaced by their tiles, other images stay as they are.

    Rows of tiles have the columns `TILE` and `FACTS`, and all others as the slide's row had them. What is planned is
    kept in `folder`, so that a slide is read for it once.

    Raises:
        CohortError: a row names a slide, and the study does not say which tiles to take, or says something of single
            tiles that it can only know of slides.
        ImageError: slides cannot be cut; every one of them is in the message, and the others are kept.
        CasewiseError: the package that reads slides is not installed.
    """
    if study.tiles is None:
        refuse_slides(study, cohort)
        return cohort
    plan = plan_of(study)
    paths = [Path(path) for path in cohort.images["path"]]
    with show.bar("slides") as bar:
        planned = _planned(paths, plan, folder, lambda done: bar(done, len(paths)))
    slides = [slide for slide in planned if slide is not None]
    if not slides:
        note = "The study says which tiles to take of slides, but no row names a slide: images are taken as they are."
        return dataclasses.replace(cohort, notes=[*cohort.notes, note])
    _check(study, cohort)
    images = _expanded(cohort.images, planned)
    images, panels = with_panels(images, study)
    notes = [*cohort.notes, *notes_of(slides, plan)]
    if whole := [path for path, slide in zip(paths, planned, strict=True) if slide is None]:
        rows = "1 row names no slide" if len(whole) == 1 else f"{len(whole):,} rows name no slides"
        names = names_text(called(whole), 3)
        notes.append(f"{rows} but images ({names}), which are taken whole, as one tile each.")
    return Cohort(images=images, panels=panels, cases=cohort.cases, notes=notes)


def uncut(study: Study, cohort: Cohort) -> Cohort:
    """The cohort with a row a slide or image again; a cohort without slides as it is."""
    if not is_cut(cohort):
        return cohort
    images = cohort.images.drop_duplicates("path").drop(columns=list(TILE)).reset_index(drop=True)
    images, panels = with_panels(images, study)
    return dataclasses.replace(cohort, images=images, panels=panels)


def pictures(study: Study, cohort: Cohort, folder: Path, show: Show) -> tuple[Cohort, TileStore]:
    """One small picture for each slide and each image: what an audit looks at instead of tiles.

    Returns:
        The cohort as `uncut` has it, with the file that shows each row in the column `PICTURE`, and the tile store of
        these files. Its index says of slides what is known of their own files.

    Raises:
        RunError: what was planned of a slide is not in `folder` any more.
    """
    from casewise.modalities.store.preparation import Preparation
    from casewise.modalities.store.store_builder import prepare

    whole = uncut(study, cohort)
    cut_paths = set(cohort.images.loc[cohort.images["tile_side"] >= 0, "path"])
    slides = [slide_of(study, path, folder) if path in cut_paths else None for path in whole.images["path"]]
    files = [Path(p) if slide is None else slide.picture for p, slide in zip(whole.images["path"], slides, strict=True)]
    settings = study.images
    preparation = Preparation(size=settings.size, keep_ratio=settings.keep_ratio, channels=settings.channels)
    with show.bar("slides") as bar:
        store = prepare(files, preparation, folder / "pictures", progress=lambda done, total: bar(done, total))
    index = store.index.copy()
    for row, slide in enumerate(slides):
        if slide is None:
            continue
        # Bytes a pixel are then those of the slide, though width and height are those of its picture.
        shown = float(index.at[row, "width"]) * float(index.at[row, "height"])
        index.loc[row, ["path", "mode", "format"]] = [str(slide.path), slide.vendor, "slide"]
        index.loc[row, "bytes"] = max(1, round(slide.bytes * shown / (slide.size[0] * slide.size[1])))
    images = whole.images.assign(**{PICTURE: [str(file) for file in files]})
    return dataclasses.replace(whole, images=images), dataclasses.replace(store, index=index)


def slide_of(study: Study, path: Path | str, folder: Path) -> KeptSlide:
    """What is kept of a slide that was cut.

    Raises:
        RunError: it is not there any more, or the slide has changed since.
    """
    from casewise.modalities.slides.plans import find

    kept = find(Path(path), plan_of(study), folder)
    if kept is None:
        raise RunError(f"{path}: the slide, or what is kept of it in {folder}, changed during this run. Run again.")
    return kept


def sweep(study: Study, cohort: Cohort, folder: Path) -> None:
    """Remove from the folder what was planned by other settings, or of slides that are no longer in the cohort."""
    from casewise.modalities.slides import plans as slide_plans

    if is_cut(cohort):
        plan = plan_of(study)
        slide_plans.sweep(folder, {slide_plans.name_of(Path(path), plan) for path in cohort.images["path"].unique()})


def refuse_slides(study: Study, cohort: Cohort) -> None:
    """Stop where a row names a slide; a tiled TIFF of one level is an image as well."""
    from casewise.modalities.slides.content import SLIDE_FILES
    from casewise.modalities.slides.reader import is_slide, slide_facts

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
            f"{study.cohort}: {rows} ({names_text(called(slides), 3)}), and the study does not say which tiles to "
            f"take. Write for example `tiles: {{mpp: 1.0}}`: squares of {study.images.size} pixels (images.size) "
            "at one micron per pixel."
        )


def _check(study: Study, cohort: Cohort) -> None:
    """Stop where the study asks of single tiles what is only known of slides."""
    for name, target in study.targets.items():
        if target.level == "image":
            raise CohortError(
                f"targets.{name}: stands at image level, but what is recorded of a slide is not true of each of its "
                "tiles. Write `level: case`, or leave `level` out: tiles then learn the value of their case, and it is "
                "the case that is judged."
            )
    taken = [name for name in (*TILE, *FACTS, PICTURE) if name in cohort.images]
    if taken:
        raise CohortError(
            f"{study.cohort}: {taken[0]} is a name of casewise's own where slides are cut. Rename that column."
        )


def _planned(
    paths: Sequence[Path], plan: TilePlan, folder: Path | None, tell: Callable[[int], None]
) -> list[KeptSlide | PlannedSlide | None]:
    """What is planned of each path, None for what is no slide.

    Raises:
        ImageError: with the problems of all slides.
    """
    import joblib

    from casewise.modalities.store.store_builder import Budget

    budget = Budget(MEMORY)
    problems: dict[int, str] = {}
    planned: dict[int, KeptSlide | PlannedSlide | None] = {}
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
        kept = " What is planned of the others is kept." if folder and len(problems) < slides else ""
        raise ImageError("\n".join([f"{len(problems):,} of {slides:,} slides cannot be cut into tiles.{kept}", *lines]))
    return [planned[row] for row in range(len(paths))]


def _plan(path: Path, plan: TilePlan, folder: Path | None, budget: Budget) -> KeptSlide | PlannedSlide | None:
    from casewise.modalities.slides.content import SLIDE_FILES, is_cut_tiff
    from casewise.modalities.slides.plans import find, keep, name_of
    from casewise.modalities.slides.reader import is_slide
    from casewise.modalities.slides.tiles import plan_tiles

    if folder and (kept := find(path, plan, folder)):
        return kept
    suffix = path.suffix.lower()
    # A file that only its ending, or the beginning of a TIFF, makes a slide: reading it says what is wrong.
    broken = suffix in SLIDE_FILES or (suffix in TIFFS and is_cut_tiff(path))
    if not broken and not is_slide(path):
        return None
    # The name before the pixels: a slide that is replaced meanwhile is seen as changed the next time.
    name = name_of(path, plan)
    planned = plan_tiles(path, plan, budget)
    return (keep(planned, folder, name) if folder and name else None) or planned


def _expanded(images: pd.DataFrame, planned: Sequence[KeptSlide | PlannedSlide | None]) -> pd.DataFrame:
    """A row a tile; the numbers of images and panels are those of the slides still."""
    import numpy as np

    whole = np.full((1, 3), -1, np.int64)
    boxes = [whole if slide is None else slide.boxes for slide in planned]
    rows = np.repeat(np.arange(len(images)), [len(tiles) for tiles in boxes])
    places = dict(zip(TILE, np.concatenate(boxes).T, strict=True))
    facts = [("", "", "", "") if slide is None else _facts(slide) for slide in planned]
    fact_columns = {name: np.array([fact[i] for fact in facts], dtype=object)[rows] for i, name in enumerate(FACTS)}
    return images.iloc[rows].reset_index(drop=True).assign(**places, **fact_columns)


def _facts(slide: KeptSlide | PlannedSlide) -> tuple[str, str, str, str]:
    """`FACTS` of a slide."""
    from casewise.modalities.slides.plans import KeptSlide

    about = slide if isinstance(slide, KeptSlide) else slide.facts
    width, height = slide.size if isinstance(slide, KeptSlide) else (slide.facts.width, slide.facts.height)
    mpp = f"{about.mpp:.4g}" if about.mpp else ""
    return about.vendor, mpp, f"{about.magnification:g}" if about.magnification else "", f"{width}x{height}"
