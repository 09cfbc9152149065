"""Checks across the sections of a study; each section checks its own values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from casewise.errors import nearest
from casewise.study.images import FUSIONS, Images
from casewise.study.panels import Panels

if TYPE_CHECKING:
    from casewise.study.schema import Study


def check_study(study: Study) -> None:
    """Check the sections of a study against each other.

    Raises:
        ValueError: two sections contradict each other; the message begins with the key.
    """
    for check in (
        check_names,
        check_image_split,
        check_offline_copies,
        check_volumes,
        check_weights,
        check_nested_cv,
        check_classes,
    ):
        check(study)


def check_names(study: Study) -> None:
    """Every target, score and region that a key refers to exists."""
    names = [*study.targets, *study.scores]
    shared = set(study.targets) & set(study.scores)
    if shared:
        raise ValueError(f"scores: {sorted(shared)[0]!r} is a target as well; give the score another name")
    for name in study.outputs:
        if name not in names:
            raise ValueError(f"outputs: {name!r} is neither a target nor a score.{nearest(name, names)}")
        if name in study.scores and study.scores[name].level == "case" and study.panels.by == "region":
            raise ValueError(f"outputs: {name!r} is a score of the whole case; a panel shows one region only")
    if study.panels.by == "region" and not study.regions:
        raise ValueError("regions: panels by region need the list of the study's regions")
    evaluated = [*study.outputs, *study.scores]
    if study.primary_outcome not in evaluated:
        raise ValueError(
            f"primary_outcome: {study.primary_outcome!r} is neither predicted nor a "
            f"score.{nearest(study.primary_outcome, evaluated)}"
        )
    used = [("outputs", name) for name in study.outputs] + [("split.stratify_by", study.split.stratify_by or "")]
    for key, name in used:
        if name in study.scores and "[" in study.scores[name].formula:
            raise ValueError(
                f"{key}: {name!r} is computed from several regions, and one panel does not show them all; "
                "name its targets, or a score of one region"
            )
    if study.split.stratify_by and study.split.stratify_by not in names:
        raise ValueError(
            f"split.stratify_by: {study.split.stratify_by!r} is no target.{nearest(study.split.stratify_by, names)}"
        )
    for key in ("readers", "references"):
        for name in getattr(study.evaluation, key):
            if name not in evaluated:
                raise ValueError(
                    f"evaluation.{key}: {name!r} is neither predicted nor a score.{nearest(name, evaluated)}"
                )


def check_image_split(study: Study) -> None:
    """A comparison with a split by image needs panels of single images and known subjects."""
    if study.split.by != "image":
        return
    if study.panels.by != "image":
        raise ValueError(
            f"split.by: 'image' splits images as if each showed another person, and panels here are by "
            f"{study.panels.by}; it needs `panels: {{by: image}}`"
        )
    if not study.subjects_known:
        raise ValueError(
            "split.by: 'image' is compared with a split by subject, and subjects are not known (subjects_known)"
        )
    if study.pretrain:
        raise ValueError("split.by: 'image' is a comparison of splits alone; leave out `pretrain`")


def check_offline_copies(study: Study) -> None:
    """Offline copies need phases, and no phase may change the augmentation."""
    if not study.panels.offline_copies:
        return
    if not study.recipe.phases:
        raise ValueError(
            "panels.offline_copies: fixed copies are used in phases only, and recipe.phases is empty; write for "
            "example `phases: [{epochs: 50}]` under recipe, or leave out offline_copies"
        )
    number = next((n for n, phase in enumerate(study.recipe.phases) if phase.variations), None)
    if number is not None:
        raise ValueError(
            f"recipe.phases, phase {number + 1}: variations: with panels.offline_copies "
            f"({study.panels.offline_copies}) every "
            "copy is augmented once for all phases; leave out variations or offline_copies"
        )


def check_volumes(study: Study) -> None:
    """A panel of slices shows a window of one case, and all its slices are augmented together."""
    panels = study.panels
    if not study.volumes:
        with_fusion = next((name for name in study.backbones if "@" in name), None)
        if with_fusion:
            raise ValueError(f"backbones: {with_fusion!r}: a fusion after @ needs `volumes`, which this study lacks")
        if panels.quarter_turns:
            raise ValueError(
                "panels.quarter_turns: only panels of slices are rotated so, and the study has no `volumes`"
            )
        return
    if study.tiles:
        raise ValueError("tiles: are cut from slides, and this study's images are `volumes`; leave one of them out")
    if study.regions:
        raise ValueError(
            "regions: are photographed places of one visit, which panels tell apart; a scanned place is a case of its "
            "own with `volumes`: give each a visit of its own, and leave out `regions`"
        )
    if panels.by != "case":
        raise ValueError(f"panels.by: {panels.by!r} is not for `volumes`; write `by: case`, a window of its slices")
    if panels.rows != panels.columns:
        raise ValueError(f"panels.grid: slices fill a square, such as 3x3; found {panels.grid!r}")
    stated = Panels(by="case", grid=panels.grid, flip=panels.flip, quarter_turns=panels.quarter_turns)
    if stated != panels:
        wrong = next(n for n in type(panels).model_fields if getattr(panels, n) != getattr(stated, n))
        raise ValueError(
            f"panels.{wrong}: slices are augmented by `flip` and `quarter_turns` only, all slices of a panel together; "
            f"leave {wrong} out"
        )
    if panels.flip not in ("none", "horizontal"):
        raise ValueError(
            f"panels.flip: slices are mirrored from left to right only; write horizontal, not {panels.flip}"
        )
    default = Images()
    stated_key = next(
        (n for n in ("channels", "keep_ratio", "store") if getattr(study.images, n) != getattr(default, n)), None
    )
    if stated_key:
        raise ValueError(f"images.{stated_key}: is for photographs; it has no effect on slices, so leave it out")
    if study.test_time_augmentation:
        raise ValueError(
            "test_time_augmentation: mirrors a panel as a whole, and slices would change places; leave it out"
        )
    sequences = study.volumes.sequences
    allowed = [*(FUSIONS if len(sequences) > 1 else FUSIONS[:1]), *sequences]
    for name in study.backbones:
        backbone, at, fusion = name.partition("@")
        if at and (fusion not in allowed or not backbone):
            raise ValueError(
                f"backbones: {name!r}: the name after @ is one of {', '.join(allowed)}.{nearest(fusion, allowed)}"
            )
    duplicate = next((name for name in study.networks if study.networks.count(name) > 1), None)
    if duplicate:
        raise ValueError(f"backbones: {duplicate!r} is there twice")


def check_nested_cv(study: Study) -> None:
    """Nothing else chooses what inner folds choose."""
    nested_cv, recipe = study.nested_cv, study.recipe
    if not nested_cv:
        return
    if recipe.phases:
        raise ValueError("nested_cv: phases state their own epochs and rates; leave out recipe.phases or nested_cv")
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
            f"recipe.early_stopping.monitor is {recipe.early_stopping.monitor!r}; write `early_stopping: "
            f"{{monitor: none}}` under recipe"
        )
    if study.split.by == "image":
        raise ValueError(
            "nested_cv: inner folds are of subjects, and with `split: {by: image}` a subject's images stand on both "
            "sides; leave one of them out"
        )
    if not (nested_cv.epochs or len(nested_cv.lr) > 1 or (nested_cv.among and len(study.networks) > 1)):
        raise ValueError(
            "nested_cv: there is nothing to choose: epochs is false, lr has fewer than two candidates, and there is "
            "one network or among is false"
        )


def check_weights(study: Study) -> None:
    """If weights are stated by backbone, every backbone has an entry."""
    if isinstance(study.weights, str):
        return
    names = list(dict.fromkeys(name.partition("@")[0] for name in study.backbones))
    unknown = next((name for name in study.weights if name not in names), None)
    if unknown is not None:
        raise ValueError(f"weights: {unknown!r} is none of the study's backbones.{nearest(unknown, names)}")
    missing = next((name for name in names if name not in study.weights), None)
    if missing is not None:
        raise ValueError(f"weights: nothing is stated for {missing}; write pretrained, random or a file")


def check_classes(study: Study) -> None:
    """Formulas, bands, readers and linear stackers need numbers, not classes."""
    with_classes = [name for name in study.targets if study.targets[name].classes]
    for name, score in study.scores.items():
        used = next((n for n in with_classes if n in re.findall(r"[^\W\d]\w*", score.formula)), None)
        if used:
            raise ValueError(f"scores.{name}: {used!r} has classes, and a formula works on numbers")
    predicted_classes = [name for name in study.outputs if name in with_classes]
    wrong = next((s for s in study.stack if s not in ("mean", "logistic")), None)
    if predicted_classes and wrong:
        raise ValueError(
            f"stack: {wrong!r} combines numbers, and {predicted_classes[0]!r} has classes; use mean or logistic"
        )
    numbers = next((name for name in study.outputs if name not in with_classes), None)
    if "logistic" in study.stack and numbers:
        raise ValueError(f"stack: 'logistic' combines classes, and {numbers!r} is a number")
    if study.primary_outcome in with_classes and study.evaluation.bands:
        raise ValueError("evaluation.bands: the primary outcome has classes already")
    if study.recipe.lr == "find" and study.pretrain and not study.pretrain.lr:
        raise ValueError(
            "pretrain.lr: must be a number where recipe.lr is `find`; the finder uses the study's own images"
        )
    if study.recipe.imbalance != "none" and not predicted_classes:
        raise ValueError(f"recipe.imbalance: {study.recipe.imbalance!r} needs a target with classes")
    if study.recipe.imbalance == "sampling" and study.primary_outcome not in predicted_classes:
        raise ValueError("recipe.imbalance: 'sampling' needs a primary outcome with classes")
    for name in study.evaluation.readers:
        if name in with_classes:
            raise ValueError(f"evaluation.readers: {name!r} has classes; readers are compared on numbers only")
