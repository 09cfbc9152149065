"""Checks across the sections of a study; each section checks its own values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from casewise.errors import cut, nearest
from casewise.metrics.registry import metric_of
from casewise.plugin import modality_sections, plugins
from casewise.study.evaluation import SKIN_TONE
from casewise.study.model import StudyModel, refuse
from casewise.study.sources import check_networks, with_map
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study


def check_study(study: Study) -> None:
    """Check the sections of a study against each other.

    Raises:
        ValueError: two sections contradict each other; the message begins with the key.
    """
    check_names(study)
    _check_split(study)
    _check_modality(study)
    _check_learners(study)
    _check_training(study)
    _check_masks(study)
    _check_kinds(study)


def _listed(column: str | list[str] | None) -> list[str]:
    return [column] if isinstance(column, str) else column or []


def _check_among(key: str, names: Iterable[str], options: Iterable[str], defect: str) -> None:
    for name in names:
        if name not in options:
            raise ValueError(f"{key}: {cut(name)} is {defect}.{nearest(name, options)}")


def check_names(study: Study) -> None:
    """Every target, score and region that a key names must exist."""
    names = dict.fromkeys([*study.targets, *study.scores])
    by_region, evaluation = study.panels.by == "region", study.evaluation
    evaluated = [*study.outputs, *study.scores]
    stratified = [study.split.stratify_by] if study.split.stratify_by else []
    refuse(
        {f"scores: {cut(n)} is a target as well; give the score another name": n in study.targets for n in study.scores}
    )
    _check_among("outputs", study.outputs, names, "neither a target nor a score")
    whole = [n for n in study.outputs if by_region and n in study.scores and study.scores[n].level == "case"]
    refuse({f"outputs: {cut(n)} is a score of the whole case, and a panel shows one region only": True for n in whole})
    refuse({"regions: panels by region need the list of regions": by_region and not study.regions})
    _check_among("primary_outcome", [study.primary_outcome], evaluated, "neither predicted nor a score")
    for key, of_key in (("outputs", study.outputs), ("split.stratify_by", stratified)):
        several = [name for name in of_key if name in study.scores and "[" in study.scores[name].formula]
        message = "is computed from several regions, and one panel does not show them all; name its targets, or a score"
        refuse({f"{key}: {cut(name)} {message} of one region": True for name in several})
    _check_among("split.stratify_by", stratified, names, "not a target")
    for name in evaluation.prevalence:
        if study.positive_of(name) is None:
            raise ValueError(
                f"evaluation.prevalence: {cut(name)} is not a target with two classes, and a prevalence needs "
                f"two{'' if name in names else nearest(name, names)}"
            )
    if evaluation.decision_thresholds and not study.classes_of(study.primary_outcome):
        raise ValueError(
            f"evaluation.decision_thresholds: the primary outcome {cut(study.primary_outcome)} has no classes whose "
            "probability could be compared with a threshold"
        )
    if SKIN_TONE in evaluation.subgroup_cuts:
        grey, other = study.images.channels == "grey", study.modality_name != "photographs"
        images = f"images of the kind {study.modality_name}" if other else "`images: {channels: grey}`"
        problem = f"evaluation.subgroups: {SKIN_TONE} is estimated from colour photographs of skin, not from {images}"
        refuse({f"{problem}; leave it out, or name a column of the table": grey or other})
        cuts = evaluation.subgroup_cuts[SKIN_TONE]
        refuse({f"evaluation.subgroups: {SKIN_TONE} has groups of its own, and no cut points": cuts})
    columns = {column for target in study.targets.values() for column in _listed(target.column)}
    columns |= {study.columns[name] for name in study.targets if name in study.columns} | set(names)
    for key, named, defect in (
        ("evaluation.subgroups", list(evaluation.subgroup_cuts), "its groups would depend on what is predicted"),
        ("covariates", study.covariates, "it is what is predicted"),
        ("evaluation.arm", [study.evaluation.arm], "it is what is predicted"),
    ):
        predicted = next((name for name in named if name in columns), None)
        if predicted is not None:
            raise ValueError(
                f"{key}: {cut(predicted)} is a target or score of the study or the column of one, and {defect}; name a "
                "column of the table that is none"
            )
    twice = next((name for name in study.covariates if study.covariates.count(name) > 1), "")
    refuse({f"covariates: {cut(twice)} is named twice; state it once": twice})
    _check_among("evaluation.readers", evaluation.readers, evaluated, "neither predicted nor a score")
    own = evaluation.references if isinstance(evaluation.references, dict) else {}
    _check_among("evaluation.references", own, evaluated, "neither predicted nor a score")


def _check_split(study: Study) -> None:
    """A comparison with a split by image needs panels of single images and known subjects; `number` unknown ones."""
    unknown, pretrain, by, final = not study.subjects_known, study.pretrain, study.panels.by, study.final == "refit"
    by_number, by_image = study.split.by == "number", study.split.by == "image"
    monitor = study.recipe.early_stopping.monitor
    for label in study.sample:
        targets = [name for name in study.outputs if label in study.classes_of(name)]
        if len(targets) != 1 or by != "image":
            several = f"is a class of {' and '.join(targets)}" if targets else "is no class of an output"
            reason = several if len(targets) != 1 else "is drawn by single images; write `panels: {by: image}`"
            raise ValueError(f"sample: {cut(label)} {reason}")
    held_out = study.split.holdout
    other = next((name for name in study.stack if name != "mean"), "")
    kappa = next((name for name, rule in study.decisions.items() if rule == "kappa"), "")
    problems: dict[str, object] = {
        f"stack: {cut(other)} is fitted on the predictions of folds, and `split.validation` leaves none; use `mean` or "
        "leave out one of the two": held_out and other,
        f"targets.{kappa}: `decision: kappa` tunes thresholds on the predictions of folds, and `split.validation` "
        "leaves none; use `median` or `mean`": held_out and kappa,
        "nested_cv: inner folds and `split.validation` are two ways to choose; leave out one": held_out
        and study.nested_cv,
        "final: `split.validation` trains one network for each backbone; leave out `final: refit`": held_out and final,
        "split.by: 'number' is for images whose subjects are not known (`subjects_known: false`); write "
        "'subject'": by_number and not unknown,
        "subjects_guessed: guessed subjects are not known; write `subjects_known: false`": study.subjects_guessed
        and not unknown,
        f"split.by: 'image' splits single images, and the panels of this study are by {by}; write `panels: {{by: "
        "image}`": by_image and by != "image",
        "split.by: 'image' is compared with a split by subject, and the subjects are not known "
        "(subjects_known)": by_image and unknown,
        "split.by: 'image' compares splits only; leave out `pretrain`": by_image and pretrain,
        "final: networks of a split by image are not for new cases; leave out `final: refit`": by_image and final,
        "final: a refitted network has no held-out fold to stop on; write `early_stopping: {monitor: inner}` or "
        "`{monitor: none}` under recipe, or leave out `final: refit`": final and monitor == "fold",
    }
    refuse(problems)


def _check_modality(study: Study) -> None:
    """Sections of plugins must match the other sections; only sequences can be fused or turned together."""
    for name in type(study).model_fields:
        if isinstance(section := getattr(study, name), StudyModel):
            section.check_with(study)
    modality, sections = study.modality_name, modality_sections()
    for owner, section in sections.items():
        stated = getattr(study, section) is not None
        if modality == owner and not stated:
            raise ValueError(f"modality: {cut(modality)} needs the section `{section}`, which this study lacks; add it")
        if stated and modality != owner and modality in ("photographs", *sections):
            raise ValueError(
                f"modality: {cut(modality)} does not use the section `{section}`, which is for {owner}; leave out the "
                f"section, or write `modality: {owner}`"
            )
    turned = study.panels.quarter_turns and not study.fusions
    fused = "" if study.fusions else next((name for name in study.backbones if "@" in name), "")
    problems: dict[str, object] = {
        f"backbones: {cut(fused)}: a fusion after @ needs `volumes`, which this study lacks": fused,
        "panels.quarter_turns: only panels of slices are rotated so, and the study has no `volumes`": turned,
    }
    refuse(problems)


def _check_learners(study: Study) -> None:
    """A study needs a network or a baseline; weights, encoders and pretraining must suit them."""
    names = list(dict.fromkeys(name.partition("@")[0] for name in study.backbones))
    weights = study.weights if isinstance(study.weights, dict) else dict.fromkeys(names, "")
    _check_among("weights", weights, names, "none of the study's backbones")
    # a preset may state settings of networks that a study leaves out
    check_networks(list(study.recipe.networks), "recipe.networks")
    lacking = next((name for name in names if name not in weights), "")
    refuse({f"weights: nothing is stated for {lacking}; write pretrained, random or a file": lacking})
    problems: dict[str, object] = {
        "encoders: only the baseline linear_features uses them, and `baselines: {off: ...}` leaves it out; remove one "
        "of the two": study.encoders and study.baselines.off,
        "backbones: there is none, and `baselines` are off, so nothing would be fitted; name a network, or leave out "
        "`baselines`": not study.learners,
    }
    refuse(problems)


def _check_training(study: Study) -> None:
    """No key may choose what the inner folds choose, or weigh cases in a second way."""
    for_others = study.recipe.meant_for == "other_sources"
    by_image = study.split.by == "image"
    published = any(plugin.name == "published" for plugin in plugins())
    absent = "belongs to the plugin 'published' of casewise, which is not installed here"
    sequences = getattr(study.modality_settings, "missing", "")
    problems: dict[str, object] = {
        "recipe.meant_for: other_sources is judged by sources that no model was trained on; write `split: {leave_out: "
        "COLUMN}` with the column of the source, or leave out meant_for": for_others and not study.split.leave_out,
        f"recipe.imbalance: {study.recipe.imbalance} and `meant_for: other_sources`, which balances classes within "
        "each source, are two ways to weigh cases; leave out one": for_others and study.recipe.imbalance != "none",
        "nested_cv: its inner folds mix the sources that `meant_for: other_sources` keeps apart; leave out "
        "one": for_others and study.nested_cv,
        "split.by: 'image' and `meant_for: other_sources` are two comparisons; leave out one": for_others and by_image,
        f"nested_cv: {absent}": study.nested_cv and not published,
        f"split.by: 'image' {absent}": by_image and not published,
        "recipe.mixup: images of a bag, with masks, or with missing sequences are not mixed; leave it out": bool(
            study.recipe.mixup and (study.panels.bags or study.images.mask or sequences == "mask")
        ),
    }
    refuse(problems)
    nested_cv, recipe = study.nested_cv, study.recipe.completed
    if not nested_cv:
        return
    planned = "; a planned recipe has phases" if recipe.auto else ""
    monitor = recipe.early_stopping.monitor
    chooses = nested_cv.epochs or len(nested_cv.lr) > 1 or (nested_cv.among and len(study.networks) > 1)
    problems = {
        "nested_cv: phases state their own epochs and rates; leave out recipe.phases or "
        f"nested_cv{planned}": recipe.phases,
        "nested_cv: inner folds choose the number of epochs for all training subjects, and "
        f"recipe.early_stopping.monitor is {cut(monitor)}; write `early_stopping: {{monitor: none}}` under "
        "recipe": monitor != "none",
        "nested_cv: inner folds are by subject, and with `split: {by: image}` images of a subject are on both sides; "
        "leave one of them out": by_image,
        "nested_cv: there is nothing to choose: epochs is false, lr has fewer than two candidates, and there is one "
        "network or among is false": not chooses,
    }
    refuse(problems)


def _check_masks(study: Study) -> None:
    """Masks train the whole of a network with a map, with photographs in grids."""
    recipe, column = study.recipe.completed, study.images.mask
    frozen = next((n for n, phase in enumerate(recipe.phases, 1) if phase.freeze != "none"), 0)
    problems: dict[str, object] = {
        f"modality: the images of this study are {study.modality_name}, and masks are for photographs": (
            study.modality_name != "photographs"
        ),
        f"backbones: none of them has a map; add {' or '.join(with_map()) or 'one of the plugin published'}": not {
            *with_map()
        }
        & {*study.networks},
        "recipe: a planned one may freeze layers; state the recipe": study.recipe.auto,
        f"panels.pooling: {study.panels.pooling} draws images by themselves; use mean or max": study.panels.bags,
        f"recipe.tuning: {recipe.tuning} trains upper layers alone; use full": recipe.tuning != "full",
        f"recipe.phases, phase {frozen}: freezes layers of the map; write `freeze: none`": frozen,
        "recipe.pool: map reads another map of the network; use average": recipe.pool == "map",
        "recipe.head: fastai reads another map of the network; use random or probe": recipe.head == "fastai",
    }
    labels, settings = study.images.mask_labels, study.modality_settings
    columns = [
        study.images.lesion,
        column,
        study.audit.mask,
        *(getattr(settings, key, None) for key in ("mask", "lesion")),
    ]
    by_column = labels if isinstance(labels, dict) else {}
    refuse(
        {
            "images.mask_labels: no label would count; list labels, such as [1, 2], or leave it out": (
                labels is not None and not all([labels, *by_column.values()])
            )
        }
        | {
            f"images.mask_labels: {cut(name)} is no column of masks that the study names."
            f"{nearest(name, [str(other) for other in columns if other])}": name not in columns
            for name in by_column
        }
    )
    refuse({f"images.mask: {cut(column)} cannot be trained on. {text}": so and column for text, so in problems.items()})
    other = (
        f"the images of this study are {study.modality_name}, and marks are masked in photographs only; leave it out"
    )
    unsuitable = study.images.mask_overlays is not False and study.modality_name != "photographs"
    refuse({f"images.mask_overlays: {other}": unsuitable})
    lone = "weighs the masks of images.mask, which the study does not name; name their column, or leave mask_loss out"
    refuse({f"recipe.mask_loss: {lone}": recipe.mask_loss != 1 and not column})


def _check_kinds(study: Study) -> None:
    """Formulas, stackers, bands, readers and balancing must suit the kinds of their targets."""
    kinds = {name: kind_named(study.kind_of(name)) for name in [*study.targets, *study.scores]}
    for name, score in study.scores.items():
        used = re.findall(r"[^\W\d]\w*", score.formula)
        other = next((n for n in study.targets if n in used and not kinds[n].arithmetic), None)
        if other:
            raise ValueError(f"scores.{name}: {cut(other)} has classes, and a formula needs numbers")
    for stacker in study.stack:
        for name in study.outputs:
            *first, last = kinds[name].stackers
            if stacker not in kinds[name].stackers:
                raise ValueError(
                    f"stack: {cut(stacker)} does not combine {cut(name)} ({kinds[name].name}); use "
                    f"{', '.join(first)} or {last}"
                )
    primary, imbalance = kinds[study.primary_outcome], study.recipe.imbalance
    read = next((name for name in study.evaluation.readers if not kinds[name].arithmetic), "")
    balanced = [name for name in study.outputs if kinds[name].balanced]
    low, high = study.range_of(study.primary_outcome)
    margin, is_number = study.evaluation.margin, primary.form == "number"
    compared = metric_of("mae" if is_number else primary.merit).title
    # a kappa lies between -1 and 1, an AUROC between 0 and 1
    largest = high - low if is_number else 2.0 if primary.merit.startswith("kappa") else 1.0
    problems: dict[str, object] = {
        f"evaluation.margin: {margin} is not below {largest:g}, the largest difference in {compared} of "
        f"{cut(study.primary_outcome)}; write a number between 0 and {largest:g}, such as 0.02 for two "
        "hundredths": margin is not None and margin >= largest,
        "evaluation.bands: the primary outcome has classes already": study.evaluation.bands and not primary.arithmetic,
        "evaluation.arm: the primary outcome has classes, and only the change of a number is compared between "
        "arms": study.evaluation.arm and not primary.arithmetic,
        "evaluation.arm: the change over time is compared between arms, and `response: false` computes "
        "none": study.evaluation.arm and not study.evaluation.response,
        "evaluation.control: there is no `arm`; name its column": study.evaluation.control and not study.evaluation.arm,
        f"evaluation.readers: {cut(read)} has classes; readers are compared on numbers only": read,
        f"recipe.imbalance: {cut(imbalance)} needs a target with classes": imbalance != "none" and not balanced,
        "recipe.meant_for: other_sources weighs classes within each source, and the study has no target with classes; "
        "leave it out": study.recipe.meant_for == "other_sources" and not balanced,
        "recipe.imbalance: 'sampling' needs a primary outcome with classes": imbalance == "sampling"
        and study.primary_outcome not in balanced,
    }
    refuse(problems)
