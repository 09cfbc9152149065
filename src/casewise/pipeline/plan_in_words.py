"""A planned recipe in words and as lines of a study file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from casewise.cohort.table import names_text
from casewise.console import duration
from casewise.errors import counted
from casewise.study.images import FLIPS

if TYPE_CHECKING:
    from casewise.pipeline.recipe_plan import Forecast, PlanFacts, RecipePlan
    from casewise.study.schema import Study

# The words of the variations of a training (`casewise.pipeline.recipe_plan.VARIED`).
VARIED_WORDS = {"zoom_in": "enlargement", "translate": "shifts", "brightness": "brightness", "contrast": "contrast"}


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
