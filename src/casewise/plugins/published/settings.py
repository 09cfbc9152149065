"""Keys of `panels` and `recipe` that only the published protocols use, and their rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import Field, field_validator, model_validator

from casewise.errors import cut
from casewise.study.model import StudyModel, refuse
from casewise.study.yaml_text import Values

if TYPE_CHECKING:
    from casewise.study.images import Panels
    from casewise.study.recipe import Recipe
    from casewise.study.schema import Study


class LearningRateFinder(StudyModel):
    """The range test before training: the rate rises from 1e-7 to 1 over `steps` training batches."""

    steps: int = Field(60, ge=20, le=1000)
    """Training batches from the lowest to the highest rate."""


class GradualUnfreezing(StudyModel):
    """Groups of layers that are unfrozen one after another, from the head down, while the validation loss improves."""

    groups: int = Field(3, ge=1, le=20)
    """Groups of layers below the head, each with about the same number of layers."""
    epochs: int = Field(3, ge=1)
    """Largest number of epochs of each stage; the first stage trains the head only."""
    first_stage: Literal["features", "images"] = "features"
    """What the first stage reads: `features` of the images as they are, computed once, or augmented `images`."""
    train_norms: bool = False
    """Whether frozen batch norms are trained, statistics included, as in fastai; needs `first_stage: images`."""

    @model_validator(mode="after")
    def _check_norms(self) -> GradualUnfreezing:
        if self.train_norms and self.first_stage == "features":
            raise ValueError("train_norms: features are computed once; write first_stage: images, or leave it out")
        return self


class RecipeKeys(StudyModel):
    """Keys of `recipe`."""

    lr: Annotated[float, Field(gt=0)] | Literal["find"] = 0.01
    """Learning rate at the start; with `one-cycle`, the highest one. `find`: determined for each network by [a range
    test](explanation-tuning.md) on its training subjects."""
    finder: LearningRateFinder = LearningRateFinder()
    """Settings of `lr: find`."""
    tuning: Literal["full", "head_only", "gradual_unfreezing"] = "full"
    """Which layers are trained: all, only the head on features computed once (`head_only`), or one group of layers
    after another while the loss improves (`gradual_unfreezing`)."""
    gradual_unfreezing: GradualUnfreezing = GradualUnfreezing()
    """Settings of `tuning: gradual_unfreezing`. Its `epochs` replace the `epochs` of the recipe."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor on the learning rate from one layer to the next towards the input, as is usual for transformers (0.65 to
    0.9). Layers are the blocks and the embedding of a transformer, or the freeze points of another network."""

    @property
    def rates_by_layer(self) -> bool:
        """Whether layers of the body have different learning rates."""
        return self.layer_decay != 1

    @property
    def lengths(self) -> Mapping[str, int]:
        """By key the epochs of the phases, or of each stage of gradual unfreezing."""
        if self.tuning == "gradual_unfreezing":
            return {"gradual_unfreezing.epochs": self.gradual_unfreezing.epochs}
        lengths: Mapping[str, int] = super().lengths  # type: ignore[misc]
        return lengths

    @property
    def most_epochs(self) -> int:
        """The largest number of epochs of a network."""
        if self.tuning == "gradual_unfreezing":
            return self.gradual_unfreezing.epochs * (self.gradual_unfreezing.groups + 1)
        epochs: int = super().most_epochs  # type: ignore[misc]
        return epochs

    @field_validator("networks", check_fields=False)
    @classmethod
    def _check_rates(cls, value: dict[str, Values]) -> dict[str, Values]:
        problems = {
            f"{cut(name)}: lr: find is for all networks; write a number": True
            for name, settings in value.items()
            if settings.get("lr") == "find"
        }
        refuse(problems)
        return value

    @model_validator(mode="after")
    def _check_methods(self) -> RecipeKeys:
        recipe = cast("Recipe", self)
        planned = "; a planned recipe has phases" if recipe.auto else ""
        problems: dict[str, object] = {
            f"lr: find needs a single phase; with phases, write numbers{planned}": (
                recipe.completed.phases and self.lr == "find"
            ),
            "tuning: gradual_unfreezing continues while a loss improves; it needs early_stopping.monitor inner (or "
            "fold)": self.tuning == "gradual_unfreezing" and recipe.early_stopping.monitor == "none",
        }
        refuse(problems)
        return self

    def check_with(self, study: Study) -> None:
        """Nested cross-validation chooses what these methods choose."""
        problems: dict[str, object] = {
            "pretrain.lr: must be a number if recipe.lr is `find`; the finder uses the study's own images": (
                self.lr == "find" and study.pretrain and not study.pretrain.lr
            ),
            "nested_cv: gradual unfreezing ends each of its stages by the stopping loss, so that there is no single "
            "number of epochs to choose; write `tuning: full` or `head_only`": (
                study.nested_cv and self.tuning == "gradual_unfreezing"
            ),
            "nested_cv: recipe.lr is `find`, and inner folds choose among stated rates; write candidates as `lr` under "
            "nested_cv, and a number as recipe.lr": study.nested_cv and self.lr == "find",
        }
        refuse(problems)


class PanelsKeys(StudyModel):
    """Keys of `panels`."""

    offline_copies: int = Field(0, ge=0, le=100)
    """Train on each panel and on this number of [fixed augmented copies](howto-phases.md#fixed-copies), instead of
    augmenting it in every epoch. Needs `recipe.phases` and an augmentation."""

    @property
    def fixed(self) -> str:
        """In words the panels of training if they are the same in all epochs; empty if they vary."""
        copies = "fixed augmented copy" if self.offline_copies == 1 else "fixed augmented copies"
        return f"each image and {self.offline_copies} {copies} of it" if self.offline_copies else ""

    @property
    def of_bundle(self) -> Values:
        """The settings in a bundle: copies are of training alone."""
        return self.model_dump(mode="json") | {"offline_copies": 0}

    @model_validator(mode="after")
    def _check_copies(self) -> PanelsKeys:
        from casewise.study.images import STRENGTHS  # which imports this module

        panels, copies = cast("Panels", self), self.offline_copies
        problems: dict[str, object] = {
            f"offline_copies: pooling: {panels.pooling} draws new images in each step, so copies cannot be fixed; "
            "leave out offline_copies or pooling": panels.bags,
            "offline_copies: fixed copies do not permute tiles; leave out shuffle or offline_copies": panels.shuffle,
            f"offline_copies: without augmentation, {copies} copies of a panel would equal the panel; state an "
            f"augmentation (flip, {', '.join(STRENGTHS)}), or leave out offline_copies": not panels.augmented,
        }
        if copies:
            refuse(problems)
        return self

    def check_with(self, study: Study) -> None:
        """Copies are for phases, which cannot change their augmentation."""
        copies, phases = self.offline_copies, study.recipe.phases
        varied = next((number for number, phase in enumerate(phases, 1) if phase.variations), 0)
        problems: dict[str, object] = {
            "panels.offline_copies: fixed copies need recipe.phases; write for example `phases: [{epochs: 50}]` under "
            "recipe, or leave out offline_copies": copies and not phases,
            f"recipe.phases, phase {varied}: variations: with panels.offline_copies ({copies}) every copy is augmented "
            "once for all phases; leave out one of them": copies and varied,
        }
        refuse(problems)


def keys_of(recipe: Recipe) -> RecipeKeys:
    """A recipe, whose class has these keys."""
    return cast(RecipeKeys, recipe)
