"""The parts of a study file that say how networks are split, trained and run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from casewise.study.images import Panels
from casewise.study.parts import Fraction, Part, Target, Where


class Split(Part):
    """Who is tested on and who is trained on: by subject.

    `by: image` adds the published way of splitting, for comparison only: the study is trained once more with the images
    of a subject on both sides, and the report says what that would have claimed.
    """

    by: Literal["subject", "image"] = "subject"
    test: Fraction = 0.1
    folds: int = Field(5, ge=2, le=50)
    stratify_by: str | None = None
    restarts: int = Field(1000, ge=1, le=100_000)
    column: str | None = None
    leave_out: str | None = None

    @field_validator("by", mode="before")
    @classmethod
    def _by_subject(cls, value: Any) -> Any:
        if value not in ("subject", "image"):
            raise ValueError(
                f"a split by {value!r} puts images of one subject on both sides, and every figure made from it is "
                "too good. It is by 'subject'; 'image' adds such figures for comparison only"
            )
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Split:
        if self.leave_out and self.column:
            raise ValueError("leave_out and column are two ways to say who is held out; give one")
        return self


class Plateau(Part):
    """Reduce the learning rate when the stopping loss no longer falls."""

    factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(10, ge=0)
    threshold: float = Field(1e-4, ge=0)


class EarlyStopping(Part):
    """Early stopping: on an inner, grouped part of the training folds, on the fold itself (as published), or none.

    With `none` every network trains all epochs on all training folds and its last epoch is kept.
    """

    patience: int = Field(50, ge=1)
    monitor: Literal["inner", "fold", "none"] = "inner"
    val_fraction: Fraction = 0.15


class LearningRateFinder(Part):
    """The range test before training: the rate rises from `low` to `high` over `steps` training batches."""

    low: float = Field(1e-7, gt=0)
    high: float = Field(1.0, gt=0)
    steps: int = Field(60, ge=20, le=1000)

    @model_validator(mode="after")
    def _rising(self) -> LearningRateFinder:
        if self.low * 10 > self.high:
            raise ValueError("the finder's high must be ten times its low or more")
        return self


class GradualUnfreezing(Part):
    """Groups of layers unfrozen step by step, from the head down, while the stopping loss improves."""

    groups: int = Field(3, ge=1, le=20)
    epochs: int = Field(3, ge=1)


# What of panels a phase may state anew.
VARIATIONS = (
    "shuffle",
    "rotate",
    "flip",
    "translate",
    "zoom",
    "zoom_in",
    "perspective",
    "brightness",
    "contrast",
    "probability",
    "padding_mode",
)


class Phase(Part):
    """One stretch of training: how long, which part of the network stays as it is, and what differs from the recipe.

    `freeze` is none, all, `10 layers`, `11 blocks`, `30%` or the name of a part, which is frozen with all before it.
    """

    epochs: int = Field(ge=1)
    freeze: str = "none"
    lr: float | None = Field(None, gt=0)
    schedule: Literal["plateau", "cosine", "one-cycle", "constant"] | None = None
    batch_norm: Literal["update", "keep_statistics"] | None = None
    variations: dict[str, Any] = {}

    @field_validator("freeze", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> str:
        from casewise.errors import StudyError
        from casewise.study.freezing import read_freeze_point

        try:
            return str(read_freeze_point(value))
        except StudyError as error:
            # What was found is told of every setting alike, behind this.
            told = str(error).removeprefix("freeze: ").replace(f", got {value!r}", "").rstrip(".")
            raise ValueError(re.sub(r"\. Did you mean (.*)\?$", r" (did you mean \1?)", told)) from None

    @field_validator("variations")
    @classmethod
    def _vary(cls, value: dict[str, Any]) -> dict[str, Any]:
        """As the study's panels vary; what stands in place of theirs, read as it is there."""
        from casewise.errors import nearest

        for name in value:
            if name not in VARIATIONS:
                hint = nearest(name, VARIATIONS)
                raise ValueError(f"{name!r} is no variation of panels; they are {', '.join(VARIATIONS)}.{hint}")
        try:
            read = Panels.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            text = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{first['loc'][0]}: {text[0].lower() + text[1:]}, found {first['input']!r}") from None
        return {name: getattr(read, name) for name in value}


class Recipe(Part):
    """How a network is trained.

    `loss` is for numbers; classes are fitted by cross-entropy, ordinal classes by a chain of binary cross-entropies.
    `phases` are trained one after another, each from where the one before it ended.
    `tuning`: all parameters (`full`), the head alone on features computed once (`head_only`), or groups of layers
    unfrozen step by step (`gradual_unfreezing`). `discriminative` divides the learning rate from each group of layers
    to the one below it; `layer_decay` multiplies it from each layer to the one below it. Over `warmup` epochs the rate
    rises from step to step, before it falls as a cosine.
    """

    loss: Literal["mse", "huber", "l1"] = "mse"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    imbalance: Literal["none", "weights", "sampling"] = "none"
    optimizer: Literal["sgd", "adam", "adamw", "radam"] = "sgd"
    lr: Annotated[float, Field(gt=0)] | Literal["find"] = 0.01
    finder: LearningRateFinder = LearningRateFinder()
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["plateau", "cosine", "one-cycle", "constant"] = "plateau"
    warmup: int = Field(0, ge=0)
    plateau: Plateau = Plateau()
    batch_size: int = Field(16, ge=2)
    epochs: int = Field(1000, ge=1)
    early_stopping: EarlyStopping = EarlyStopping()
    tuning: Literal["full", "head_only", "gradual_unfreezing"] = "full"
    gradual_unfreezing: GradualUnfreezing = GradualUnfreezing()
    discriminative: float = Field(1.0, ge=1)
    layer_decay: float = Field(1.0, gt=0, le=1)
    batch_norm: Literal["update", "keep_statistics"] = "update"
    head: Literal["random", "probe"] = "random"
    head_lr: float = Field(1.0, gt=0)
    batch_norm_momentum: float | None = Field(None, gt=0, le=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    scaling: Literal["library", "symmetric"] = "library"
    phases: list[Phase] = []

    @model_validator(mode="after")
    def _in_phases(self) -> Recipe:
        if self.phases and self.tuning != "full":
            raise ValueError(f"tuning: {self.tuning} says itself what learns when; leave it out, or the phases")
        if self.phases and self.lr == "find":
            raise ValueError("lr: find looks at one stretch of training; with phases give numbers")
        if self.phases and "epochs" in self.model_fields_set:
            raise ValueError("epochs: with phases, every phase states its own; leave out recipe.epochs")
        return self

    @model_validator(mode="after")
    def _watched(self) -> Recipe:
        if self.early_stopping.monitor == "none" and self.schedule == "plateau":
            raise ValueError(
                "schedule: plateau needs a loss to watch; with early_stopping.monitor none use cosine or constant"
            )
        if self.early_stopping.monitor == "none" and self.tuning == "gradual_unfreezing":
            raise ValueError(
                "tuning: gradual_unfreezing goes on while a loss improves; it needs early_stopping.monitor inner (or "
                "fold)"
            )
        return self

    @model_validator(mode="after")
    def _warmed(self) -> Recipe:
        if not self.warmup:
            return self
        key, epochs = (
            ("gradual_unfreezing.epochs", self.gradual_unfreezing.epochs)
            if self.tuning == "gradual_unfreezing"
            else ("epochs", self.epochs)
        )
        stretches = [
            (f"epochs of phase {number}", phase.epochs, phase.schedule or self.schedule)
            for number, phase in enumerate(self.phases, 1)
        ] or [(key, epochs, self.schedule)]
        cosines = [(name, epochs) for name, epochs, schedule in stretches if schedule == "cosine"]
        if not cosines:
            raise ValueError("warmup: it leads up to a cosine; write schedule: cosine, or leave warmup out")
        for name, epochs in cosines:
            if self.warmup >= epochs:
                raise ValueError(f"warmup: {self.warmup} epochs are not fewer than the {name}, {epochs}")
        return self

    @model_validator(mode="after")
    def _by_depth(self) -> Recipe:
        if self.layer_decay != 1 and self.discriminative != 1:
            raise ValueError("layer_decay and discriminative are two ways to let lower layers learn less; give one")
        return self


class Pretraining(Part):
    """Training on another cohort first. Held-out subjects of each fold are left out of it, always."""

    cohort: Path
    subjects: Literal["shared", "distinct"]
    columns: dict[str, str] = {}
    where: Where = {}
    where_not: Where = {}
    targets: dict[str, Target]
    epochs: int = Field(5, ge=1)
    lr: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, ge=2)


class NestedCV(Part):
    """Nested cross-validation: what inner folds of a fold's training subjects choose before its network is trained.

    `lr` are candidates of the learning rate, in place of the recipe's. With `among` the study's networks are
    candidates, too: the learner `nested` predicts each fold by the network whose inner loss is lowest there.
    """

    folds: int = Field(3, ge=2, le=10)
    epochs: bool = True
    lr: list[Annotated[float, Field(gt=0)]] = []
    among: bool = True

    @field_validator("lr", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @field_validator("lr")
    @classmethod
    def _once(cls, value: list[float]) -> list[float]:
        twice = next((rate for rate in value if value.count(rate) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice:g} is there twice")
        return value


class Compute(Part):
    """What the machine may choose. `auto` is a two-second measurement, recorded with the run."""

    jobs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    save_every: float = Field(30.0, ge=0)
    frozen_once: bool = True
    keep_memory: bool = True
