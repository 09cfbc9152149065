"""What a study refuses, as one table: the key that a message names, and the settings that break one rule."""

from pathlib import Path
from typing import Any

import pytest

from casewise.errors import StudyError
from casewise.study.loading import build_study
from casewise.study.schema import Study

FILMS: dict[str, Any] = {"cohort": "c.csv", "panels": {"by": "image"}, "targets": {"label": ["a", "b"]}}
FILMS |= {"backbones": ["alexnet"], "weights": "random"}
NUMBER: dict[str, Any] = FILMS | {"targets": {"n": "0..4"}}
REGIONS: dict[str, Any] = FILMS | {"targets": {"n": "0..4"}, "regions": ["u", "l"], "panels": {"by": "region"}}
SUM = {"formula": "n[u] + n[l]", "range": "0..8"}
PHASES: dict[str, Any] = {"phases": [{"epochs": 3, "freeze": "all"}, {"epochs": 2}]}
STOPPED = {"early_stopping": {"monitor": "none"}}
NESTED: dict[str, Any] = {"nested_cv": {"folds": 2, "epochs": True}, "recipe": STOPPED | {"schedule": "cosine"}}
OTHER: dict[str, Any] = {"recipe": {"meant_for": "other_sources"}, "split": {"leave_out": "site"}}
MASKS: dict[str, Any] = {"images": {"mask": "m"}, "backbones": ["unet"], "recipe": {"epochs": 2}}
HELD_OUT: dict[str, Any] = {"split": {"validation": "20%"}, "stack": ["mean"]}
TARGETS_OF_GRADES: dict[str, Any] = {"targets": {"n": {"kind": "ordinal", "range": "0..4"}}}
KAPPA = {"targets": {"g": {"kind": "ordinal", "range": "0..2", "decision": "kappa"}}}
PRETRAINED = {"pretrain": {"cohort": "o.csv", "subjects": "distinct", "targets": {"x": "0..1"}}}
TWO = {"targets": {"label": ["a", "b"], "n": "0..4"}, "primary_outcome": "n"}
TARGETS = [
    *("4..0", {"kind": "regression"}, {"range": "0..4", "decision": "median"}, {"kind": "classification"}),
    *({"classes": ["a", "b"], "positive": "c"}, {"kind": "ordinal", "range": "0..1.5"}, {"classes": ["a"]}),
    *({"kind": "ordinal", "range": "0..9999999"}, {"kind": "regression", "classes": ["a", "b"]}),
    *({"classes": ["a", "b"], "range": "0..4"}, {"classes": {"a": ["x"], "b": ["x"]}}),
]
# the key, the study, the changed settings
RULES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # names
    ("scores", NUMBER, {"scores": {"n": {"formula": "n * 2", "range": "0..8"}}}),
    ("outputs", NUMBER, {"outputs": ["m"]}),
    ("outputs", REGIONS, {"scores": {"s": SUM}, "outputs": ["s"]}),
    ("outputs", REGIONS, {"scores": {"s": SUM | {"level": "region"}}, "outputs": ["s"]}),
    ("regions", REGIONS, {"regions": []}),
    ("primary_outcome", NUMBER, {"targets": {"n": "0..4", "m": "0..4"}, "outputs": ["n"], "primary_outcome": "m"}),
    ("split.stratify_by", NUMBER, {"split": {"stratify_by": "m"}}),
    ("evaluation.prevalence", NUMBER, {"evaluation": {"prevalence": {"n": 0.1}}}),
    ("evaluation.decision_thresholds", NUMBER, {"evaluation": {"decision_thresholds": [0.1]}}),
    ("evaluation.subgroups", NUMBER, {"evaluation": {"subgroups": ["n"]}}),
    ("evaluation.subgroups", NUMBER, {"evaluation": {"subgroups": ["sex", "sex"]}}),
    ("evaluation.subgroups", NUMBER, {"evaluation": {"subgroups": [{"age": [60, 40]}]}}),
    ("evaluation.arm", NUMBER, {"evaluation": {"arm": "n"}}),
    ("covariates", NUMBER, {"covariates": ["n"]}),
    ("covariates", NUMBER, {"covariates": ["age", "age"]}),
    ("evaluation.readers", NUMBER, {"evaluation": {"readers": {"m": {"a": "x"}}}}),
    ("evaluation.references", NUMBER, {"evaluation": {"references": {"m": {"a": {"mae": 1}}}}}),
    ("evaluation.bands", NUMBER, {"evaluation": {"bands": {"low": 0, "high": 0}}}),
    # targets
    *(("targets.n", FILMS, {"targets": {"n": target}}) for target in TARGETS),
    # split
    ("sample", FILMS, {"sample": {"c": 5}}),
    ("sample", FILMS, {"panels": {"by": "case"}, "sample": {"a": 5}}),
    ("stack", NUMBER, HELD_OUT | {"stack": ["ridge"]}),
    ("targets.g", FILMS, HELD_OUT | KAPPA),
    ("nested_cv", FILMS, HELD_OUT | NESTED),
    ("final", FILMS, HELD_OUT | {"final": "refit"}),
    ("final", FILMS, {"split": {"by": "image"}, "final": "refit"}),
    ("final", FILMS, {"final": "refit", "recipe": {"early_stopping": {"monitor": "fold"}}}),
    ("subjects_guessed", FILMS, {"subjects_guessed": True}),
    ("split.by", FILMS, {"split": {"by": "number"}}),
    ("split.by", FILMS, {"split": {"by": "image"}, "panels": {"by": "case"}}),
    ("split.by", FILMS, {"split": {"by": "image"}, "subjects_known": False}),
    ("split.by", FILMS, {"split": {"by": "image"}} | PRETRAINED),
    ("split", FILMS, {"split": {"leave_out": "site", "column": "part"}}),
    ("split", FILMS, {"split": {"leave_out": "site", "by": "number"}, "subjects_known": False}),
    ("split", FILMS, {"split": {"leave_out": "site", "equal_sizes": False}}),
    ("split", FILMS, {"split": {"validation": "column"}}),
    ("split", FILMS, {"split": {"validation": 0}}),
    ("split", FILMS, {"split": {"validation": "95%", "test": "10%"}}),
    ("split", FILMS, {"split": {"validation": "9%", "leave_out": "site"}}),
    ("split", FILMS, {"split": {"validation": "9%", "equal_sizes": False}}),
    # learners
    ("weights", FILMS, {"weights": {"alexnet": "random", "resnet18": "random"}}),
    ("weights", FILMS, {"weights": {}}),
    ("encoders", FILMS, {"encoders": ["mobilenet_v2"], "baselines": {"off": "a test"}}),
    ("backbones", FILMS, {"backbones": [], "baselines": {"off": "a test"}}),
    ("backbones", FILMS, {"backbones": ["alexnet@late"]}),
    *(("recipe.networks", FILMS, {"recipe": {"networks": own}}) for own in (
        {"resnet19": {"lr": 0.1}}, {"alexnet": {"lr": "find"}}, {"alexnet": {"mixup": 0.1}})),
    *(("baselines", FILMS, {"baselines": value}) for value in ("none", False, {"on": False})),
    # training
    ("panels.quarter_turns", FILMS, {"panels": {"by": "image", "quarter_turns": True}}),
    ("panels.offline_copies", FILMS, {"panels": {"by": "image", "offline_copies": 2, "flip": "both"}}),
    ("panels", FILMS, {"panels": {"by": "image", "offline_copies": 2}, "recipe": PHASES}),
    ("panels", FILMS, {"panels": {"by": "case", "grid": "2x2", "shuffle": True, "offline_copies": 2, "flip": "both"}}),
    ("panels", FILMS, {"panels": {"by": "case", "pooling": "attention", "offline_copies": 2, "flip": "both"}}),
    ("panels", FILMS, {"panels": {"by": "image", "bag": 4}}),
    *(("panels", FILMS, {"panels": {"by": "case", "pooling": "attention"} | wrong}) for wrong in (
        {"by": "image"}, {"grid": "2x2"}, {"shuffle": True})),
    ("recipe.meant_for", FILMS, {"recipe": {"meant_for": "other_sources"}}),
    ("recipe.meant_for", NUMBER, OTHER),
    ("recipe.imbalance", FILMS, {**OTHER, "recipe": OTHER["recipe"] | {"imbalance": "weights"}}),
    ("recipe.mixup", FILMS, {"panels": {"by": "case", "pooling": "maps"}, "recipe": {"mixup": 0.2}}),
    *(("recipe", FILMS, {"recipe": values}) for values in (
        PHASES | {"tuning": "head_only"}, PHASES | {"lr": "find"}, PHASES | {"epochs": 9},
        {"head": "fastai", "pool": "map"}, STOPPED | {"schedule": "plateau"}, {"auto": True, "tuning": "head_only"},
        STOPPED | {"schedule": "cosine", "tuning": "gradual_unfreezing"}, {"warmup": 3, "schedule": "constant"},
        {"warmup": 9, "epochs": 9, "schedule": "cosine"})),
    ("nested_cv", FILMS, {**NESTED, "recipe": NESTED["recipe"] | PHASES}),
    ("nested_cv", FILMS, {**NESTED, "recipe": NESTED["recipe"] | {"lr": "find"}}),
    ("nested_cv", FILMS, {**NESTED, "recipe": {"schedule": "cosine"}}),
    ("nested_cv", FILMS, {**NESTED, "split": {"by": "image"}}),
    ("nested_cv", FILMS, {**NESTED, "nested_cv": {"epochs": False}}),
    ("nested_cv", FILMS, {**NESTED, "nested_cv": {"lr": [0.1, 0.1]}}),
    ("compute", FILMS, {"compute": {"threads": 2, "plan": "x"}}),
    # images and masks
    ("images", FILMS, {"images": {"padding": "black", "fit": "stretch"}}),
    ("images.mask_overlays", FILMS, {"images": {"mask_overlays": [[0.5, 0, 0.2, 1]]}}),
    ("images.mask_overlays", FILMS, {"images": {"mask_overlays": [[0, 0, 0.9, 0.9]]}}),
    ("images.mask_labels", FILMS, {"images": {"lesion": "m", "mask_labels": []}}),
    ("images.mask_labels", FILMS, {"images": {"lesion": "m", "mask_labels": {"n": [1]}}}),
    ("images.mask", FILMS, MASKS | {"backbones": ["cnn"]}),
    ("images.mask", FILMS, MASKS | {"panels": {"by": "case", "pooling": "maps"}}),
    *(("images.mask", FILMS, MASKS | {"recipe": {"epochs": 2} | recipe}) for recipe in (
        {"auto": True}, {"tuning": "head_only"}, {"pool": "map"}, {"head": "fastai"}, PHASES | {"epochs": 1000})),
    ("recipe.mask_loss", FILMS, {"recipe": {"mask_loss": 2}}),
    # kinds
    ("scores.s", FILMS, {"scores": {"s": {"formula": "label * 2", "range": "0..8"}}}),
    ("stack", FILMS, {"stack": ["ridge"]}),
    ("evaluation.bands", FILMS, {"evaluation": {"bands": {"low": 0, "high": 1}}}),
    ("evaluation.arm", FILMS, {"evaluation": {"arm": "drug"}}),
    ("evaluation.arm", NUMBER, {"evaluation": {"arm": "drug", "response": False}}),
    ("evaluation.control", NUMBER, {"evaluation": {"control": "placebo"}}),
    ("evaluation.readers", FILMS, {"evaluation": {"readers": {"label": {"a": "x"}}}}),
    *(("evaluation.margin", study, {"evaluation": {"margin": margin}}) for study, margin in (
        (FILMS, 2), (FILMS, 1), (FILMS, 0), (NUMBER, 4))),
    ("evaluation.margin", NUMBER, TARGETS_OF_GRADES | {"evaluation": {"margin": 2}}),
    ("recipe.imbalance", NUMBER, {"recipe": {"imbalance": "weights"}}),
    ("recipe.imbalance", FILMS, TWO | {"recipe": {"imbalance": "sampling"}}),
]  # fmt: skip


def stated(values: dict[str, Any], folder: Path) -> Study:
    return build_study({"name": "s", **values}, source="the study", folder=folder)


@pytest.mark.plugins("volumes")
@pytest.mark.parametrize(("key", "study", "changes"), RULES, ids=range(len(RULES)))
def test_a_broken_rule_is_named_by_its_key(
    key: str, study: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(StudyError) as refused:
        stated(study | changes, tmp_path)
    problems = [line.strip() for line in str(refused.value).splitlines() if not line.startswith("the study ")]
    assert problems
    assert all(problem.startswith(key) for problem in problems), problems


def test_the_studies_of_the_table_are_valid(tmp_path: Path) -> None:
    for study, changes in ((FILMS, {}), (NUMBER, {}), (REGIONS, {}), (FILMS, NESTED), (FILMS, OTHER), (FILMS, MASKS)):
        assert stated(study | changes, tmp_path).learners
