"""What a client needs to know about the model: targets, ranges, bands, images, limits of use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from casewise.cohort.folder_layout import ENDINGS
from casewise.modalities.registry import modality_of
from casewise.plugins.serve.settings import Json
from casewise.plugins.serve.submission import slots_of
from casewise.predictions.covariates import encodings_of
from casewise.report.formatting import display_name
from casewise.study.learners import learner_name
from casewise.targets import kind_named
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.inference.model import TrainedModel
    from casewise.study.schema import Study

NOTICE = "Research software, not a medical device. The results must not be used to diagnose, treat or monitor anyone."


def describe(model: TrainedModel, study: Study, learner: str, networks: list[str], explained: list[str]) -> Json:
    """The facts of a model as plain values.

    Args:
        learner: the learner that predicts; networks: those behind it; explained: those with saliency maps.
    """
    about, noun = model.about, modality_of(study).noun(study)
    display = about.get("display") or {}
    names = [*study.outputs, *(name for name in study.scores if name not in study.outputs)]
    titles = {name: str(display.get(name) or display_name(study, name)) for name in names}
    outcome, bands = study.primary_outcome, about.get("bands") or {}
    targets = [_target(study, name, titles[name], bands if name == outcome else {}) for name in names]
    sequences = getattr(study.modality_settings, "sequences", None)
    level = model.combination.intervals.get("level")
    return {
        "name": str(about.get("name") or model.folder.name),
        "title": str(about.get("title") or about.get("name") or "A model of casewise"),
        "checksum": model.checksum,
        "casewise": __version__,
        "notice": NOTICE,
        "synthetic": bool(about.get("synthetic") or any(m.origin.get("synthetic") for m in model.members)),
        "learner": learner,
        "learner_title": learner_name(learner),
        "networks": sum(member.model in networks for member in model.members),
        "modality": study.modality_name,
        "noun": {"singular": noun.singular, "plural": noun.plural},
        "visits": bool(about.get("visits", True)),
        "several": several_images(study, networks),
        "primary_outcome": outcome,
        "targets": targets,
        "targets_by_name": {target["name"]: target for target in targets},
        "titles": titles,
        "coverage": level,
        "unit": study.unit,
        "response": about.get("response"),
        "slots": slots_of(study),
        "regions": list(study.regions),
        "sequences": [str(name) for name in sequences or []],
        "series": bool(sequences),
        "all_slots": study.missing_regions == "refuse" and not sequences,
        "endings": [".nii", ".nii.gz", ".dcm"] if sequences else list(ENDINGS),
        "explained_learners": explained,
        "explained_titles": {name: learner_name(name) for name in explained},
        "explained_targets": list(study.outputs),
        "card": model.card,
    }


def covariate_fields(record: Mapping[str, Any]) -> list[Json]:
    """The fields of covariates: numbers have a `range`, categories `levels`; `optional` if training cases lacked some.

    Args:
        record: of the models of covariates (`casewise.predictions.covariates.CovariateFit`); empty if none is served.
    """
    return [
        {
            "name": each.name,
            "range": list(each.limits) or None,
            "levels": [level for level in each.levels if level],
            "optional": each.marks_missing or "" in each.levels,
        }
        for each in encodings_of(record)
    ]


def several_images(study: Study, networks: list[str]) -> str:
    """What becomes of several images of a visit or region, as a sentence; empty where they are one scan."""
    if getattr(study.modality_settings, "sequences", None):
        return ""
    noun, own = modality_of(study).noun(study), [study.level_of(name) == "image" for name in study.targets]
    if all(own):
        return f"Each {noun.singular} has a prediction of its own."
    views = [study.of_learner(name).panels for name in networks]
    many, of = f"Several {noun.plural}", " of a region" if study.panels.by == "region" else ""
    if any(own) or study.modality_name != "photographs" or len({(p.bags, p.slots, p.pooling) for p in views}) > 1:
        return f"{many}{of} are combined in one prediction."
    if views[0].bags or views[0].slots > 1:
        at_once = "" if views[0].bags else f", {views[0].slots} at a time"
        return f"{many}{of} are read together{at_once}."
    largest = views[0].pooling == "max"
    return f"{many}{of}: {'the largest of their predictions counts' if largest else 'their predictions are averaged'}."


def _target(study: Study, name: str, title: str, bands: dict[str, float]) -> Json:
    score = name in study.scores
    kind = "regression" if score else study.targets[name].kind
    numeric = kind_named(kind).form == "number"
    low, high = study.range_of(name)
    return {
        "name": name,
        "title": title,
        "kind": kind,
        "score": score,
        "primary": name == study.primary_outcome,
        "level": study.level_of(name),
        "range": [low, high] if numeric else None,
        "classes": [] if score else study.classes_of(name),
        "bands": dict(sorted(bands.items(), key=lambda band: band[1])) if numeric else {},
    }
