"""The parts of a study file, each with its allowed values and defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


def parse_range(value: Any) -> Any:
    """Read `0..4` as (0.0, 4.0); anything else is left to the type check.

    >>> parse_range("0..4")
    (0.0, 4.0)
    """
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*\.\.\s*(-?\d+(?:\.\d+)?)\s*", value)
        if not found:
            raise ValueError("a range is written as two numbers, such as 0..4")
        return float(found[1]), float(found[2])
    return value


def parse_share(value: Any) -> Any:
    """Read `10%` as 0.1.

    >>> parse_share("10%")
    0.1
    """
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            raise ValueError("a share is written as 10% or 0.1") from None
    return value


def texts(value: Any) -> Any:
    """Table cells are compared as text: numbers in `where` become text.

    >>> texts({"known": 1, "site": ["a", 2]})
    {'known': '1', 'site': ['a', '2']}
    """
    if not isinstance(value, dict):
        return value
    return {k: [str(i) for i in v] if isinstance(v, list) else str(v) for k, v in value.items()}


Where = Annotated[dict[str, str | list[str]], BeforeValidator(texts)]
Range = Annotated[tuple[float, float], BeforeValidator(parse_range)]
Share = Annotated[float, BeforeValidator(parse_share), Field(ge=0, lt=1)]
Metric = Literal[
    "mae",
    "mse",
    "pcc",
    "ccc",
    "icc",
    "bias",
    "accuracy",
    "balanced_accuracy",
    "auroc",
    "auprc",
    "precision",
    "recall",
    "f1",
    "kappa",
    "kappa_quadratic",
    "sensitivity",
    "specificity",
]
Level = Literal["image", "region", "case", "subject"]
Kind = Literal["regression", "classification", "ordinal"]
STACKERS = {
    "linear": "meta_learner",
    "linear+intercept": "meta_learner_w_intercept",
    "ridge": "meta_learner_ridge",
    "ridge+intercept": "meta_learner_ridge_w_intercept",
    "logistic": "meta_learner_logistic",
    "mean": "mean_of_learners",
}


class Part(BaseModel):
    """A part of the study file: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


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
    grid: str = Field("1x1", pattern=r"^[1-8]x[1-8]$")
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


class Target(Part):
    """One recorded value: its column(s) in the cohort table, what kind of value it is, and its level.

    A number (`regression`) has a range; several columns are averaged. A `classification` has classes; an `ordinal` one
    has classes in rising order, or a range of whole numbers. A class may be spelt in several ways in the table:
    `classes: {covid: [covid, COVID-19], other: [pneumonia, none]}`. Rows of other classes are left out, and counted.
    `equals` makes an indicator of a text column: 1 where the column holds that text, else 0.
    """

    kind: Kind = "regression"
    classes: dict[str, list[str]] = {}
    positive: str | None = None
    range: Range = (0.0, 1.0)
    column: str | list[str] | None = None
    level: Level | None = None
    integer: bool = False
    equals: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _classed(cls, values: Any) -> Any:
        return with_classes(values) if isinstance(values, dict) else values

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(f"a range goes from low to high, found {value[0]:g}..{value[1]:g}")
        return value

    @model_validator(mode="after")
    def _positive(self) -> Target:
        if self.positive is not None and (len(self.classes) != 2 or self.positive not in self.classes):
            raise ValueError(f"positive names one of two classes, found {self.positive!r} of {list(self.classes)}")
        return self


def with_classes(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in what a target's classes say: its kind, its range of class numbers, every class with its spellings.

    >>> with_classes({"classes": ["no", "yes"]})["range"]
    (0.0, 1.0)
    >>> list(with_classes({"kind": "ordinal", "range": "0..2"})["classes"])
    ['0', '1', '2']
    """
    kind, classes = values.get("kind"), values.get("classes")
    if kind == "regression" and classes:
        raise ValueError("a regression has a range, not classes")
    if not classes and kind not in ("classification", "ordinal"):
        return values
    if not classes:
        if kind == "classification":
            raise ValueError("a classification needs its classes, such as classes: [covid, no_finding]")
        found = parse_range(values.get("range", "0..1"))
        if not (isinstance(found, tuple) and all(float(v).is_integer() for v in found) and found[0] < found[1]):
            raise ValueError(
                "an ordinal target needs classes in rising order, or a range of whole numbers such as 0..4"
            )
        classes = [str(grade) for grade in range(int(found[0]), int(found[1]) + 1)]
    elif "range" in values and not (values["range"] and tuple(values["range"]) == (0, len(classes) - 1)):
        raise ValueError("a target has classes or a range, not both")
    if isinstance(classes, (list, tuple)):
        classes = {str(name): [str(name)] for name in classes} if len({*map(str, classes)}) == len(classes) else classes
    if not isinstance(classes, dict):
        raise ValueError("classes are a list of different names, or names with their spellings in the table")
    spelt = {str(n): [str(s) for s in (v if isinstance(v, list) else [v])] for n, v in classes.items()}
    every = [spelling for spellings in spelt.values() for spelling in spellings]
    twice = next((spelling for spelling in every if every.count(spelling) > 1), None)
    if len(spelt) < 2 or twice is not None:
        raise ValueError(
            f"{twice!r} stands for two classes" if twice is not None else "a target needs two classes or more"
        )
    known = kind or "classification"
    return {**values, "kind": known, "classes": spelt, "range": (0.0, float(len(spelt) - 1)), "integer": True}


class ScoreFormula(Part):
    """A clinical score as a formula over targets and earlier scores."""

    formula: str
    range: Range
    level: Literal["region", "case"] = "case"


class External(Part):
    """Another cohort on which the trained networks are tested; nothing is learned from it.

    No subject may have a name of the study's own, unless `subjects: distinct` says that they are other people.
    """

    cohort: Path
    name: str = ""
    root: Path | None = None
    columns: dict[str, str] = {}
    where: Where = {}
    where_not: Where = {}
    subjects: Literal["named_apart", "distinct"] = "named_apart"


class Audit(Part):
    """What the audit looks at: columns that should not tell the label, beside the usual ones that are there."""

    columns: list[str] | None = None
    mask: str | None = None
    permutations: int = Field(999, ge=99, le=100_000)


class Evaluation(Part):
    """How predictions are judged."""

    resamples: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    bands: dict[str, float] = {}
    response: bool = True
    baseline: str = "first"
    missing_baseline: Literal["refuse", "leave_out"] = "refuse"
    responders: list[Annotated[float, Field(gt=0, le=100)]] = [50, 75, 90, 100]
    readers: dict[str, dict[str, str]] = {}
    references: dict[str, dict[str, dict[Metric, float]]] = {}
    sensitivities: list[Annotated[float, Field(gt=0, lt=1)]] = [0.9]

    @field_validator("bands")
    @classmethod
    def _banded(cls, value: dict[str, float]) -> dict[str, float]:
        if value and (len(value) < 2 or len(set(value.values())) < len(value)):
            raise ValueError("bands need two names or more, each with a lower bound of its own")
        return value
