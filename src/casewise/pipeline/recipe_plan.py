"""Planning what a study does not state of its recipe, from its images, their position and a time budget.

Labels and images of the test set take no part; of cases that are judged out of fold, the images do, but no label.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from pydantic import ValidationError

from casewise.cohort.table import names_text
from casewise.console import duration
from casewise.errors import DamagedError, StudyError, WeightsError, counted
from casewise.evaluation.record import from_json
from casewise.modalities.registry import modality_of
from casewise.predictions.penalised import PenalisedFit, subject_folds
from casewise.study.images import FLIPS
from casewise.study.learners import encoders_of, first_weights
from casewise.study.recipe import PLANNED, Recipe
from casewise.study.sources import KnownEncoder, known_encoders
from casewise.study.weight_files import FirstWeights

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
VARIED_WORDS = {"zoom_in": "enlargement", "translate": "shifts", "brightness": "brightness", "contrast": "contrast"}
# The highest learning rate times the number of steps, twice as much if images vary, and the bounds of the rate: few
# steps need larger ones.
RATE_TIMES_STEPS, LOWEST_RATE, HIGHEST_RATE = 0.1, 3e-4, 6e-4
# Images have no upright position if a linear model distinguishes them from upside-down ones with an AUROC below this.
NO_UPRIGHT = 0.9
FEWEST_IMAGES, MOST_IMAGES, CELLS = 10, 600, 16
# The most encoders of the baselines, the share of the budget that they may take, and how many cores a GPU is worth.
MOST_ENCODERS, ENCODER_SHARE, GPU = 3, 0.25, 60
# Seconds of a core in which both baselines are fitted, for a row, a direction, an output and an encoder; the panels by
# which it is measured how much slower this computer is, and how often.
FIT, TRIED, REPEATS = 7e-6, 4, 4
NOT_HERE = "not on this computer"
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


def planned_encoders(
    study: Study, images: int, flips: str, *, fits: float = 0.0, slow: float = 1.0, download: bool = False
) -> tuple[list[str], dict[str, str]]:
    """The encoders of the baselines: the stated ones, or the first and the best others whose weights are here.

    A study that states `weights: pretrained` has open weights downloaded.

    Args:
        fits: seconds of a core in which the baselines are fitted to the features of an encoder.
        slow: how much slower than in the table of encoders a core is.
        download: whether to do so now; otherwise such weights count as present. After a failed download no other is
            tried.

    Returns:
        The encoders, and of every other known encoder why it is not used.
    """
    from joblib import cpu_count

    first = encoders_of(study)
    if study.encoders or study.baselines.off or not first:
        return list(study.encoders), {}
    views = 4 if flips in ("both", "dihedral") else 1 if flips in ("none", "vertical") else 2
    # sequences are read one by one, and together
    megapixels = images * views * (4 if study.fusions else 1) * study.images.size**2 / 1e6
    cores = _cores(study)
    chosen: list[str] = []
    families: set[str] = set()
    others, left = {}, ENCODER_SHARE * study.budget
    downloads = study.weights == "pretrained" and "weights" in study.model_fields_set
    for encoder in sorted(known_encoders(), key=lambda encoder: encoder.name not in first):
        name, seconds = encoder.name, slow * (megapixels * encoder.seconds / cores + fits / cpu_count())
        if name in first:
            left -= seconds
            families.add(encoder.family)
        elif problem := _why_not_here(encoder, study, downloads):
            others[name] = problem
        elif encoder.family in families - {""}:
            others[name] = f"another {encoder.family} is used"
        elif len(first) + len(chosen) >= MOST_ENCODERS:
            others[name] = f"{MOST_ENCODERS} others are used"
        elif seconds > left:
            others[name] = f"takes about {duration(seconds)}, more than is left of a quarter of the budget"
        elif download and (failed := _failed_download(name, study)):
            others[name], downloads = f"{NOT_HERE}; {failed}", False
        else:
            left -= seconds
            chosen.append(name)
            families.add(encoder.family)
    return [*first, *chosen], others


def _why_not_here(encoder: KnownEncoder, study: Study, downloads: bool) -> str:
    """Why a plan cannot use the weights of an encoder; empty if it can."""
    weights = FirstWeights(encoder.name, folder=study.weights_dir)
    if not weights.is_present:
        if downloads and not encoder.access:
            return ""
        return f"{NOT_HERE}; {encoder.access or 'open'}, {encoder.licence}"
    try:
        weights.clause()
    except WeightsError as error:  # nobody asked for this encoder, so that its file stops no run
        return str(error)
    return ""


def _failed_download(name: str, study: Study) -> str:
    """Download the weights of an encoder into the cache of its library if they are not here; why that failed, or ""."""
    from casewise.models.weights import download_of

    weights = FirstWeights(name, folder=study.weights_dir)
    if weights.is_present:
        return ""
    try:
        with download_of(weights):
            weights.source.download(name)
    except WeightsError as error:
        return "its download failed" + (f" ({error.__cause__})" if error.__cause__ else "")
    return ""


def _cores(study: Study) -> float:
    """The cores that compute features, or what a GPU is worth."""
    import torch
    from joblib import cpu_count

    device = study.compute.device
    return GPU if device != "cpu" and torch.cuda.is_available() else int(cpu_count())


def fitting_seconds(study: Study, panels: int, folds: int) -> float:
    """Seconds of a core in which the baselines of all folds are fitted to the features of an encoder."""
    from casewise.jobs.fitting import MOST_FITTED
    from casewise.training.linear_models import MOST_DIRECTIONS

    rows = min(panels * (folds - 1) / folds if folds > 1 else panels, MOST_FITTED)
    outputs = sum(max(1, len(study.classes_of(name))) for name in study.outputs)
    return (folds + (study.final == "refit")) * FIT * rows * min(rows, MOST_DIRECTIONS) * outputs


def encoder_slowness(study: Study) -> float:
    """How many times longer than in the table of encoders a core of this computer takes; 1 with a GPU."""
    return 1.0 if _cores(study) == GPU else _measured_slowness(study.images.size)


@cache
def _measured_slowness(side: int) -> float:
    """The same, from the features of MobileNetV2 for panels of this side."""
    import torch

    from casewise.models.linear import build_linear
    from casewise.models.threads import on_threads

    mobilenet = next(encoder for encoder in known_encoders() if encoder.name == "mobilenet_v2")
    bank = {"encoders": [{"name": mobilenet.name}], "channels": 3, "specs": None}
    with torch.random.fork_rng(devices=[]):  # its random weights change no other random numbers
        network = build_linear(mobilenet.name, 1, bank, {"side": side}).eval()
    panels = torch.full((TRIED, 3, side, side), 0.5)
    with on_threads(1), torch.inference_mode():
        ends = [time.monotonic()]
        for _ in range(REPEATS):
            network.features(panels)
            ends.append(time.monotonic())
    # the first time takes longer, and others may be interrupted
    return float(min(np.diff(ends)) / (TRIED * side**2 / 1e6 * mobilenet.seconds))


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


def stated_in_words(study: Study) -> str:
    """Which settings of its recipe a study states, before anything is planned, and what the others are."""
    rest = "are planned from the images" if study.recipe.auto else "have their defaults"
    stated = study.recipe.stated
    return f"stated: {_listed(stated)}; all other settings {rest}" if stated else f"all settings {rest}"


def _listed(stated: Mapping[str, object]) -> str:
    """Stated settings with their values; a section's in parentheses, and the number of sections within one.

    >>> _listed({"schedule": "plateau", "plateau": {"patience": 3}, "phases": [{"epochs": 1}], "early_stopping": {}})
    'schedule plateau, plateau (patience 3), phases (1 with settings of their own)'
    """
    texts = []
    for name, value in stated.items():
        inner = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
        if any(isinstance(each, (dict, list)) for each in inner):
            texts.append(f"{name} ({len(inner)} with settings of their own)")
        elif isinstance(value, dict):
            texts += [f"{name} ({_listed(value)})"] if value else []
        elif value not in (None, []):
            texts.append(f"{name} {value}")
    return ", ".join(texts)


def in_words(study: Study, planned: RecipePlan) -> str:
    """The plan in a sentence, and the settings that the study states."""
    recipe, facts, phases = study.recipe, planned.facts, study.recipe.phases
    phase, epochs = phases[0], sum(phase.epochs for phase in phases)
    several = f" in {counted(len(phases), 'phase')}" if len(phases) > 1 else ""
    stated = f"; stated: {_listed(planned.stated)}" if planned.stated else ""
    flips = "no flips" if facts.flips == "none" else FLIPS[facts.flips]
    variation = [flips, *(word for name, word in VARIED_WORDS.items() if phase.variations.get(name))]
    variation += ["mixed images"] if recipe.mixup else []
    head = "a head that keeps positions" if recipe.pool == "map" else "an average over positions"
    frozen = f", the first {phase.freeze} of the layers frozen" if phase.freeze != "none" else ""
    folds = f", {facts.folds} folds" if facts.folds > 1 else ""
    of = f"{facts.images:,} {facts.noun}{folds} and {duration(facts.budget)}"
    # how many fit into the budget is measured later
    most = "" if planned.forecast or {"epochs", "phases"} & planned.stated.keys() else "at most "
    trained = f"{most}{counted(epochs, 'epoch')}{several}"
    encoders = f"; encoders {names_text(facts.encoders)}" if facts.encoders else ""
    networks = [*study.networks, trained + frozen, head, *variation]
    if planned.forecast and planned.forecast.reason == "left":
        networks = [f"no network, since a budget for {trained} of one would be {duration(planned.forecast.needed)}"]
    text = f"planned: {', '.join(networks)}{encoders}; for {of}{stated}"
    return f"{text}; {forecast_in_words(planned.forecast, facts)}" if planned.forecast else text


def forecast_in_words(forecast: Forecast, facts: PlanFacts) -> str:
    """How long the run was expected to take, and if it is longer than the budget, by how much and why."""
    if not forecast.epoch and forecast.reason != "left":
        unknown = "the speed of the networks could not be measured, so the run may take longer than the budget"
        return f"{forecast.decided}: {unknown}"
    parts = forecast_parts(forecast)
    decided = forecast.decided
    if forecast.reason == "left":
        decided = f"{decided} ({duration(forecast.needed)} would be enough; `recipe: {{epochs: …}}` trains one anyway)"
    over, takes = forecast.total - facts.budget, [name for name, seconds in parts.items() if seconds]
    if over > 0:
        takes.sort(key=lambda name: -parts[name])
    listed = ", ".join(f"{name} {duration(parts[name])}" for name in takes)
    more = f", {duration(over)} more than the budget" if over > 0 else ""
    expected = "expected" if forecast.reason == "left" else "expected before the networks were trained"
    return f"{decided}; {expected}: {duration(forecast.total)}{more} ({listed})"


def forecast_parts(forecast: Forecast) -> dict[str, float]:
    """The seconds of each step of a run."""
    return {
        "preparation, audit and baselines": forecast.before,
        "pretraining": forecast.pretraining,
        "networks": forecast.training,
        "external cohort": forecast.external,
        f"altered images{f' of {forecast.altered_cases} cases' * bool(forecast.altered_cases)}": forecast.altered,
        "evaluation and report": forecast.after,
    }


def as_yaml(study: Study, planned: RecipePlan) -> str:
    """The plan in words and as lines with which a study file states it."""
    import yaml

    targets = {name: target.model_dump(mode="json", exclude_unset=True) for name, target in study.targets.items()}
    for name, rule in study.decisions.items():
        targets[name]["decision"] = rule
    stated = {
        "targets": targets if study.decisions else {},
        "images": study.images.model_dump(mode="json", exclude_unset=True),
        "panels": study.panels.model_dump(mode="json", exclude_unset=True),
        "backbones": study.backbones,
        "encoders": study.encoders,
        "recipe": {"auto": False, **planned.recipe},
        "test_time_augmentation": study.test_time_augmentation,
        "stack": list(study.stack),
        "stack_baselines": study.stack_baselines,
    }
    lines = yaml.safe_dump({key: value for key, value in stated.items() if value not in ({}, [])}, sort_keys=False)
    head = f"# {in_words(study, planned)}\n# These lines replace the lines with the same keys in the study file.\n"
    others = "".join(f"# encoder not used: {name}: {why}\n" for name, why in planned.facts.other_encoders.items())
    return head + others + lines
