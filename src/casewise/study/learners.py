"""What a study, its evaluation and its report know of a learner: one record for each, without torch.

The networks of a study need no entry. Every other learner is an entry of the registry here. How its `kind` is built is
an entry of `casewise.models.build_model.BUILDERS`, and how it is fitted one of `casewise.jobs.fitting.FITTERS`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from casewise.study.images import Panels
from casewise.study.recipe import EarlyStopping, Recipe
from casewise.study.sources import listed_names, source_of
from casewise.study.weight_files import FirstWeights

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from casewise.study.schema import Study

PIXELS, FEATURES, KERNEL = "linear_pixels", "linear_features", "kernel_features"
# The model of the study's covariates, and the one that joins them to the images.
COVARIATES, JOINED = "covariates", "images_and_covariates"
# What reports call the learners that combine others; metrics.json and tables keep their names.
COMBINED = {
    "mean_of_learners": "mean of the learners",
    "meta_learner_weighted": "weighted mean",
    "meta_learner": "linear combination",
    "meta_learner_w_intercept": "linear combination with intercept",
    "meta_learner_ridge": "ridge combination",
    "meta_learner_ridge_w_intercept": "ridge combination with intercept",
    "meta_learner_logistic": "logistic combination",
    "nested": "nested choice",
    JOINED: "model of images and covariates",
}


@dataclass(frozen=True)
class Learner:
    """A network of the study, and what other learners have in common with one.

    Attributes:
        name: the learner in tables and folders; of a network its backbone, with `@` and a fusion if there are several.
        kind: how it is built and fitted.
        is_baseline: whether it is a floor for the networks: never the headline while there are networks, and combined
            with them only if the study states so.
        by_steps: whether it is trained by gradient steps, which need a recipe and a compute plan.
        noun: what the table of learners calls its kind.
    """

    name: str
    kind: ClassVar[str] = "network"
    is_baseline: ClassVar[bool] = False
    by_steps: ClassVar[bool] = True
    noun: ClassVar[str] = "network"

    @property
    def display_name(self) -> str:
        """What reports call it; networks keep their names."""
        return self.name

    def belongs_to(self, study: Study) -> bool:
        """Whether the study fits it."""
        return self.name in study.networks

    def title(self, study: Study) -> str:
        """What it is, in a sentence of the report."""
        return self.name

    def encoders(self, study: Study) -> list[str]:
        """The networks whose first weights it uses; a learner of a plugin has none by default."""
        return [self.name.partition("@")[0]] if self.kind == "network" else []

    def weights(self, study: Study) -> str:
        """Its initial weights: the study's, or the weights stated for its backbone; a plugin's learner has none."""
        if not self.encoders(study):
            return "random"
        return study.weights if isinstance(study.weights, str) else study.weights[self.encoders(study)[0]]

    def first_weights(self, study: Study) -> list[FirstWeights]:
        """These weights of each of its networks."""
        return [FirstWeights(name, self.weights(study), study.weights_dir) for name in self.encoders(study)]

    def weight_files(self, study: Study) -> list[Path]:
        """The files of these weights that are there."""
        return [first.file for first in self.first_weights(study) if first.file and first.is_here]

    def fusion(self, study: Study) -> str | None:
        """How it combines the sequences: a fusion, or a single sequence; None without volumes."""
        if not study.fusions:
            return None
        alone = next((name.partition("@")[2] for name in study.backbones), "") or study.fusions[0]
        return self.name.partition("@")[2] or alone

    def identity(self, study: Study) -> str:
        """What distinguishes it from other learners of the same study; a part of the fingerprint of its jobs."""
        # If all networks have the same fusion, their names do not state it.
        fusion = self.fusion(study)
        stated = f"{self.name}@{fusion}" if fusion and "@" not in self.name else self.name
        stated += "" if isinstance(study.weights, str) else f" from {self.weights(study)}"
        # planned epochs are decided when the baselines are finished, whose identity they must not change
        if study.recipe.auto:
            stated += json.dumps(study.recipe.model_dump(mode="json", include={"lr", "phases"}), sort_keys=True)
        own = study.recipe.own_settings(self.name)
        return stated + (f" with {json.dumps(own, sort_keys=True)}" if own else "")

    def view(self, study: Study) -> Study:
        """The study as this learner sees it."""
        recipe = study.recipe
        return study.model_copy(update={"recipe": recipe.of_network(self.name)}) if recipe.networks else study


@dataclass(frozen=True)
class LinearLearner(Learner):
    """A linear model on pixels or on frozen features; it reads single images without variation, and has no recipe."""

    on_features: bool = False
    kind: ClassVar[str] = "linear"
    is_baseline: ClassVar[bool] = True
    by_steps: ClassVar[bool] = False
    noun: ClassVar[str] = "linear model"

    @property
    def display_name(self) -> str:
        return f"{self.noun} on {'image features' if self.on_features else 'pixels'}"

    def belongs_to(self, study: Study) -> bool:
        return not study.baselines.off and (not self.on_features or bool(self.encoders(study)))

    def title(self, study: Study) -> str:
        read = f"features of {', '.join(self.encoders(study))}" if self.on_features else "pixels"
        return f"a linear model on {read}"

    def encoders(self, study: Study) -> list[str]:
        return encoders_of(study) if self.on_features else []

    def weights(self, study: Study) -> str:
        return "pretrained" if self.on_features else "random"

    def weight_files(self, study: Study) -> list[Path]:
        return [file for first in self.first_weights(study) for file in first.encoder_files]

    def fusion(self, study: Study) -> str | None:
        return "early" if study.fusions else None

    def identity(self, study: Study) -> str:
        return f"{self.name} {', '.join(self.encoders(study))}"

    def view(self, study: Study) -> Study:
        by = study.panels.by
        pooling = study.panels.pooling if by == "image" else "maps"
        # where predictions of networks are averaged over mirrored panels, features are averaged over all flips
        flips = {study.panels.flip, *(phase.variations.get("flip") for phase in study.recipe.phases)}
        flip = "both" if flips & {"both", "dihedral"} else "horizontal"
        averaged = self.on_features and study.test_time_augmentation
        return study.model_copy(
            update={
                "panels": Panels(by=by, pooling=pooling, vary_shape=False, flip=flip if averaged else "none"),
                "recipe": Recipe(
                    schedule="constant",
                    early_stopping=EarlyStopping(monitor="none"),
                    epochs=1,
                    meant_for=study.recipe.meant_for,
                ),
                "nested_cv": None,
                "pretrain": None,
                "test_time_augmentation": False,
            }
        )


@dataclass(frozen=True)
class KernelLearner(LinearLearner):
    """Models with a linear or radial kernel on the frozen features, where no published recipe is repeated."""

    on_features: bool = True
    kind: ClassVar[str] = "radial"
    noun: ClassVar[str] = "kernel model"

    def belongs_to(self, study: Study) -> bool:
        return super().belongs_to(study) and (study.recipe.auto or not study.networks)

    def title(self, study: Study) -> str:
        return f"models with a linear or radial kernel on features of {', '.join(self.encoders(study))}"


@dataclass(frozen=True)
class _CovariatesModel(Learner):
    """A model of columns of the table, which is fitted with the stackers and has no jobs, folders or weights."""

    is_baseline: ClassVar[bool] = True
    by_steps: ClassVar[bool] = False
    noun: ClassVar[str] = "model of covariates"

    @property
    def display_name(self) -> str:
        return "model of the covariates"

    def belongs_to(self, study: Study) -> bool:
        return False

    def encoders(self, study: Study) -> list[str]:
        return []

    def title(self, study: Study) -> str:
        return f"a model of {', '.join(study.covariates)}, without images"


_LINEAR = (LinearLearner(PIXELS), LinearLearner(FEATURES, on_features=True), KernelLearner(KERNEL))
_OWN = (_CovariatesModel(COVARIATES), *_LINEAR)
_REGISTERED: dict[str, Learner] = {learner.name: learner for learner in _OWN}


def register_learner(learner: Learner) -> None:
    """Let every study fit this learner to which it belongs (`Learner.belongs_to`).

    Its kind needs an entry in `casewise.models.build_model.BUILDERS` and one in `casewise.jobs.fitting.FITTERS`. A
    class that is defined again, as in a notebook, replaces itself.

    Raises:
        ValueError: casewise, or another package, has a learner of this name.
    """
    there, cls = _REGISTERED.get(learner.name), type(learner)
    same = there and (type(there).__module__, type(there).__qualname__) == (cls.__module__, cls.__qualname__)
    if (
        learner.name in (*COMBINED, *listed_names())
        or "@" in learner.name
        or (there and not same)
        or (there in _OWN and there != learner)
    ):
        of = type(there).__module__.partition(".")[0] if there else "casewise"
        raise ValueError(f"{of} has a learner named {learner.name!r}; name this one otherwise.")
    _REGISTERED[learner.name] = learner


def unregister_learner(name: str) -> None:
    """Forget a learner."""
    del _REGISTERED[name]


def added_learners() -> list[Learner]:
    """The learners that others have registered."""
    return [learner for name, learner in _REGISTERED.items() if learner not in _OWN]


def is_registered(name: str) -> bool:
    """Whether it is a learner by its name, not a network."""
    return name in _REGISTERED


def learner_named(name: str) -> Learner:
    """The record of a learner; a name that is not registered means a network."""
    return _REGISTERED.get(name) or Learner(name)


def learner_name(name: str) -> str:
    """What reports call a learner; the study in brackets, which tables of several runs add, is kept.

    >>> learner_name("meta_learner_weighted"), learner_name("linear_pixels (second)"), learner_name("resnet18")
    ('weighted mean', 'linear model on pixels (second)', 'resnet18')
    """
    code, bracket, rest = str(name).partition(" (")
    return (COMBINED.get(code) or learner_named(code).display_name) + bracket + rest


def name_of_fold(model: str, fold: int, *, alone: bool) -> str:
    """The network of a fold, numbered from 0, in messages; `alone`, as with a validation set, it is named by itself.

    >>> name_of_fold("resnet18", 0, alone=False), name_of_fold("resnet18", 0, alone=True)
    ('resnet18, fold 1', 'resnet18')
    """
    return model if alone else f"{model}, fold {fold + 1}"


def the_learner(name: str, *, start: bool = False) -> str:
    """What reports call a learner within a sentence, or at its `start`.

    >>> the_learner("linear_features"), the_learner("nested", start=True), the_learner("resnet18", start=True)
    ('the linear model on image features', 'The nested choice', 'resnet18')
    """
    displayed = learner_name(name)
    article = "The " if start else "the "
    return displayed if displayed == name else article + displayed


def learners_beside(study: Study) -> list[str]:
    """The registered learners that a study fits before its networks."""
    return [name for name, learner in _REGISTERED.items() if learner.belongs_to(study)]


def combined_learners(study: Study) -> list[str]:
    """The learners that the stackers of a study combine."""
    return [name for name in study.learners if study.stack_baselines or not is_baseline(name)]


def is_baseline(name: str) -> bool:
    """Whether the learner is a floor that networks must be better than."""
    return learner_named(name).is_baseline


def in_order(study: Study, names: Iterable[str]) -> list[str]:
    """These learners: networks in the study's order, then baselines, then learners that combine others."""
    present = dict.fromkeys(names)
    first = [name for name in study.networks if name in present] + baselines_among(present)
    return first + [name for name in present if name not in first]


def baselines_among(names: Iterable[str]) -> list[str]:
    """The baselines among these learners, in the order of the registry.

    >>> baselines_among(["resnet18", "linear_features", "linear_pixels"])
    ['linear_pixels', 'linear_features']
    """
    present = set(names)
    return [name for name in _REGISTERED if name in present and is_baseline(name)]


def without_baselines(learners: Iterable[str]) -> list[str]:
    """The learners that a report can be about: the study's own, or its baselines if it has no other.

    None of them reads covariates, because explanations, flags and the page of `serve` are about images.

    >>> without_baselines(["linear_pixels", "resnet18"]), without_baselines(["covariates", "linear_pixels"])
    (['resnet18'], ['linear_pixels'])
    """
    names = [name for name in learners if name not in (COVARIATES, JOINED)]
    return [name for name in names if not is_baseline(name)] or names


def first_weights(study: Study, names: Iterable[str]) -> list[FirstWeights]:
    """The first weights of these learners, each once."""
    return list(dict.fromkeys(first for name in names for first in learner_named(name).first_weights(study)))


def encoders_of(study: Study) -> list[str]:
    """The pretrained networks whose frozen features the baselines use: the stated ones, else one."""
    return list(study.encoders) or [name for name in [_encoder_of(study)] if name]


def _encoder_of(study: Study) -> str:
    """The encoder of a study that states none; empty if it has no pretrained network.

    It is MobileNetV2 if the study has it or no network at all, else the study's first pretrained backbone.
    """
    if not study.backbones:
        return "mobilenet_v2" if study.weights == "pretrained" else ""
    names = [name.partition("@")[0] for name in study.backbones]
    sources = [(source_of(name), name) for name in names if study.weights_of(name) == "pretrained"]
    pretrained = [source.flat(name) for source, name in sources if source.is_pretrained]
    return next((name for name in ("mobilenet_v2", *pretrained) if name in pretrained), "")
