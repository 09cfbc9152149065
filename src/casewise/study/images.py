"""How images are prepared, and what the settings of a modality may decide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from casewise.study.model import Level, StudyModel

if TYPE_CHECKING:
    from casewise.study.schema import Study


class Images(StudyModel):
    """How each image becomes a square tile of `size` pixels."""

    size: int = Field(128, ge=16, le=1024)
    """Side of the square tile of an image, in pixels. A 2x2 panel is twice as wide. For volumes, the side of a slice as
    the network sees it; the other settings of `images` then have no effect. A planned recipe has 224 for photographs
    and films, less for smaller ones and 384 for at most 1,000 images whose long sides have a median of 448 pixels or
    more."""
    fit: Literal["auto", "pad", "crop", "stretch"] = "auto"
    """How an image that is not square becomes a square tile. `pad`: bars fill the rest. `crop`: its central square.
    `stretch`: it is stretched to the square. `auto`: [planned from the shapes of the
    images](howto-photographs.md#images-that-are-not-square) outside the test set, never from labels."""
    padding: Literal["auto", "reflect", "mean", "black"] = "auto"
    """With `fit: pad`, what fills the bars: the image mirrored at its edge (`reflect`), its `mean` colour, or `black`.
    If shapes differ, bars that are not black vary in training. `auto`: `black` if all images have one shape, else
    `reflect`."""
    channels: Literal["rgb", "grey"] = "rgb"
    """Colour, or one grey channel, which networks receive three times."""
    lesion: str | None = None
    """Column with the mask of each image's lesions, a path from `root`, against which explanations are measured; empty
    where there is no lesion. Not used in training. For volumes, see `volumes.lesion`."""
    store: Path | None = None
    """Folder of the tile store, to share it between runs. Default: `tiles` in the run folder."""

    @model_validator(mode="after")
    def _check_padding(self) -> Images:
        if self.padding != "auto" and self.fit in ("crop", "stretch"):
            raise ValueError(
                f"padding: {self.padding!r} fills the bars of `fit: pad`, and `fit: {self.fit}` leaves no bars; write "
                "`fit: pad` to have them, else leave `padding` out (or write `padding: auto` if a preset states it)"
            )
        return self


class ModalitySettings(StudyModel):
    """The section of a study file with the settings of a modality, and what it decides for the rest of the study."""

    @property
    def folders_allowed(self) -> bool:
        """Whether a path of the table may be a folder, as of a DICOM series."""
        return False

    def landmarks_of_subjects(self, study: Study) -> bool:
        """Whether intensities are standardised by all images of a subject, of whom every image is a case."""
        return False

    def target_level(self, study: Study) -> Level | None:
        """The level of a target that states none; None for that of a panel."""
        return None
