"""What must hold between the parts of a study; each part says for itself what its own values may be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from casewise.errors import nearest
from casewise.study.images import FUSIONS, Images
from casewise.study.panels import Panels

if TYPE_CHECKING:
    from casewise.study.schema import Study


def check_study(study: Study) -> None:
    """Check one part against another.

    Raises:
        ValueError: two parts contradict each other; the message begins with the key.
    """
    for check in (names_fit, split_by_image, fixed_copies, volumes_fit, weights_stated, tuned_inside, classes_fit):
        check(study)


def names_fit(study: Study) -> None:
    """Every name that one part mentions another part states."""
    names = [*study.targets, *study.scores]
    twice = set(study.targets) & set(study.scores)
    if twice:
        raise ValueError(f"scores: {sorted(twice)[0]!r} is a target as well; one name means one thing")
    for name in study.outputs:
        if name not in names:
            raise ValueError(f"outputs: {name!r} is neither a target nor a score.{nearest(name, names)}")
        if name in study.scores and study.scores[name].level == "case" and study.panels.by == "region":
            raise ValueError(f"outputs: {name!r} is a score of the whole case; a panel shows one region only")
    if study.panels.by == "region" and not study.regions:
        raise ValueError("regions: panels by region need the list of the study's regions")
    judged = [*study.outputs, *study.scores]
    if study.primary_outcome not in judged:
        raise ValueError(
            f"primary_outcome: {study.primary_outcome!r} is neither predicted nor a "
            f"score.{nearest(study.primary_outcome, judged)}"
        )
    used = [("outputs", name) for name in study.outputs] + [("split.stratify_by", study.split.stratify_by or "")]
    for place, name in used:
        if name in study.scores and "[" in study.scores[name].formula:
            raise ValueError(
                f"{place}: {name!r} is worked out over several regions, and one panel does not show them all; "
                "name its targets, or a score of one region"
            )
    if study.split.stratify_by and study.split.stratify_by not in names:
        raise ValueError(
            f"split.stratify_by: {study.split.stratify_by!r} is no target.{nearest(study.split.stratify_by, names)}"
        )
    for part in ("readers", "references"):
        for name in getattr(study.evaluation, part):
            if name not in judged:
                raise ValueError(
                    f"evaluation.{part}: {name!r} is neither predicted nor a score.{nearest(name, judged)}"
                )


def split_by_image(study: Study) -> None:
    """The comparison with a split by image differs from the study in the split, and in nothing else."""
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


def fixed_copies(study: Study) -> None:
    """Fixed copies are learned from in phases alone, and vary in none of them."""
    if not study.panels.offline_copies:
        return
    if not study.recipe.phases:
        raise ValueError(
            "panels.offline_copies: fixed copies are learned from in phases, and recipe.phases is empty; write for "
            "example "
            "`phases: [{epochs: 50}]` under recipe, or leave out offline_copies"
        )
    number = next((n for n, phase in enumerate(study.recipe.phases) if phase.variations), None)
    if number is not None:
        raise ValueError(
            f"recipe.phases, phase {number + 1}: variations: with panels.offline_copies "
            f"({study.panels.offline_copies}) every "
            "copy is varied once for all phases; leave out variations or offline_copies"
        )


def volumes_fit(study: Study) -> None:
    """A panel of slices shows a window of one case; what varies is the same for all its slices."""
    panels = study.panels
    if not study.volumes:
        paired = next((name for name in study.backbones if "@" in name), None)
        if paired:
            raise ValueError(f"backbones: {paired!r}: @ and a fusion go with `volumes`, which this study has not")
        if panels.quarter_turns:
            raise ValueError("panels.quarter_turns: panels of slices are turned so, and there are no `volumes`")
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
        raise ValueError(f"panels.grid: slices stand in a square, such as 3x3; found {panels.grid!r}")
    stated = Panels(by="case", grid=panels.grid, flip=panels.flip, quarter_turns=panels.quarter_turns)
    if stated != panels:
        wrong = next(n for n in type(panels).model_fields if getattr(panels, n) != getattr(stated, n))
        raise ValueError(
            f"panels.{wrong}: slices vary by `flip` and `quarter_turns` alone, all slices of a panel alike; leave "
            f"{wrong} out"
        )
    if panels.flip not in ("none", "horizontal"):
        raise ValueError(
            f"panels.flip: slices are mirrored from left to right alone; write horizontal, not {panels.flip}"
        )
    plain = Images()
    stored = next(
        (n for n in ("channels", "keep_ratio", "store") if getattr(study.images, n) != getattr(plain, n)), None
    )
    if stored:
        raise ValueError(f"images.{stored}: is for photographs; slices keep their own, so leave it out")
    if study.test_time_augmentation:
        raise ValueError(
            "test_time_augmentation: mirrors a panel as a whole, and slices would change places; leave it out"
        )
    sequences = study.volumes.sequences
    known = [*(FUSIONS if len(sequences) > 1 else FUSIONS[:1]), *sequences]
    for name in study.backbones:
        backbone, at, fusion = name.partition("@")
        if at and (fusion not in known or not backbone):
            raise ValueError(
                f"backbones: {name!r}: behind the @ stands one of {', '.join(known)}.{nearest(fusion, known)}"
            )
    twice = next((name for name in study.networks if study.networks.count(name) > 1), None)
    if twice:
        raise ValueError(f"backbones: {twice!r} is there twice")


def tuned_inside(study: Study) -> None:
    """What inner folds choose is chosen by nothing else."""
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
    if study.pretrain:
        raise ValueError("nested_cv: does not go with `pretrain`, which would be done anew for every inner fold")
    if recipe.lr == "find":
        raise ValueError(
            "nested_cv: recipe.lr is found, and inner folds choose among stated rates; write candidates as `lr` under "
            "nested_cv, and a number as recipe.lr"
        )
    if recipe.early_stopping.monitor != "none":
        raise ValueError(
            "nested_cv: inner folds say for how many epochs a network is trained on all its training subjects, and "
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


def weights_stated(study: Study) -> None:
    """Where weights are stated backbone by backbone, each has its own."""
    if isinstance(study.weights, str):
        return
    names = list(dict.fromkeys(name.partition("@")[0] for name in study.backbones))
    other = next((name for name in study.weights if name not in names), None)
    if other is not None:
        raise ValueError(f"weights: {other!r} is none of the study's backbones.{nearest(other, names)}")
    lacking = next((name for name in names if name not in study.weights), None)
    if lacking is not None:
        raise ValueError(f"weights: nothing is stated for {lacking}; write pretrained, random or a file")


def classes_fit(study: Study) -> None:
    """Classes are not numbers: formulas, bands, readers and linear stackers do not take them."""
    classed = [name for name in study.targets if study.targets[name].classes]
    for name, score in study.scores.items():
        used = next((n for n in classed if n in re.findall(r"[^\W\d]\w*", score.formula)), None)
        if used:
            raise ValueError(f"scores.{name}: {used!r} has classes, and a formula works on numbers")
    among = [name for name in study.outputs if name in classed]
    wrong = next((s for s in study.stack if s not in ("mean", "logistic")), None)
    if among and wrong:
        raise ValueError(f"stack: {wrong!r} combines numbers, and {among[0]!r} has classes; use mean or logistic")
    numbers = next((name for name in study.outputs if name not in classed), None)
    if "logistic" in study.stack and numbers:
        raise ValueError(f"stack: 'logistic' combines classes, and {numbers!r} is a number")
    if study.primary_outcome in classed and study.evaluation.bands:
        raise ValueError("evaluation.bands: the main outcome has classes already")
    if study.recipe.lr == "find" and study.pretrain and not study.pretrain.lr:
        raise ValueError(
            "pretrain.lr: must be a number where recipe.lr is found; the finder looks at the study's own images"
        )
    if study.recipe.imbalance != "none" and not among:
        raise ValueError(f"recipe.imbalance: {study.recipe.imbalance!r} needs a target with classes")
    if study.recipe.imbalance == "sampling" and study.primary_outcome not in among:
        raise ValueError("recipe.imbalance: 'sampling' goes by the main outcome, which has no classes here")
    for name in study.evaluation.readers:
        if name in classed:
            raise ValueError(f"evaluation.readers: {name!r} has classes; readers are compared on numbers only")
