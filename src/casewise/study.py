"""The study: what to predict from which images, how to split, train, combine and judge. Nothing is read here."""

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
Metric = Literal["mae", "mse", "pcc", "ccc", "icc", "bias"]
Level = Literal["image", "region", "case", "subject"]
STACKERS = {
    "linear": "meta_learner",
    "linear+intercept": "meta_learner_w_intercept",
    "ridge": "meta_learner_ridge",
    "ridge+intercept": "meta_learner_ridge_w_intercept",
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


class Panels(Part):
    """What one forward pass sees, and how it varies in training. Inference is deterministic.

    `rotate` is in degrees to each side (`any` = 180); `shift` and `zoom` are shares of the tile; `brightness` and
    `contrast` are the half-widths of the factor's range around 1.
    """

    by: Literal["region", "case", "image"] = "case"
    grid: str = Field("1x1", pattern=r"^[1-8]x[1-8]$")
    shuffle: bool = False
    rotate: Annotated[float, BeforeValidator(lambda v: 180.0 if v == "any" else v), Field(ge=0, le=180)] = 0.0
    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    shift: float = Field(0.0, ge=0, le=0.5)
    zoom: float = Field(0.0, ge=0, le=0.5)
    brightness: float = Field(0.0, ge=0, lt=1)
    contrast: float = Field(0.0, ge=0, lt=1)

    @property
    def rows(self) -> int:
        return int(self.grid.split("x")[0])

    @property
    def columns(self) -> int:
        return int(self.grid.split("x")[1])

    @property
    def slots(self) -> int:
        return self.rows * self.columns


class Target(Part):
    """One recorded value: its column(s) in the cohort table (several are averaged), its range and its level.

    `equals` makes an indicator of a text column: 1 where the column holds that text, else 0.
    """

    range: Range = (0.0, 1.0)
    column: str | list[str] | None = None
    level: Level | None = None
    integer: bool = False
    equals: str | None = None

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(f"a range goes from low to high, found {value[0]:g}..{value[1]:g}")
        return value


class ScoreFormula(Part):
    """A clinical score as a formula over targets and earlier scores."""

    formula: str
    range: Range
    level: Literal["region", "case"] = "case"


class Split(Part):
    """Who is tested on and who is trained on. Always by subject."""

    by: Literal["subject"] = "subject"
    test: Share = 0.1
    folds: int = Field(5, ge=2, le=50)
    balance: str | None = None
    restarts: int = Field(1000, ge=1, le=100_000)
    column: str | None = None

    @field_validator("by", mode="before")
    @classmethod
    def _by_subject(cls, value: Any) -> Any:
        if value != "subject":
            raise ValueError(
                f"a split by {value!r} puts images of one subject on both sides, and every figure made from it is "
                "too good. Only 'subject' is allowed"
            )
        return value


class Plateau(Part):
    """Reduce the learning rate when the stopping loss no longer falls."""

    factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(10, ge=0)
    threshold: float = Field(1e-4, ge=0)


class Stop(Part):
    """Early stopping: on an inner, grouped part of the training folds, on the fold itself (as published), or none.

    With `none` every network trains all epochs on all training folds and its last epoch is kept.
    """

    patience: int = Field(50, ge=1)
    on: Literal["inner", "fold", "none"] = "inner"
    share: Share = 0.15


class Recipe(Part):
    """How a network is trained."""

    loss: Literal["mse", "huber", "l1"] = "mse"
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["plateau", "cosine", "constant"] = "plateau"
    plateau: Plateau = Plateau()
    batch: int = Field(16, ge=2)
    epochs: int = Field(1000, ge=1)
    stop: Stop = Stop()
    batch_norm: Literal["train", "eval"] = "train"
    head: Literal["random", "probe"] = "random"
    head_lr: float = Field(1.0, gt=0)
    batch_norm_momentum: float | None = Field(None, gt=0, le=1)
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _watched(self) -> Recipe:
        if self.stop.on == "none" and self.schedule == "plateau":
            raise ValueError("schedule: plateau needs a loss to watch; with stop.on none use cosine or constant")
        return self


class Pretraining(Part):
    """Training on another cohort first. Held-out subjects of each fold are left out of it, always."""

    cohort: Path
    subjects: Literal["shared", "distinct"]
    columns: dict[str, str] = {}
    where: Where = {}
    targets: dict[str, Target]
    epochs: int = Field(5, ge=1)
    lr: float | None = Field(None, gt=0)
    batch: int | None = Field(None, ge=2)


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

    @field_validator("bands")
    @classmethod
    def _banded(cls, value: dict[str, float]) -> dict[str, float]:
        if value and (len(value) < 2 or len(set(value.values())) < len(value)):
            raise ValueError("bands need two names or more, each with a lower bound of its own")
        return value


class Compute(Part):
    """What the machine may choose. `auto` is a two-second measurement, recorded with the run."""

    jobs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    save_every: float = Field(30.0, ge=0)


class Study(Part):
    """A whole study, as its file says it. Paths are absolute after `casewise.study_file.read_study`."""

    name: Annotated[str, Field(pattern=r"^[^/\\\\]*[^/\\\\.][^/\\\\]*$")]
    title: str = ""
    description: str = ""
    synthetic: bool = False
    cohort: Path
    root: Path | None = None
    columns: dict[str, str] = {}
    where: Where = {}
    subjects_known: bool = True
    images: Images = Images()
    regions: list[str] = []
    missing_regions: Literal["refuse", "allow"] = "refuse"
    panels: Panels = Panels()
    targets: dict[str, Target] = Field(min_length=1)
    scores: dict[str, ScoreFormula] = {}
    predict: list[str] = []
    main: str = ""
    split: Split = Split()
    backbones: list[str] = Field(min_length=1)
    weights: str = "pretrained"
    weights_dir: Path | None = None
    pretrain: Pretraining | None = None
    recipe: Recipe = Recipe()
    test_flips: bool = False
    stack: list[Literal["linear", "linear+intercept", "ridge", "ridge+intercept", "mean"]] = []
    evaluation: Evaluation = Evaluation()
    compute: Compute = Compute()
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        from casewise.errors import nearest

        names = [*self.targets, *self.scores]
        twice = set(self.targets) & set(self.scores)
        if twice:
            raise ValueError(f"scores: {sorted(twice)[0]!r} is a target as well; one name means one thing")
        for name in self.outputs:
            if name not in names:
                raise ValueError(f"predict: {name!r} is neither a target nor a score.{nearest(name, names)}")
            if name in self.scores and self.scores[name].level == "case" and self.panels.by == "region":
                raise ValueError(f"predict: {name!r} is a score of the whole case; a panel shows one region only")
        if self.panels.by == "region" and not self.regions:
            raise ValueError("regions: panels by region need the list of the study's regions")
        judged = [*self.outputs, *self.scores]
        if self.main and self.main not in judged:
            raise ValueError(f"main: {self.main!r} is neither predicted nor a score.{nearest(self.main, judged)}")
        used = [("predict", name) for name in self.outputs] + [("split.balance", self.split.balance or "")]
        for place, name in used:
            if name in self.scores and "[" in self.scores[name].formula:
                raise ValueError(
                    f"{place}: {name!r} is worked out over several regions, and one panel does not show them all; "
                    "name its targets, or a score of one region"
                )
        if self.split.balance and self.split.balance not in names:
            raise ValueError(f"split.balance: {self.split.balance!r} is no target.{nearest(self.split.balance, names)}")
        for part in ("readers", "references"):
            for name in getattr(self.evaluation, part):
                if name not in judged:
                    raise ValueError(
                        f"evaluation.{part}: {name!r} is neither predicted nor a score.{nearest(name, judged)}"
                    )
        return self

    @property
    def outputs(self) -> list[str]:
        """Names of what the network itself predicts, in order: by default every target."""
        return list(self.predict) or list(self.targets)

    @property
    def outcome(self) -> str:
        """The main outcome: as stated, else the last score, else the first that is predicted."""
        return self.main or (list(self.scores)[-1] if self.scores else self.outputs[0])

    @property
    def target_level(self) -> Level:
        """The level of a target that states none: the level of a panel."""
        return self.panels.by

    def range_of(self, name: str) -> tuple[float, float]:
        """The declared range of a target or score."""
        return self.targets[name].range if name in self.targets else self.scores[name].range

    def level_of(self, name: str) -> Level:
        """The level of a target or score."""
        return self.scores[name].level if name in self.scores else (self.targets[name].level or self.target_level)
