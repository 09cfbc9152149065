"""Which images there are and how they are prepared: photographs, tiles of slides, volumes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from casewise.errors import cut, nearest
from casewise.study.model import StudyModel, parse_fraction
from casewise.study.panels import Panels

if TYPE_CHECKING:
    from casewise.study.schema import Study

FUSIONS = ("early", "late", "late-shared")
# Default of `sequence_dropout` with `missing: mask`.
SEQUENCE_DROPOUT = 0.2


class Images(StudyModel):
    """How each image becomes a square tile of `size` pixels."""

    size: int = Field(
        128,
        ge=16,
        le=1024,
        description="Side of the square tile of an image, in pixels. A 2x2 panel is twice as wide. For volumes, the "
        "side of a slice as the network sees it; the other settings of `images` then have no effect. A "
        "planned recipe has 224 for photographs and films, less for smaller ones and 384 for at most "
        "1,000 images whose long sides have a median of 448 pixels or more.",
    )
    fit: Literal["auto", "pad", "crop", "stretch"] = Field(
        "auto",
        description="How an image that is not square becomes a square tile. `pad`: bars fill the rest. `crop`: its "
        "central square. `stretch`: it is stretched to the square. `auto`: [planned from the shapes of "
        "the images](howto-photographs.md#images-that-are-not-square) outside the test set, never from "
        "labels.",
    )
    padding: Literal["auto", "reflect", "mean", "black"] = Field(
        "auto",
        description="With `fit: pad`, what fills the bars: the image mirrored at its edge (`reflect`), its `mean` "
        "colour, or `black`. If shapes differ, bars that are not black vary in training. `auto`: `black` "
        "if all images have one shape, else `reflect`.",
    )
    channels: Literal["rgb", "grey"] = Field(
        "rgb", description="Colour, or one grey channel, which networks receive three times."
    )
    lesion: str | None = Field(
        None,
        description="Column with the mask of each image's lesions, a path from `root`, against which explanations are "
        "measured; empty where there is no lesion. Not used in training. For volumes, see "
        "`volumes.lesion`.",
    )
    store: Path | None = Field(
        None, description="Folder of the tile store, to share it between runs. Default: `tiles` in the run folder."
    )

    @model_validator(mode="after")
    def _check_padding(self) -> Images:
        if self.padding != "auto" and self.fit in ("crop", "stretch"):
            raise ValueError(
                f"padding: {self.padding!r} fills the bars of `fit: pad`, and `fit: {self.fit}` leaves no bars; write "
                "`fit: pad` to have them, else leave `padding` out (or write `padding: auto` if a preset states it)"
            )
        return self


class Tiles(StudyModel):
    """Which tiles are cut from every slide; a tile has a side of `images.size` pixels.

    At most one of `mpp` (microns per pixel), `magnification` and `level` states the resolution; without any of them
    it is that of the slide's finest level.
    """

    mpp: float | None = Field(
        None,
        gt=0,
        description="Resolution in microns per pixel. The next finer level of the slide is read and reduced. Give at "
        "most one of `mpp`, `magnification` and `level`; without any, the finest level is used.",
    )
    magnification: float | None = Field(
        None,
        gt=0,
        description="Resolution as the power of the objective, such as `20`, for slides whose files state it.",
    )
    level: int | None = Field(
        None,
        ge=0,
        description="Resolution as a level of the slide; 0 is the finest. If a slide has fewer levels, its coarsest "
        "one is used, with a note. Levels may differ between scanners: prefer `mpp`.",
    )
    min_tissue: Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, le=1)] = Field(
        0.5, description="Smallest fraction of a tile that must be tissue, detected by Otsu's threshold on colour."
    )
    max_tiles: int | None = Field(
        None,
        ge=1,
        description="Largest number of tiles of a slide; they are spread evenly over its tissue. Default: no limit.",
    )
    overlap: Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, le=0.9)] = Field(
        0.0, description="Fraction of its side that a tile shares with the next one."
    )
    assume_mpp: float | None = Field(
        None, gt=0, description="Microns per pixel of the finest level, for slides whose files do not state it."
    )

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


class Volumes(StudyModel):
    """Which scans form a case, how their slices are prepared, and how a network combines several sequences.

    A row of the table names one scan, whose sequence is in the column `sequence`: a NIfTI file or a DICOM series. With
    `slice_index` a row names one slice image, and that column gives the order from the feet to the head.
    """

    sequences: list[str] = Field(
        min_length=1,
        description="The sequences of a case in order, spelled as in the table's column: `[T1, T2]`. Rows with others "
        "are left out and counted. The first sequence of a case defines the grid onto which the others "
        "are resampled.",
    )
    column: str = Field("sequence", description="Column of the table that names the sequence of a row.")
    slice_index: str | None = Field(
        None,
        description="For tables with one slice image in each row: the column with the position of the slice, rising "
        "from the feet to the head. Empty: a row is a whole scan.",
    )
    pixel_mm: float = Field(
        1.0, gt=0, description="For slice images (`slice_index`): distance between pixels in millimetres."
    )
    slice_mm: float = Field(
        1.0, gt=0, description="For slice images (`slice_index`): distance between slices in millimetres."
    )
    in_plane_size: int = Field(
        256,
        ge=16,
        le=1024,
        description="Side in pixels of the square axial plane to which every slice is resampled before anything is "
        "cropped.",
    )
    bias: Literal["n4", "none"] = Field(
        "n4",
        description="`n4`: correct the bias field of every scan (N4, fitted on a coarser grid, applied at full "
        "resolution).",
    )
    smoothing: Literal["edge_preserving", "none"] = Field(
        "edge_preserving", description="`edge_preserving`: smooth every scan, but not across edges."
    )
    roi: Literal["mask", "box", "centre", "none"] = Field(
        "none",
        description="The region of the plane that networks see, the same square for all slices of a case, with a side "
        "of `images.size` pixels: around a `mask`, around a `box` (columns `box_x0` to `box_z1`, in "
        "voxels of the file of the case's first sequence, from 0, ends not included), the central pixels "
        "(`centre`, not resized), or the whole plane (`none`). Mask and box also select the slices.",
    )
    margin: float = Field(
        10.0, ge=0, le=1000, description="Millimetres added around the mask or box, in plane and between slices."
    )
    mask: str = Field(
        "mask", description="With `roi: mask`, the column that names a case's mask, a volume; one for each case."
    )
    lesion: str | None = Field(
        None,
        description="Column that names a case's lesion mask, against which explanations are measured. Not used in "
        "training.",
    )
    standardise: Literal["nyul", "none"] = Field(
        "nyul",
        description="`nyul`: bring the intensities of all scans of a sequence onto one scale by histogram landmarks, "
        "fitted on the training subjects of a network. `none`: scale each scan's own range to 0 to 1. "
        "Units are lost in both cases.",
    )
    fusion: list[str] = Field(
        ["early"],
        min_length=1,
        description="How several sequences are combined; each way in a list trains a separate network "
        "(`BACKBONE@FUSION`): `early` (channels of the first layer), `late` (one body for each sequence, "
        "features concatenated before the head), `late-shared` (one body for all sequences), or the name "
        "of a single sequence. For a single backbone, write `BACKBONE@FUSION` in `backbones`.",
    )
    missing: Literal["require", "drop", "mask"] = Field(
        "require",
        description="Cases that lack a sequence: `require` refuses them, `drop` leaves them out, both with a list; "
        "`mask` puts a learned token in place of the missing sequence. All `sequences` count, also for "
        "networks that use only one.",
    )
    sequence_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="With `missing: mask`, the probability that a sequence of a case is hidden in a training step; at "
        "least one remains. Default: 0.2 with `mask`, else 0.",
    )
    inference_windows: Literal["central", "all"] = Field(
        "central",
        description="A prediction uses the `central` window of a case's slices, or the mean over `all` windows. In "
        "training a window is drawn at random.",
    )

    @field_validator("fusion", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _default_dropout(cls, values: Any) -> Any:
        # without dropout, a token that no training case needs would never be trained
        if isinstance(values, dict) and values.get("missing") == "mask":
            return {"sequence_dropout": SEQUENCE_DROPOUT, **values}
        return values

    @model_validator(mode="after")
    def _check_fusion(self) -> Volumes:
        for name, values in (("sequences", self.sequences), ("fusion", self.fusion)):
            duplicate = next((v for v, count in Counter(values).items() if count > 1), None)
            if duplicate:
                raise ValueError(f"{name}: {cut(duplicate)} is listed twice")
        allowed = (*FUSIONS, *self.sequences)
        for fusion in self.fusion:
            if fusion not in allowed:
                raise ValueError(
                    f"fusion: {cut(fusion)} is none of {', '.join(FUSIONS)}, and no sequence.{nearest(fusion, allowed)}"
                )
            if fusion in FUSIONS[1:] and len(self.sequences) < 2:
                raise ValueError(f"fusion: {cut(fusion)} combines several sequences, and the study has one")
        if any(name in FUSIONS or "@" in name for name in self.sequences):
            raise ValueError(f"sequences: {', '.join(FUSIONS)} and names with @ are reserved")
        if self.sequence_dropout and self.missing != "mask":
            raise ValueError("sequence_dropout: sequences are hidden in training only with `missing: mask`")
        return self

    def check_with(self, study: Study) -> None:
        """A panel of slices is a window of one case, and all its slices are augmented together."""
        panels, images = study.panels, study.images
        if study.tiles:
            raise ValueError("tiles: are cut from slides, and the images of this study are `volumes`; leave one out")
        if study.regions:
            raise ValueError(
                "regions: are photographed parts of one visit, and a scanned part is a separate case with `volumes`: "
                "give each part its own visit, and leave out `regions`"
            )
        if panels.by != "case":
            raise ValueError(
                f"panels.by: {cut(panels.by)} is not for `volumes`; write `by: case`, a window of its slices"
            )
        if panels.rows != panels.columns:
            raise ValueError(f"panels.grid: slices fill a square, such as 3x3; found {cut(panels.grid)}")
        kept = {name: getattr(panels, name) for name in ("grid", "flip", "quarter_turns", "bag")}
        allowed_panels = Panels(by="case", pooling="maps" if panels.pooling == "maps" else "mean", **kept)
        if key := _first_difference(panels, allowed_panels, list(Panels.model_fields)):
            raise ValueError(
                f"panels.{key}: slices are augmented by `flip` and `quarter_turns` only, all slices of a panel "
                f"together; leave {key} out"
            )
        if panels.flip not in ("none", "horizontal"):
            raise ValueError(
                f"panels.flip: slices are mirrored from left to right only; write horizontal, not {panels.flip}"
            )
        if images.lesion:
            raise ValueError("images.lesion: is for photographs; name the masks of scans as volumes.lesion")
        if key := _first_difference(images, Images(), ["channels", "fit", "padding", "store"]):
            raise ValueError(f"images.{key}: has no effect on slices; leave it out")
        if study.test_time_augmentation:
            raise ValueError(
                "test_time_augmentation: mirrors a whole panel, which would reorder its slices; leave it out"
            )
        allowed = [*(FUSIONS if len(self.sequences) > 1 else FUSIONS[:1]), *self.sequences]
        for name in study.backbones:
            backbone, at, fusion = name.partition("@")
            if at and (fusion not in allowed or not backbone):
                raise ValueError(
                    f"backbones: {cut(name)}: the name after @ is one of "
                    f"{', '.join(allowed)}.{nearest(fusion, allowed)}"
                )
        duplicate = next((name for name, count in Counter(study.networks).items() if count > 1), None)
        if duplicate:
            raise ValueError(f"backbones: {cut(duplicate)} is listed twice")


def _first_difference(section: StudyModel, other: StudyModel, keys: list[str]) -> str | None:
    return next((key for key in keys if getattr(section, key) != getattr(other, key)), None)
