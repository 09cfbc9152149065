"""The section `tiles` of a study file: which tiles are cut from whole slides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field, model_validator

from casewise.study.images import ModalitySettings
from casewise.study.model import Level, StudyModel, parse_fraction

if TYPE_CHECKING:
    from casewise.study.schema import Study


class Tiles(ModalitySettings):
    """Which tiles are cut from every slide; a tile has a side of `images.size` pixels.

    At most one of `mpp` (microns per pixel), `magnification` and `level` states the resolution; by default it is the
    resolution of the slide's finest level.
    """

    mpp: float | None = Field(None, gt=0)
    """Resolution in microns per pixel. The next finer level of the slide is read and reduced. Give at most one of
    `mpp`, `magnification` and `level`; without any, the finest level is used."""
    magnification: float | None = Field(None, gt=0)
    """Resolution as the power of the objective, such as `20`, for slides whose files state it."""
    level: int | None = Field(None, ge=0)
    """Resolution as a level of the slide; 0 is the finest. If a slide has fewer levels, its coarsest one is used, with
    a note."""
    min_tissue: Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, le=1)] = 0.5
    """Smallest fraction of a tile that must be tissue, detected by Otsu's threshold on colour."""
    max_tiles: int | None = Field(None, ge=1)
    """Largest number of tiles of a slide; they are spread evenly over its tissue. Default: no limit."""
    assume_mpp: float | None = Field(None, gt=0)
    """Microns per pixel of the finest level, for slides whose files do not state it."""

    @model_validator(mode="after")
    def _check_resolution(self) -> Tiles:
        stated = [name for name in ("mpp", "magnification", "level") if getattr(self, name) is not None]
        if len(stated) > 1:
            raise ValueError(f"{' and '.join(stated)} are stated, but a tile has one resolution; keep one of them")
        return self

    def check_with(self, study: Study) -> None:
        """A mask of a whole slide is not mapped onto its tiles."""
        if study.images.lesion:
            raise ValueError("images.lesion: maps of slides are not measured against masks; leave it out")

    def target_level(self, study: Study) -> Level | None:
        """A label belongs to a whole slide, and so to its case."""
        return "case" if study.panels.by == "image" else None


class SlidesKeys(StudyModel):
    """The key `tiles`."""

    tiles: Tiles | None = None
    """Which tiles are cut from [whole slides](howto-slides.md). Required where the table names slides. A target
    without `level` is then at case level where `panels.by` is `image`. Needs `pip install 'casewise[slides]'`."""


def tiles_of(study: Study) -> Tiles | None:
    """The study's settings of tiles; None without them."""
    tiles: Tiles | None = study.key("tiles")
    return tiles
