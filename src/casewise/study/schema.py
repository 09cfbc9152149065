"""The study: what to predict from which images, how to split, train, combine and judge. Nothing is read here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from casewise.study.checks import check_study
from casewise.study.images import Images, Panels, Tiles, Volumes
from casewise.study.parts import (
    STACKERS,
    Audit,
    Evaluation,
    External,
    Fraction,
    Kind,
    Level,
    Part,
    Range,
    ScoreFormula,
    Target,
    Where,
)
from casewise.study.training import (
    Compute,
    EarlyStopping,
    GradualUnfreezing,
    LearningRateFinder,
    NestedCV,
    Phase,
    Plateau,
    Pretraining,
    Recipe,
    Split,
)

__all__ = [
    "STACKERS",
    "Audit",
    "Compute",
    "EarlyStopping",
    "Evaluation",
    "External",
    "Fraction",
    "GradualUnfreezing",
    "Images",
    "Kind",
    "LearningRateFinder",
    "Level",
    "Panels",
    "Part",
    "Phase",
    "Plateau",
    "Pretraining",
    "Range",
    "Recipe",
    "ScoreFormula",
    "Split",
    "Study",
    "Target",
    "Tiles",
    "Volumes",
    "Where",
]


def network_names(backbones: Sequence[str], fusions: Sequence[str]) -> list[str]:
    """Each backbone with each fusion, but one that is written as `backbone@fusion` with that one alone.

    Where all see the sequences alike, and where there are none, networks are called as their backbones.

    >>> network_names(["vit", "resnet18", "vit@late"], ["early"])
    ['vit@early', 'resnet18@early', 'vit@late']
    >>> network_names(["vit", "resnet18"], ["early"])
    ['vit', 'resnet18']
    """
    if not fusions:
        return list(backbones)
    stated = [name.partition("@") for name in backbones]
    pairs = [(name, one) for name, _, own in stated for one in ([own] if own else fusions)]
    if len({fusion for _, fusion in pairs}) < 2:
        return [name for name, _ in pairs]
    return [f"{name}@{fusion}" for name, fusion in pairs]


class Study(Part):
    """A whole study, as its file says it. Paths are absolute after `casewise.study.loading.read_study`."""

    name: Annotated[str, Field(pattern=r"^[^/\\\\]*[^/\\\\.][^/\\\\]*$")]
    title: str = ""
    description: str = ""
    synthetic: bool = False
    cohort: Path
    root: Path | None = None
    columns: dict[str, str] = {}
    where: Where = {}
    where_not: Where = {}
    subjects_known: bool = True
    modality: str = ""
    images: Images = Images()
    tiles: Tiles | None = None
    volumes: Volumes | None = None
    regions: list[str] = []
    missing_regions: Literal["refuse", "allow"] = "refuse"
    panels: Panels = Panels()
    targets: dict[str, Target] = Field(min_length=1)
    scores: dict[str, ScoreFormula] = {}
    outputs: list[str] = []
    primary_outcome: str = ""
    split: Split = Split()
    audit: Audit = Audit()
    accept: dict[str, str] = {}
    backbones: list[str] = Field(min_length=1)
    weights: str | dict[str, str] = "pretrained"
    weights_dir: Path | None = None
    pretrain: Pretraining | None = None
    recipe: Recipe = Recipe()
    nested_cv: NestedCV | None = None
    test_time_augmentation: bool = False
    stack: list[Literal["linear", "linear+intercept", "ridge", "ridge+intercept", "logistic", "mean"]] = []
    external: External | None = None
    evaluation: Evaluation = Evaluation()
    compute: Compute = Compute()
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, values: Any) -> Any:
        """By default the networks predict every target, and the primary outcome is the last score or first output."""
        targets, scores = values.get("targets"), values.get("scores")
        if not isinstance(targets, dict) or not targets:
            return values
        outputs = values.get("outputs") or list(targets)
        default = list(scores)[-1] if isinstance(scores, dict) and scores else outputs[0]
        return {**values, "outputs": outputs, "primary_outcome": values.get("primary_outcome") or default}

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        check_study(self)
        return self

    @property
    def modality_name(self) -> str:
        """Which modality the images are of."""
        return self.modality or ("volumes" if self.volumes else "slides" if self.tiles else "photographs")

    @property
    def networks(self) -> list[str]:
        """What is trained on every fold; the name before an `@` is the backbone's."""
        return network_names(self.backbones, self.volumes.fusion if self.volumes else [])

    def weights_of(self, network: str) -> str:
        """What the first weights of a network are: those of the study, or those stated for its backbone."""
        return self.weights if isinstance(self.weights, str) else self.weights[network.partition("@")[0]]

    @property
    def rates(self) -> list[float]:
        """The learning rates that inner folds choose among: those of `nested_cv`, else the recipe's alone."""
        if self.nested_cv and self.nested_cv.lr:
            return list(self.nested_cv.lr)
        return [self.recipe.lr] if isinstance(self.recipe.lr, float) else []

    @property
    def network_noun(self) -> str:
        """What one of `networks` is called."""
        return "backbone" if self.networks == self.backbones else "pairing"

    def fusion_of(self, network: str) -> str | None:
        """How a network sees the sequences: early, late, late-shared, or one of them alone; None without volumes."""
        if not self.volumes:
            return None
        alone = self.backbones[0].partition("@")[2] or self.volumes.fusion[0]
        return network.partition("@")[2] or alone

    @property
    def target_level(self) -> Level:
        """The level of a target that states none: that of a panel; a slide's label is not that of its single tiles."""
        return "case" if self.tiles and self.panels.by == "image" else self.panels.by

    @property
    def external_name(self) -> str:
        """What the external cohort is called: as stated, else its folder's name; empty where there is none."""
        stated = self.external
        return (stated.name or stated.cohort.parent.name or "external") if stated else ""

    def classes_of(self, name: str) -> list[str]:
        """The classes of a target in their order; empty for numbers and scores."""
        return list(self.targets[name].classes) if name in self.targets else []

    def kind_of(self, name: str) -> Kind:
        """Whether a target or score is a number, a class or a grade."""
        return self.targets[name].kind if name in self.targets else "regression"

    def positive_of(self, name: str) -> str | None:
        """The class that sensitivity is about, where a target has two: as stated, else the first."""
        classes = self.classes_of(name)
        return (self.targets[name].positive or classes[0]) if len(classes) == 2 else None

    def range_of(self, name: str) -> tuple[float, float]:
        """The declared range of a target or score."""
        return self.targets[name].range if name in self.targets else self.scores[name].range

    def level_of(self, name: str) -> Level:
        """The level of a target or score."""
        return self.scores[name].level if name in self.scores else (self.targets[name].level or self.target_level)
