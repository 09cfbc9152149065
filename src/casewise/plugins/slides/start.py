"""A new study of slides: which files are slides, and the settings that cut them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.table import names_text
from casewise.errors import CasewiseError, ImageError
from casewise.modalities.base import Start
from casewise.plugins.slides.content import SLIDE_FILES
from casewise.plugins.slides.settings import Tiles

if TYPE_CHECKING:
    from casewise.study.schema import Study

# The greatest number of tiles of one slide in a new study.
MAX_TILES = 200


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
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    from casewise.plugins.slides.reader import is_slide, slide_facts

    try:
        return is_slide(path) and len(slide_facts(path).levels) > 1
    except ImageError:
        # `validate` names it; to begin a study no file needs to be readable.
        return False


def _lines(slide: Path, study: Study) -> list[str]:
    """The key that cuts slides, at a resolution that this slide states."""
    from casewise.plugins.slides.reader import slide_facts

    try:
        facts = slide_facts(slide)
    except CasewiseError:
        # The slide cannot be read here: `validate` says why.
        facts = None
    resolution, others = "mpp: 1.0", "`magnification: 10`, or `level: 1` of each slide's pyramid"
    if facts is not None and facts.mpp is None:
        resolution, others = "level: 1", "`mpp: 1.0` with `assume_mpp: 0.5`, if you know how wide a pixel is"
        if facts.magnification is not None:
            resolution, others = "magnification: 10", "`level: 1` of each slide's pyramid"
    return [
        f"# Slides are cut into squares of {study.images.size} pixels (images.size). A square is used if at least",
        "# half of it is tissue (`min_tissue`); of more than `max_tiles` squares an even selection is used.",
        f"tiles: {{{resolution}, max_tiles: {MAX_TILES}}}  # or instead of {resolution.partition(':')[0]}: {others}",
    ]
