"""The study: what to predict from which images, how to split, train, combine and judge. Nothing is read here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from casewise.study_parts import (
    STACKERS,
    Audit,
    Evaluation,
    External,
    Images,
    Kind,
    Level,
    Metric,
    Panels,
    Part,
    Range,
    ScoreFormula,
    Share,
    Target,
    Tiles,
    Volumes,
    Where,
)
from casewise.study_training import (
    Compute,
    Fine,
    LearningRateFinder,
    Phase,
    Plateau,
    Pretraining,
    Recipe,
    Split,
    Stop,
    Tuning,
)

__all__ = [
    "STACKERS",
    "Audit",
    "Compute",
    "Evaluation",
    "External",
    "Fine",
    "Images",
    "Kind",
    "LearningRateFinder",
    "Level",
    "Metric",
    "Panels",
    "Part",
    "Phase",
    "Plateau",
    "Pretraining",
    "Range",
    "Recipe",
    "ScoreFormula",
    "Share",
    "Split",
    "Stop",
    "Study",
    "Target",
    "Tiles",
    "Tuning",
    "Volumes",
    "Where",
]


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
    where_not: Where = {}
    subjects_known: bool = True
    images: Images = Images()
    tiles: Tiles | None = None
    volumes: Volumes | None = None
    regions: list[str] = []
    missing_regions: Literal["refuse", "allow"] = "refuse"
    panels: Panels = Panels()
    targets: dict[str, Target] = Field(min_length=1)
    scores: dict[str, ScoreFormula] = {}
    predict: list[str] = []
    main: str = ""
    split: Split = Split()
    audit: Audit = Audit()
    accept: dict[str, str] = {}
    backbones: list[str] = Field(min_length=1)
    weights: str = "pretrained"
    weights_dir: Path | None = None
    pretrain: Pretraining | None = None
    recipe: Recipe = Recipe()
    tune: Tuning | None = None
    test_flips: bool = False
    stack: list[Literal["linear", "linear+intercept", "ridge", "ridge+intercept", "logistic", "mean"]] = []
    external: External | None = None
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

    @model_validator(mode="after")
    def _split_by_image(self) -> Study:
        """The comparison with a split by image differs from the study in the split, and in nothing else."""
        if self.split.by != "image":
            return self
        if self.panels.by != "image":
            raise ValueError(
                f"split.by: 'image' splits images as if each showed another person, and panels here are by "
                f"{self.panels.by}; it needs `panels: {{by: image}}`"
            )
        if not self.subjects_known:
            raise ValueError(
                "split.by: 'image' is compared with a split by subject, and subjects are not known (subjects_known)"
            )
        if self.pretrain:
            raise ValueError("split.by: 'image' is a comparison of splits alone; leave out `pretrain`")
        return self

    @model_validator(mode="after")
    def _fixed_copies(self) -> Study:
        """Fixed copies are learned from in phases alone, and vary in none of them."""
        if not self.panels.copies:
            return self
        if not self.recipe.phases:
            raise ValueError(
                "panels.copies: fixed copies are learned from in phases, and recipe.phases is empty; write for example "
                "`phases: [{epochs: 50}]` under recipe, or leave out copies"
            )
        number = next((n for n, phase in enumerate(self.recipe.phases) if phase.variations), None)
        if number is not None:
            raise ValueError(
                f"recipe.phases, phase {number + 1}: variations: with panels.copies ({self.panels.copies}) every "
                "copy is varied once for all phases; leave out variations or copies"
            )
        return self

    @model_validator(mode="after")
    def _volumes_fit(self) -> Study:
        """A panel of slices shows a window of one case; what varies is the same for all its slices."""
        panels = self.panels
        if not self.volumes:
            if panels.quarter_turns:
                raise ValueError("panels.quarter_turns: panels of slices are turned so, and there are no `volumes`")
            return self
        if self.tiles or self.regions or self.pretrain or self.external:
            name = next(n for n in ("tiles", "regions", "pretrain", "external") if getattr(self, n))
            raise ValueError(f"{name}: does not go with `volumes`; leave it out")
        if panels.by != "case":
            raise ValueError(f"panels.by: {panels.by!r} is not for `volumes`; write `by: case`, a window of its slices")
        if panels.rows != panels.columns:
            raise ValueError(f"panels.grid: slices stand in a square, such as 3x3; found {panels.grid!r}")
        stated = Panels(by="case", grid=panels.grid, flip=panels.flip, quarter_turns=panels.quarter_turns)
        if stated != panels:
            wrong = next(n for n in type(panels).model_fields if getattr(panels, n) != getattr(stated, n))
            raise ValueError(
                f"panels.{wrong}: slices vary by `flip` and `quarter_turns` alone, all slices of a panel alike; leave "
                f"{wrong} out"
            )
        if self.recipe.phases and len(self.volumes.fusion) > 1:
            raise ValueError("recipe.phases: go with one fusion; write one of volumes.fusion")
        return self

    @model_validator(mode="after")
    def _tuned_inside(self) -> Study:
        """What inner folds choose is chosen by nothing else."""
        tune, recipe = self.tune, self.recipe
        if not tune:
            return self
        if recipe.phases:
            raise ValueError("tune: phases state their own epochs and rates; leave out recipe.phases or tune")
        if recipe.tuning != "deep":
            raise ValueError(f"tune: goes with `tuning: deep` alone; recipe.tuning is {recipe.tuning!r}")
        if self.pretrain:
            raise ValueError("tune: does not go with `pretrain`, which would be done anew for every inner fold")
        if recipe.lr == "find":
            raise ValueError(
                "tune: recipe.lr is found, and inner folds choose among stated rates; write candidates as `lr` under "
                "tune, and a number as recipe.lr"
            )
        if recipe.stop.on != "none":
            raise ValueError(
                "tune: inner folds say for how many epochs a network is trained on all its training subjects, and "
                f"recipe.stop.on is {recipe.stop.on!r}; write `stop: {{on: none}}` under recipe"
            )
        if self.split.by == "image":
            raise ValueError("tune: does not go with `split: {by: image}`, a comparison of splits alone")
        if not (tune.epochs or len(tune.lr) > 1 or (tune.among and len(self.networks) > 1)):
            raise ValueError(
                "tune: there is nothing to choose: epochs is false, lr has fewer than two candidates, and there is "
                "one network or among is false"
            )
        return self

    @model_validator(mode="after")
    def _classes_fit(self) -> Study:
        """Classes are not numbers: formulas, bands, readers and linear stackers do not take them."""
        classed = [name for name in self.targets if self.targets[name].classes]
        for name, score in self.scores.items():
            used = next((n for n in classed if n in re.findall(r"[^\W\d]\w*", score.formula)), None)
            if used:
                raise ValueError(f"scores.{name}: {used!r} has classes, and a formula works on numbers")
        among = [name for name in self.outputs if name in classed]
        wrong = next((s for s in self.stack if s not in ("mean", "logistic")), None)
        if among and wrong:
            raise ValueError(f"stack: {wrong!r} combines numbers, and {among[0]!r} has classes; use mean or logistic")
        numbers = next((name for name in self.outputs if name not in classed), None)
        if "logistic" in self.stack and numbers:
            raise ValueError(f"stack: 'logistic' combines classes, and {numbers!r} is a number")
        if self.outcome in classed and self.evaluation.bands:
            raise ValueError("evaluation.bands: the main outcome has classes already")
        if self.recipe.lr == "find" and self.pretrain and not self.pretrain.lr:
            raise ValueError(
                "pretrain.lr: must be a number where recipe.lr is found; the finder looks at the study's own images"
            )
        if self.recipe.imbalance != "none" and not among:
            raise ValueError(f"recipe.imbalance: {self.recipe.imbalance!r} needs a target with classes")
        if self.recipe.imbalance == "sampling" and self.outcome not in among:
            raise ValueError("recipe.imbalance: 'sampling' goes by the main outcome, which has no classes here")
        for name in self.evaluation.readers:
            if name in classed:
                raise ValueError(f"evaluation.readers: {name!r} has classes; readers are compared on numbers only")
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
    def networks(self) -> list[str]:
        """What is trained on every fold: each backbone, with `@` and the fusion where several are compared.

        The name before the `@` is the backbone's.
        """
        fusions = self.volumes.fusion if self.volumes else []
        if len(fusions) < 2:
            return list(self.backbones)
        return [f"{backbone}@{fusion}" for backbone in self.backbones for fusion in fusions]

    @property
    def rates(self) -> list[float]:
        """The learning rates that inner folds choose among: those of `tune`, else the recipe's alone."""
        if self.tune and self.tune.lr:
            return list(self.tune.lr)
        return [self.recipe.lr] if isinstance(self.recipe.lr, float) else []

    @property
    def network_noun(self) -> str:
        """What one of `networks` is called."""
        return "backbone" if self.networks == self.backbones else "pairing"

    def fusion_of(self, network: str) -> str | None:
        """How a network sees the sequences: early, late, late-shared, or one of them alone; None without volumes."""
        if not self.volumes:
            return None
        return network.partition("@")[2] or self.volumes.fusion[0]

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
