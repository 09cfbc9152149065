"""Planning what a study does not state of its recipe, from its images, their position and a time budget.

Labels and images of the test set take no part; of cases that are judged out of fold, the images do, but no label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from pydantic import ValidationError

from casewise.cohort.table import names_text
from casewise.errors import DamagedError, StudyError, counted
from casewise.evaluation.record import from_json
from casewise.modalities.registry import modality_of
from casewise.pipeline.encoder_plan import encoder_slowness, fitting_seconds, planned_encoders
from casewise.pipeline.plan_in_words import as_yaml, in_words, stated_in_words
from casewise.predictions.penalised import PenalisedFit, subject_folds
from casewise.study.learners import first_weights
from casewise.study.recipe import PLANNED, Recipe

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.base import ImageStore
    from casewise.pipeline.read import RunInputs
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study

# The most epochs, of most networks twice as many; how many fit into the budget is measured before they are trained.
MOST_EPOCHS = 12
# Words of targets and classes that a mirrored image shows on the other side, alone and in pairs, and words before the
# letter or number of a place.
SIDES = {"left", "right", "links", "rechts", "gauche", "droite", "dexter", "sinister", "nasal", "temporal"}
PAIRS = ("lr", ("od", "os"), ("medial", "lateral"))
PLACES = {"zone", "region", "quadrant", "field", "lobe", "segment", "sector", "brixia"}
# How images vary in the training of pretrained networks for classes and numbers, besides flips.
VARIED = {"zoom_in": 0.4, "translate": 0.1, "brightness": 0.2, "contrast": 0.2, "padding_mode": "reflect"}
# The highest learning rate times the number of steps, twice as much if images vary, and the bounds of the rate: few
# steps need larger ones.
RATE_TIMES_STEPS, LOWEST_RATE, HIGHEST_RATE = 0.1, 3e-4, 6e-4
# Images have no upright position if a linear model distinguishes them from upside-down ones with an AUROC below this.
NO_UPRIGHT = 0.9
FEWEST_IMAGES, MOST_IMAGES, CELLS = 10, 600, 16
# Why a network has its number of epochs, and the words for it.
Reason: TypeAlias = Literal["fit", "most", "fewest", "stated", "left"]
REASONS: dict[Reason, str] = {
    "fit": "as many as fit into the budget",
    "most": "the most of a plan",
    "fewest": "the fewest",
    "stated": "as the study states",
    "left": "because too few would fit into the budget",
}


@dataclass(frozen=True)
class PlanFacts:
    """What a plan depends on; images of the test set take no part.

    Attributes:
        images, panels: of training, in all folds together.
        budget: seconds.
        size: the side of an image in pixels.
        flips: the flips of training panels.
        noun: what the images are called, in the plural.
        other_encoders: known encoders that are not used, and why.
    """

    images: int
    panels: int
    folds: int
    budget: float
    size: int
    flips: str
    encoders: list[str]
    noun: str
    other_encoders: Mapping[str, str] = field(default_factory=dict)

    @property
    def trained(self) -> float:
        """The panels that each network is trained on."""
        return self.panels * (self.folds - 1) / self.folds if self.folds > 1 else float(self.panels)


@dataclass(frozen=True)
class Forecast:
    """The seconds of a run, as measured when its networks were to begin.

    Attributes:
        before: what was done: preparation, audit and baselines.
        once: of all networks, besides their epochs.
        epoch: an epoch of all networks; 0 if a network could not be tried.
        after: evaluation, report and bundle.
        epochs: of each network.
        reason: why as many.
        pretraining: of all networks, on another cohort.
        external, altered: predictions of the external cohort, and of altered images.
        altered_cases: the number of cases whose images are altered, if reduced for the budget; else 0.
        needed: the budget with which networks that are left out would be trained.
    """

    before: float
    once: float
    epoch: float
    after: float
    epochs: int
    reason: Reason = "fit"
    pretraining: float = 0.0
    external: float = 0.0
    altered: float = 0.0
    altered_cases: int = 0
    needed: float = 0.0

    @property
    def decided(self) -> str:
        """The number of epochs, and why as many, in words."""
        trained = counted(self.epochs, "epoch") if self.epochs else "no network"
        return f"{trained}, {REASONS[self.reason]}"

    @property
    def training(self) -> float:
        """The seconds of all networks, without pretraining."""
        return self.once + self.epochs * self.epoch

    @property
    def total(self) -> float:
        """The seconds of the whole run."""
        return self.before + self.pretraining + self.training + self.external + self.altered + self.after


@dataclass(frozen=True)
class RecipePlan:
    """A planned recipe: what it depends on, the settings as a study file states them, and those that were stated.

    Without a forecast, the number of epochs is the largest one.
    """

    facts: PlanFacts
    recipe: Mapping[str, Any]
    stated: Mapping[str, Any] = field(default_factory=dict)
    forecast: Forecast | None = None


def recorded_plan(study: Study, folder: RunFolder) -> RecipePlan | None:
    """The plan of a run; None if its study states the recipe."""
    recorded = folder.recipe_plan.read_if_exists() if study.recipe.auto else None
    return from_json(RecipePlan, recorded) if recorded else None


def plan_recipe(inputs: RunInputs, show: Show) -> RunInputs:
    """The inputs with planned settings for those that the recipe does not state; unchanged if nothing is planned.

    A plan is used again as soon as the run has a finished learner, or a forecast by which networks may have begun; that
    of a run that is reproduced from the start.

    Raises:
        StudyError: a stated setting contradicts the plan.
    """
    study, folder = inputs.study, inputs.folder
    if not study.trained:
        return inputs
    if not study.recipe.auto:
        show.line("recipe", stated_in_words(study))
        return inputs
    if not study.networks:
        raise StudyError(
            f"recipe: it is planned for `backbones` only. For {names_text(study.trained)} write `auto: false` under "
            "`recipe`, and its settings."
        )
    stated, recorded = study.recipe.stated, folder.recipe_plan.read_or_none()
    earlier = from_json(RecipePlan, recorded) if recorded else None
    if earlier and (folder.finished_jobs() or folder.reproduction.exists()):
        planned = earlier
    else:
        facts = plan_facts(study, inputs.cohort, inputs.splits, inputs.store, download=True)
        begun = earlier and earlier.forecast and (earlier.facts, dict(earlier.stated)) == (facts, stated)
        planned = earlier if earlier and begun else RecipePlan(facts, recipe_of(study, facts, stated), stated)
    study = planned_study(study, planned)
    if planned is not earlier:
        folder.recipe_plan.write(asdict(planned))
    folder.plan_page.write(as_yaml(study, planned))
    show.line("recipe", in_words(study, planned))
    return replace(inputs, study=study)


def as_planned(study: Study, cohort: Cohort, splits: Splits, store: ImageStore) -> Study:
    """The study with the recipe that would be planned for it, if enough epochs fit into its budget."""
    facts, stated = plan_facts(study, cohort, splits, store, download=False), study.recipe.stated
    return planned_study(study, RecipePlan(facts, recipe_of(study, facts, stated), stated))


def planned_study(study: Study, planned: RecipePlan) -> Study:
    """The study with the settings of a plan.

    Raises:
        StudyError: a stated setting contradicts the plan.
    """
    try:
        recipe = Recipe.model_validate({**planned.recipe, "auto": True})
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise StudyError(f"recipe: what is stated contradicts what is planned for the rest: {message}.") from None
    decided = {name: {"decision": study.decisions.get(name)} for name in study.targets}
    changes = {
        "recipe": recipe,
        "test_time_augmentation": mirrored(study, planned.facts),
        "encoders": planned.facts.encoders,
        "targets": {name: target.model_copy(update=decided[name]) for name, target in study.targets.items()},
    }
    return with_fewer_altered(study.model_copy(update=changes), planned.forecast)


def with_fewer_altered(study: Study, forecast: Forecast | None) -> Study:
    """The study with as many cases whose images are altered as a forecast has, unless it states their number."""
    evaluation = study.evaluation
    if forecast is None or not forecast.altered_cases or "counterfactual_cases" in evaluation.model_fields_set:
        return study
    fewer = evaluation.model_copy(update={"counterfactual_cases": forecast.altered_cases})
    return study.model_copy(update={"evaluation": fewer})


# Settings of images that decide their pixels.
_OF_PIXELS = ("size", "fit", "padding", "channels", "mask_overlays")


def refuse_changes(study: Study, folder: RunFolder) -> None:
    """Refuse a study whose networks would differ from the networks of the folder, before its images are prepared.

    Raises:
        RunError: settings of the images, of a planned recipe, or of the computation were others.
        StudyError: the stated compute plan cannot be read.
    """
    from casewise.jobs.plan import changed_settings, differences, refuse_changed

    if not folder.finished_jobs() or folder.reproduction.exists():
        return
    changed = [line for line in changed_settings(folder, study, "images") if line.split()[0][7:] in _OF_PIXELS]
    if planned := recorded_plan(study, folder):
        before, now = planned.stated, study.recipe.stated
        absent = dict.fromkeys({**before, **now}, "planned")
        changed += differences("recipe", {**absent, **before}, {**absent, **now})
    refuse_changed(folder, changed)
    if study.trained:
        from casewise.jobs.compute_plans import refuse_other_plans

        # a damaged record states no plan: it is set aside later, and its network is trained again
        with suppress(DamagedError):
            refuse_other_plans(study, folder)


def plan_facts(
    study: Study, cohort: Cohort, splits: Splits, store: ImageStore | None, *, download: bool = False
) -> PlanFacts:
    """The facts of a run; before its images are prepared, without a store, flips are the usual ones.

    Args:
        download: as for `planned_encoders`.
    """
    subjects = cohort.images["subject"].astype(str)
    trained_on = set(splits.training(0) if splits.holdout else splits.training(splits.folds))
    training = np.flatnonzero(subjects.isin(trained_on).to_numpy())
    panels = int(cohort.panels["subject"].astype(str).isin(trained_on).sum())
    flips = _flips(study, store, training)
    slow = 1.0 if study.encoders or study.baselines.off else encoder_slowness(study)
    encoders, others = planned_encoders(
        study, len(training), flips, fits=fitting_seconds(study, panels, splits.folds), slow=slow, download=download
    )
    return PlanFacts(
        images=len(training),
        panels=panels,
        folds=splits.folds,
        budget=study.budget,
        size=study.images.size,
        flips=flips,
        encoders=encoders,
        noun=modality_of(study).noun(study).plural,
        other_encoders=others,
    )


def _flips(study: Study, store: ImageStore | None, training: np.ndarray) -> str:
    """The flips in training: none of volumes; the stated ones; none where targets have sides; else planned ones."""
    if study.fusions:
        return "none"
    if "flip" in study.panels.model_fields_set:
        return study.panels.flip
    if _has_sides(study.outputs, [name for target in study.targets.values() for name in target.classes]):
        return "none"
    return planned_flips(store.tiles, training, study.seed) if store else "horizontal"


def _has_sides(outputs: Sequence[str], classes: Sequence[str]) -> bool:
    """Whether targets may be told by the side (left or right): by such words, or as counted places of a picture.

    >>> _has_sides(["zone_A", "zone_B"], []), _has_sides(["score_1", "score_2"], []), _has_sides(["eye"], ["OD", "OS"])
    (True, False, True)
    """
    parts = [re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name) for name in (*outputs, *classes)]
    words = {word.casefold() for name in parts for word in name}
    places = [name[0].casefold() in PLACES for name in parts[: len(outputs)] if len(name) > 1]
    return bool(words & SIDES) or any(words >= {*pair} for pair in PAIRS) or sum(places) > 1


def planned_flips(tiles: np.ndarray, rows: np.ndarray, seed: int) -> str:
    """A value of `flip` for images (N, C, H, W): `both` if they have no upright position, else `horizontal`.

    At most `MOST_IMAGES` of `rows` are examined.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST_IMAGES])
    if len(chosen) < FEWEST_IMAGES:
        return "horizontal"
    small = np.stack([_reduced(np.asarray(tiles[number])) for number in chosen])
    return "both" if _mirror_auroc(small, small[..., ::-1, :]) < NO_UPRIGHT else "horizontal"


def _reduced(tile: np.ndarray) -> np.ndarray:
    """Means (C, CELLS, CELLS) over cells of a tile."""
    rows, columns = (np.linspace(0, side, CELLS + 1).astype(int)[:-1] for side in tile.shape[1:])
    sums = np.add.reduceat(np.add.reduceat(tile.astype(float), rows, axis=1), columns, axis=2)
    return np.asarray(sums / sums.mean() if sums.mean() else sums)


def _mirror_auroc(images: np.ndarray, mirrored: np.ndarray) -> float:
    """The AUROC with which a linear model distinguishes images from mirrored ones, each image in one fold only."""
    from sklearn.metrics import roc_auc_score

    values = np.concatenate([images, mirrored]).reshape(2 * len(images), -1)
    values = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-9)
    labels, groups = np.repeat([0, 1], len(images)), np.tile(np.arange(len(images)), 2)
    fit, predicted = PenalisedFit("classes", values, labels, [0.01], 2, most_steps=200), np.zeros(len(labels))
    for train, left_out in subject_folds(groups):
        predicted[left_out] = fit.outputs(fit.fit(train), left_out)[:, 1]
    return float(roc_auc_score(labels, predicted))


def mirrored(study: Study, facts: PlanFacts) -> bool:
    """Whether predictions are averaged over mirrored panels: as the study says, else if training mirrors."""
    if "test_time_augmentation" in study.model_fields_set:
        return study.test_time_augmentation
    return facts.flips not in ("none", "vertical")


def recipe_of(study: Study, facts: PlanFacts, stated: Mapping[str, Any], epochs: int = MOST_EPOCHS) -> dict[str, Any]:
    """The recipe as a study file states it: the stated settings, and planned ones for the rest.

    Args:
        epochs: of pretrained networks on volumes or for grades; others are trained twice as long.
    """
    pretrained, stated = _all_pretrained(study), dict(stated)
    kind = study.kind_of(study.primary_outcome)
    # Predictions of grades were better with flips only.
    varied = pretrained and not study.fusions and kind != "ordinal"
    # Networks without pretrained weights, and those whose images vary, are trained twice as long at the same rate.
    longer = 2 if varied or not pretrained else 1
    phase = {"epochs": stated.pop("epochs", longer * epochs), "freeze": "30%" if pretrained else "none"}
    phases = stated.pop("phases", None) or [phase]
    recipe = Recipe(auto=True).completed.model_dump(mode="json", include=set(PLANNED), exclude_unset=True) | stated
    steps = sum(phase["epochs"] for phase in phases) / longer
    steps *= math.ceil(facts.trained / recipe["batch_size"])
    rate = min(max(RATE_TIMES_STEPS * (1 + varied) / steps, LOWEST_RATE), HIGHEST_RATE)
    # Pretrained networks predicted films much better from the average over their last map.
    free = facts.flips not in ("both", "dihedral") and stated.get("head") != "fastai"
    positions = free and (bool(study.fusions) or not pretrained)
    positions = stated.get("pool", "map" if positions else "average") == "map"
    if not study.fusions and not study.panels.fixed:
        stated_keys = study.panels.model_fields_set
        variations = {name: value for name, value in VARIED.items() if varied and name not in stated_keys}
        phases = [{"variations": {"flip": facts.flips, **variations}, **phase} for phase in phases]
    mixed = varied and not (study.panels.bags or study.panels.fixed)
    return {
        "lr": round(rate, 5),
        # Mixed images predicted classes better, and numbers worse.
        "mixup": 0.2 if mixed and kind == "classification" else 0.0,
        "batch_norm": "keep_statistics" if pretrained else "update",
        "pool": "map" if positions else "average",
        # A head on a map has many weights for few steps. A head on an average would only repeat the linear model.
        "head": "probe" if positions and pretrained else "random",
        **recipe,
        "phases": phases,
    }


def _all_pretrained(study: Study) -> bool:
    return all(
        first.source.is_pretrained and first.stated != "random" for first in first_weights(study, study.networks)
    )
