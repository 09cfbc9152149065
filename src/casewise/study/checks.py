"""Checks across the sections of a study; each section checks its own values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from casewise.errors import cut, nearest
from casewise.plugin import modality_sections
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study


def check_study(study: Study) -> None:
    """Check the sections of a study against each other.

    Raises:
        ValueError: two sections contradict each other; the message begins with the key.
    """
    checks = (check_names, check_image_split, check_offline_copies, check_modality, check_learners)
    for check in (*checks, check_nested_cv, check_final, check_kinds):
        check(study)


def _listed(column: str | list[str] | None) -> list[str]:
    return [column] if isinstance(column, str) else column or []


def _check_among(key: str, name: str, options: Iterable[str], defect: str) -> None:
    if name not in options:
        raise ValueError(f"{key}: {cut(name)} is {defect}.{nearest(name, options)}")


def check_names(study: Study) -> None:
    """Every target, score and region that a key names must exist."""
    names = dict.fromkeys([*study.targets, *study.scores])
    shared = set(study.targets) & set(study.scores)
    if shared:
        raise ValueError(f"scores: {cut(sorted(shared)[0])} is a target as well; give the score another name")
    for name in study.outputs:
        _check_among("outputs", name, names, "neither a target nor a score")
        if name in study.scores and study.scores[name].level == "case" and study.panels.by == "region":
            raise ValueError(f"outputs: {cut(name)} is a score of the whole case, and a panel shows one region only")
    if study.panels.by == "region" and not study.regions:
        raise ValueError("regions: panels by region need the list of regions")
    evaluated = [*study.outputs, *study.scores]
    _check_among("primary_outcome", study.primary_outcome, evaluated, "neither predicted nor a score")
    used = [("outputs", name) for name in study.outputs] + [("split.stratify_by", study.split.stratify_by or "")]
    for key, name in used:
        if name in study.scores and "[" in study.scores[name].formula:
            raise ValueError(
                f"{key}: {cut(name)} is computed from several regions, and one panel does not show them all; "
                "name its targets, or a score of one region"
            )
    if study.split.stratify_by:
        _check_among("split.stratify_by", study.split.stratify_by, names, "not a target")
    for name in study.evaluation.prevalence:
        if study.positive_of(name) is None:
            raise ValueError(
                f"evaluation.prevalence: {cut(name)} is no target with two classes, and a prevalence is that of one "
                f"of two{'' if name in names else nearest(name, names)}"
            )
    if study.evaluation.decision_thresholds and not study.classes_of(study.primary_outcome):
        raise ValueError(
            f"evaluation.decision_thresholds: the primary outcome {cut(study.primary_outcome)} has no classes whose "
            "probability could be compared with a threshold"
        )
    columns = {column for target in study.targets.values() for column in _listed(target.column)}
    columns |= {study.columns[name] for name in study.targets if name in study.columns}
    columns |= set(names)
    predicted = next((name for name in study.evaluation.subgroup_cuts if name in columns), None)
    if predicted is not None:
        raise ValueError(
            f"evaluation.subgroups: {cut(predicted)} is a target or score of the study or the column of one, and its "
            "groups would depend on what is predicted; name a column of the table that is none"
        )
    for key in ("readers", "references"):
        for name in getattr(study.evaluation, key):
            _check_among(f"evaluation.{key}", name, evaluated, "neither predicted nor a score")


def check_image_split(study: Study) -> None:
    """A comparison with a split by image needs panels of single images and known subjects; `number` unknown ones."""
    if study.split.by == "number" and study.subjects_known:
        raise ValueError(
            "split.by: 'number' is for images whose subjects are not known (`subjects_known: false`); write 'subject'"
        )
    if study.split.by != "image":
        return
    if study.panels.by != "image":
        raise ValueError(
            f"split.by: 'image' splits single images, and the panels of this study are by {study.panels.by}; write "
            "`panels: {by: image}`"
        )
    if not study.subjects_known:
        raise ValueError(
            "split.by: 'image' is compared with a split by subject, and the subjects are not known (subjects_known)"
        )
    if study.pretrain:
        raise ValueError("split.by: 'image' compares splits only; leave out `pretrain`")


def check_offline_copies(study: Study) -> None:
    """Fixed copies need phases, and no phase may change their augmentation."""
    if not study.panels.offline_copies:
        return
    if not study.recipe.phases:
        raise ValueError(
            "panels.offline_copies: fixed copies need recipe.phases; write for example `phases: [{epochs: 50}]` under "
            "recipe, or leave out offline_copies"
        )
    number = next((n for n, phase in enumerate(study.recipe.phases) if phase.variations), None)
    if number is not None:
        raise ValueError(
            f"recipe.phases, phase {number + 1}: variations: with panels.offline_copies "
            f"({study.panels.offline_copies}) every copy is augmented once for all phases; leave out one of them"
        )


def check_modality(study: Study) -> None:
    """The settings of the modality must match the other sections; only sequences can be fused or turned together."""
    settings = study.modality_settings
    if settings is not None:
        settings.check_with(study)
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
    if study.fusions:
        return
    with_fusion = next((name for name in study.backbones if "@" in name), None)
    if with_fusion:
        raise ValueError(f"backbones: {cut(with_fusion)}: a fusion after @ needs `volumes`, which this study lacks")
    if study.panels.quarter_turns:
        raise ValueError("panels.quarter_turns: only panels of slices are rotated so, and the study has no `volumes`")


def check_nested_cv(study: Study) -> None:
    """No other key may choose what the inner folds choose."""
    nested_cv, recipe = study.nested_cv, study.recipe.completed
    if not nested_cv:
        return
    if recipe.phases:
        planned = "; a planned recipe has phases" if recipe.auto else ""
        raise ValueError(
            f"nested_cv: phases state their own epochs and rates; leave out recipe.phases or nested_cv{planned}"
        )
    if recipe.tuning == "gradual_unfreezing":
        raise ValueError(
            "nested_cv: gradual unfreezing ends each of its stages by the stopping loss, so that there is no single "
            "number of epochs to choose; write `tuning: full` or `head_only`"
        )
    if recipe.lr == "find":
        raise ValueError(
            "nested_cv: recipe.lr is `find`, and inner folds choose among stated rates; write candidates as `lr` under "
            "nested_cv, and a number as recipe.lr"
        )
    if recipe.early_stopping.monitor != "none":
        raise ValueError(
            "nested_cv: inner folds choose the number of epochs for all training subjects, and "
            f"recipe.early_stopping.monitor is {cut(recipe.early_stopping.monitor)}; write `early_stopping: "
            f"{{monitor: none}}` under recipe"
        )
    if study.split.by == "image":
        raise ValueError(
            "nested_cv: inner folds are by subject, and with `split: {by: image}` images of a subject are on both "
            "sides; leave one of them out"
        )
    if not (nested_cv.epochs or len(nested_cv.lr) > 1 or (nested_cv.among and len(study.networks) > 1)):
        raise ValueError(
            "nested_cv: there is nothing to choose: epochs is false, lr has fewer than two candidates, and there is "
            "one network or among is false"
        )


def check_final(study: Study) -> None:
    """A network on all folds has no fold that could decide when its training ends."""
    if study.final == "refit" and study.recipe.early_stopping.monitor == "fold":
        raise ValueError(
            "final: a refitted network has no held-out fold to stop on; write `early_stopping: {monitor: inner}` or "
            "`{monitor: none}` under recipe, or leave out `final: refit`"
        )
    if study.final == "refit" and study.split.by == "image":
        raise ValueError("final: networks of a split by image are not for new cases; leave out `final: refit`")


def check_learners(study: Study) -> None:
    """A study needs a network or a baseline; weights, encoders and pretraining must suit them."""
    if isinstance(study.weights, dict):
        names = list(dict.fromkeys(name.partition("@")[0] for name in study.backbones))
        for name in study.weights:
            _check_among("weights", name, names, "none of the study's backbones")
        missing = next((name for name in names if name not in study.weights), None)
        if missing is not None:
            raise ValueError(f"weights: nothing is stated for {missing}; write pretrained, random or a file")
    if study.encoders and study.baselines.off:
        raise ValueError(
            "encoders: only the baseline linear_features uses them, and `baselines: {off: ...}` leaves it out; remove "
            "one of the two"
        )
    if not study.learners:
        raise ValueError(
            "backbones: there is none, and `baselines` are off, so nothing would be fitted; name a network, or leave "
            "out `baselines`"
        )
    if study.recipe.lr == "find" and study.pretrain and not study.pretrain.lr:
        raise ValueError("pretrain.lr: must be a number if recipe.lr is `find`; the finder uses the study's own images")


def check_kinds(study: Study) -> None:
    """Formulas, stackers, bands, readers and balancing must suit the kinds of their targets."""
    kinds = {name: kind_named(study.kind_of(name)) for name in [*study.targets, *study.scores]}
    for name, score in study.scores.items():
        used = re.findall(r"[^\W\d]\w*", score.formula)
        other = next((n for n in study.targets if n in used and not kinds[n].arithmetic), None)
        if other:
            raise ValueError(f"scores.{name}: {cut(other)} has classes, and a formula needs numbers")
    for stacker in study.stack:
        for name in study.outputs:
            if stacker not in kinds[name].stackers:
                raise ValueError(
                    f"stack: {cut(stacker)} does not combine {cut(name)} ({kinds[name].name}); use "
                    f"{' or '.join([', '.join(kinds[name].stackers[:-1]), kinds[name].stackers[-1]])}"
                )
    if study.evaluation.bands and not kinds[study.primary_outcome].arithmetic:
        raise ValueError("evaluation.bands: the primary outcome has classes already")
    for name in study.evaluation.readers:
        if not kinds[name].arithmetic:
            raise ValueError(f"evaluation.readers: {cut(name)} has classes; readers are compared on numbers only")
    imbalance, balanced = study.recipe.imbalance, [name for name in study.outputs if kinds[name].balanced]
    if imbalance != "none" and not balanced:
        raise ValueError(f"recipe.imbalance: {cut(imbalance)} needs a target with classes")
    if imbalance == "sampling" and study.primary_outcome not in balanced:
        raise ValueError("recipe.imbalance: 'sampling' needs a primary outcome with classes")
