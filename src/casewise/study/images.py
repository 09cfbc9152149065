"""The parts of a study file that say which images there are, how they are prepared and how they make panels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from casewise.study.parts import Part, parse_grid, parse_share


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
    tissue: Annotated[float, BeforeValidator(parse_share), Field(ge=0, le=1)] = 0.5
    most: int | None = Field(None, ge=1)
    overlap: Annotated[float, BeforeValidator(parse_share), Field(ge=0, le=0.9)] = 0.0
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
    `order` a row names one slice of it, an image, and that column says the order from the feet to the head.
    """

    sequences: list[str] = Field(min_length=1)
    column: str = "sequence"
    order: str | None = None
    pixel_mm: float = Field(1.0, gt=0)
    slice_mm: float = Field(1.0, gt=0)
    plane: int = Field(256, ge=16, le=1024)
    bias: Literal["n4", "none"] = "n4"
    smoothing: Literal["edges", "none"] = "edges"
    roi: Literal["mask", "box", "centre", "none"] = "none"
    margin: float = Field(10.0, ge=0, le=1000)
    mask: str = "mask"
    lesion: str | None = None
    standardise: Literal["nyul", "none"] = "nyul"
    fusion: list[str] = Field(["early"], min_length=1)
    missing: Literal["require", "drop", "mask"] = "require"
    hide: float = Field(0.0, ge=0, lt=1)
    windows: Literal["central", "all"] = "central"

    @field_validator("fusion", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _taught(cls, values: Any) -> Any:
        # a stand-in that no training case needed would never be learned
        if isinstance(values, dict) and values.get("missing") == "mask":
            return {"hide": HIDDEN, **values}
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
        if self.hide and self.missing != "mask":
            raise ValueError("hide: sequences are hidden in training only with `missing: mask`")
        return self


# The default set of fastai's aug_transforms with the vertical flips of the published study.
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "fastai-default": {
        "rotate": 10,
        "flip": "both",
        "magnify": 0.1,
        "warp": 0.2,
        "brightness": 0.2,
        "contrast": 0.2,
        "vary": 0.75,
        "edge": "reflect",
    }
}


# Variations that are numbers, each off at 0.
MOVES = ("rotate", "shift", "zoom", "magnify", "warp", "brightness", "contrast")
# How many tiles of a case attention draws in a step.
DRAWN = 16


class Panels(Part):
    """What one forward pass sees, and how it varies in training. Inference is deterministic.

    `rotate` is in degrees to each side (`any` = 180); `shift` and `zoom` are shares of the tile; `magnify` enlarges by
    up to that share and never shrinks; `warp` moves the corners by up to that share of the half side (perspective);
    `brightness` and `contrast` are the half-widths of the factor's range around 1. `vary` is the share of tiles that
    are moved, and the share whose tone is changed.

    With `copies` panels do not vary from epoch to epoch: each is learned from as it is and in so many fixed copies,
    varied once. A copy stays with its panel, on the same side of every split.

    Where several panels show one case, `gather` says how they speak for it: by the `mean` of their predictions, by the
    most conspicuous (`max`), or by learned weights over features (`attention`, over all images of a case; `bag` of
    them are drawn in a training step).
    """

    by: Literal["region", "case", "image"] = "case"
    grid: Annotated[str, BeforeValidator(parse_grid)] = "1x1"
    shuffle: bool = False
    rotate: Annotated[float, BeforeValidator(lambda v: 180.0 if v == "any" else v), Field(ge=0, le=180)] = 0.0
    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    quarter_turns: bool = False
    shift: float = Field(0.0, ge=0, le=0.5)
    zoom: float = Field(0.0, ge=0, le=0.5)
    magnify: float = Field(0.0, ge=0, le=1)
    warp: float = Field(0.0, ge=0, le=0.5)
    brightness: float = Field(0.0, ge=0, lt=1)
    contrast: float = Field(0.0, ge=0, lt=1)
    vary: float = Field(1.0, gt=0, le=1)
    edge: Literal["black", "reflect"] = "black"
    augmentation: Literal["as_stated", "fastai-default"] = "as_stated"
    copies: int = Field(0, ge=0, le=100)
    gather: Literal["mean", "max", "attention"] = "mean"
    bag: int = Field(DRAWN, ge=2, le=1024)

    @model_validator(mode="after")
    def _gathered(self) -> Panels:
        if self.gather == "attention" and (self.by == "image" or self.grid != "1x1" or self.shuffle):
            raise ValueError(
                "gather: attention weighs all tiles of a case or region; it needs `by: case` (or region), "
                "without grid or shuffle"
            )
        if self.gather == "max" and self.by != "image":
            raise ValueError(
                "gather: max takes the most conspicuous of predictions image by image; it needs `by: image`"
            )
        return self

    @model_validator(mode="after")
    def _copied(self) -> Panels:
        """Copies are of panels that look one way each, and differ from them."""
        if not self.copies:
            return self
        if self.gather == "attention":
            raise ValueError(
                f"copies: {self.copies} copies cannot be made where attention draws a bag of tiles anew in each step; "
                "leave out copies (or gather), and tiles vary from epoch to epoch"
            )
        if self.shuffle:
            raise ValueError("copies: fixed copies keep every tile in its place; leave out shuffle or copies")
        if self.flip == "none" and not any(getattr(self, name) for name in MOVES):
            raise ValueError(
                f"copies: nothing varies, so {self.copies} copies of a panel would be the panel itself; state what "
                f"differs (flip, {', '.join(MOVES)}), or leave out copies"
            )
        return self

    @model_validator(mode="after")
    def _bagged(self) -> Panels:
        if self.gather != "attention" and self.bag != DRAWN:
            raise ValueError(f"bag: only gather: attention draws bags, and gather is {self.gather}; leave out bag")
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
        moved = self.rotate or self.shift or self.zoom or self.magnify or self.warp
        toned = self.brightness or self.contrast
        return bool(moved or toned or self.shuffle or self.flip != "none") and not self.copies

    @property
    def slots(self) -> int:
        """How many tiles a training panel holds; with attention, a bag."""
        return self.bag if self.gather == "attention" else self.rows * self.columns
