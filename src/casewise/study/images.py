"""The parts of a study file that say which images there are, how they are prepared and how they make panels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from casewise.study.parts import Part, parse_fraction, parse_grid


class Images(Part):
    """How each image becomes a tile: longest side to `size` pixels, ratio kept, centred on black."""

    size: int = Field(128, ge=16, le=1024)
    keep_ratio: bool = True
    channels: Literal["rgb", "grey"] = "rgb"
    store: Path | None = None


class Tiles(Part):
    """Which tiles are cut from every slide; a tile has `images.size` pixels a side.

    At most one of `mpp` (microns per pixel), `magnification` and `level` says at which resolution; without any of them
    it is that of the slide's finest level.
    """

    mpp: float | None = Field(None, gt=0)
    magnification: float | None = Field(None, gt=0)
    level: int | None = Field(None, ge=0)
    min_tissue: Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, le=1)] = 0.5
    max_tiles: int | None = Field(None, ge=1)
    overlap: Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, le=0.9)] = 0.0
    assume_mpp: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_resolution(self) -> Tiles:
        stated = [name for name in ("mpp", "magnification", "level") if getattr(self, name) is not None]
        if len(stated) > 1:
            raise ValueError(f"{' and '.join(stated)} are stated, but a tile has one resolution; keep one of them")
        return self


FUSIONS = ("early", "late", "late-shared")


# The chance of a sequence to be hidden in training, with `missing: mask`.
HIDDEN = 0.2


class Volumes(Part):
    """Which scans make a case, how their slices are prepared, and how a network looks at several sequences.

    A row of the table names one scan of the sequence in its column `sequence`: a NIfTI file or a DICOM series. With
    `slice_index` a row names one slice of it, an image, and that column says the order from the feet to the head.
    """

    sequences: list[str] = Field(min_length=1)
    column: str = "sequence"
    slice_index: str | None = None
    pixel_mm: float = Field(1.0, gt=0)
    slice_mm: float = Field(1.0, gt=0)
    in_plane_size: int = Field(256, ge=16, le=1024)
    bias: Literal["n4", "none"] = "n4"
    smoothing: Literal["edge_preserving", "none"] = "edge_preserving"
    roi: Literal["mask", "box", "centre", "none"] = "none"
    margin: float = Field(10.0, ge=0, le=1000)
    mask: str = "mask"
    lesion: str | None = None
    standardise: Literal["nyul", "none"] = "nyul"
    fusion: list[str] = Field(["early"], min_length=1)
    missing: Literal["require", "drop", "mask"] = "require"
    sequence_dropout: float = Field(0.0, ge=0, lt=1)
    inference_windows: Literal["central", "all"] = "central"

    @field_validator("fusion", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _taught(cls, values: Any) -> Any:
        # a stand-in that no training case needed would never be learned
        if isinstance(values, dict) and values.get("missing") == "mask":
            return {"sequence_dropout": HIDDEN, **values}
        return values

    @model_validator(mode="after")
    def _fused(self) -> Volumes:
        from casewise.errors import nearest

        for name, values in (("sequences", self.sequences), ("fusion", self.fusion)):
            twice = next((v for v in values if values.count(v) > 1), None)
            if twice:
                raise ValueError(f"{name}: {twice!r} is there twice")
        for fusion in self.fusion:
            if fusion not in (*FUSIONS, *self.sequences):
                known = (*FUSIONS, *self.sequences)
                raise ValueError(
                    f"fusion: {fusion!r} is none of {', '.join(FUSIONS)}, and no sequence.{nearest(fusion, known)}"
                )
            if fusion in FUSIONS[1:] and len(self.sequences) < 2:
                raise ValueError(f"fusion: {fusion!r} joins several sequences, and there is one")
        if any(name in FUSIONS or "@" in name for name in self.sequences):
            raise ValueError(f"sequences: {', '.join(FUSIONS)} and names with @ mean something else here")
        if self.sequence_dropout and self.missing != "mask":
            raise ValueError("sequence_dropout: sequences are hidden in training only with `missing: mask`")
        return self


# The default set of fastai's aug_transforms with the vertical flips of the published study.
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "fastai-default": {
        "rotate": 10,
        "flip": "both",
        "zoom_in": 0.1,
        "perspective": 0.2,
        "brightness": 0.2,
        "contrast": 0.2,
        "probability": 0.75,
        "padding_mode": "reflect",
    }
}


# Variations that are numbers, each off at 0.
MOVES = ("rotate", "translate", "zoom", "zoom_in", "perspective", "brightness", "contrast")
# How many tiles of a case attention draws in a step.
DRAWN = 16


class Panels(Part):
    """What one forward pass sees, and how it varies in training. Inference is deterministic.

    `rotate` is in degrees to each side (`any` = 180); `translate` and `zoom` are shares of the tile; `zoom_in` enlarges
    by up to that share and never shrinks; `perspective` moves the corners by up to that share of the half side
    (perspective); `brightness` and `contrast` are the half-widths of the factor's range around 1. `probability` is the
    share of tiles that are moved, and the share whose tone is changed.

    With `offline_copies` panels do not vary from epoch to epoch: each is learned from as it is and in so many fixed
    copies, varied once. A copy stays with its panel, on the same side of every split.

    Where several panels show one case, `pooling` says how they speak for it: by the `mean` of their predictions, by the
    most conspicuous (`max`), or by learned weights over features (`attention`, over all images of a case; `bag` of
    them are drawn in a training step).
    """

    by: Literal["region", "case", "image"] = "case"
    grid: Annotated[str, BeforeValidator(parse_grid)] = "1x1"
    shuffle: bool = False
    rotate: Annotated[float, BeforeValidator(lambda v: 180.0 if v == "any" else v), Field(ge=0, le=180)] = 0.0
    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    quarter_turns: bool = False
    translate: float = Field(0.0, ge=0, le=0.5)
    zoom: float = Field(0.0, ge=0, le=0.5)
    zoom_in: float = Field(0.0, ge=0, le=1)
    perspective: float = Field(0.0, ge=0, le=0.5)
    brightness: float = Field(0.0, ge=0, lt=1)
    contrast: float = Field(0.0, ge=0, lt=1)
    probability: float = Field(1.0, gt=0, le=1)
    padding_mode: Literal["black", "reflect"] = "black"
    augmentation: Literal["as_stated", "fastai-default"] = "as_stated"
    offline_copies: int = Field(0, ge=0, le=100)
    pooling: Literal["mean", "max", "attention"] = "mean"
    bag: int = Field(DRAWN, ge=2, le=1024)

    @model_validator(mode="after")
    def _gathered(self) -> Panels:
        if self.pooling == "attention" and (self.by == "image" or self.grid != "1x1" or self.shuffle):
            raise ValueError(
                "pooling: attention weighs all tiles of a case or region; it needs `by: case` (or region), "
                "without grid or shuffle"
            )
        if self.pooling == "max" and self.by != "image":
            raise ValueError(
                "pooling: max takes the most conspicuous of predictions image by image; it needs `by: image`"
            )
        return self

    @model_validator(mode="after")
    def _copied(self) -> Panels:
        """Copies are of panels that look one way each, and differ from them."""
        if not self.offline_copies:
            return self
        if self.pooling == "attention":
            raise ValueError(
                f"offline_copies: {self.offline_copies} copies cannot be made where attention draws a bag of tiles "
                "anew in each step; "
                "leave out offline_copies (or pooling), and tiles vary from epoch to epoch"
            )
        if self.shuffle:
            raise ValueError(
                "offline_copies: fixed copies keep every tile in its place; leave out shuffle or offline_copies"
            )
        if self.flip == "none" and not any(getattr(self, name) for name in MOVES):
            raise ValueError(
                f"offline_copies: nothing varies, so {self.offline_copies} copies of a panel would be the panel "
                "itself; state what "
                f"differs (flip, {', '.join(MOVES)}), or leave out offline_copies"
            )
        return self

    @model_validator(mode="after")
    def _bagged(self) -> Panels:
        if self.pooling != "attention" and self.bag != DRAWN:
            raise ValueError(f"bag: only pooling: attention draws bags, and pooling is {self.pooling}; leave out bag")
        return self

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        """A named set of variations fills in what is not stated itself."""
        name = values.get("augmentation") if isinstance(values, dict) else None
        return {**AUGMENTATIONS[name], **values} if name in AUGMENTATIONS else values

    @property
    def rows(self) -> int:
        return int(self.grid.split("x")[0])

    @property
    def columns(self) -> int:
        return int(self.grid.split("x")[1])

    @property
    def varied(self) -> bool:
        """Whether training panels differ from epoch to epoch."""
        moved = self.rotate or self.translate or self.zoom or self.zoom_in or self.perspective
        toned = self.brightness or self.contrast
        return bool(moved or toned or self.shuffle or self.flip != "none") and not self.offline_copies

    @property
    def slots(self) -> int:
        """How many tiles a training panel holds; with attention, a bag."""
        return self.bag if self.pooling == "attention" else self.rows * self.columns
