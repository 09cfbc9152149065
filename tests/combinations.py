"""The combinations of ways of studying, kinds of images and kinds of target; `test_combinations.py` runs them.

`python -m tests.combinations` writes the page of the documentation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from casewise.errors import StudyError
from casewise.run import Run, run
from casewise.study.loading import build_study
from casewise.study.schema import Study

SUBJECTS, SIDE = 16, 32
KINDS: dict[str, dict[str, Any]] = {
    "number": {"range": "0..4"},
    "classes": {"classes": ["healthy", "ill"], "positive": "ill"},
    "grades": {"kind": "ordinal", "range": "0..2"},
}


@dataclass(frozen=True)
class Way:
    """A way of studying: its title in the table, and its settings."""

    title: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """A combination that makes no sense, and the reason."""

    reason: str


WAYS: dict[str, Way] = {
    "external": Way("External cohort", {"external": {"cohort": "there.csv", "name": "there"}}),
    "pretraining": Way("Pretraining on another cohort", {"pretrain": {"cohort": "there.csv", "subjects": "distinct"}}),
    "phases": Way(
        "Training in phases", {"recipe": {"phases": [{"epochs": 1, "freeze": "all"}, {"epochs": 1, "freeze": "none"}]}}
    ),
    "nested": Way("Nested cross-validation", {"nested_cv": {"folds": 2, "lr": [0.01, 0.001]}}),
    "leave-one-out": Way("Leave-one-site-out", {"split": {"leave_out": "site"}}),
    "several": Way("Several regions or sequences of a case", {}),
    "attention": Way("Attention over the images of a case", {"panels": {"by": "case", "pooling": "attention"}}),
    "explanation": Way("Saliency maps", {}),
    "new-cases": Way("Prediction of new cases by the trained model alone", {}),
}
# Of the others the runs are quicker without.
WITH_BASELINES = ("several", "attention", "new-cases")
MODALITIES = {"photographs": "Photographs", "slides": "Whole slides", "volumes": "Volumes"}
REFUSED: dict[tuple[str, str], Refused] = {
    ("volumes", "attention"): Refused("a panel shows a window of consecutive slices, and windows are averaged"),
    ("slides", "several"): Refused("tiles of a slide have no region; make each region a separate case"),
}


def state(modality: str, way: str) -> str:
    """The entry of a combination in the table."""
    refused = REFUSED.get((modality, way))
    return f"refused: {refused.reason}" if refused else "works"


# Settings that contradict each other: what they combine, the modality and the kind of target if they are not
# photographs and a number, and the settings.
CONTRADICTIONS = """
volumes with tiles of slides | volumes number | {tiles: {}}
volumes with `regions` | volumes number | {regions: [head, tail]}
volumes with panels of single images | volumes number | {panels: {by: image}}
volumes with rotation | volumes number | {panels: {rotate: 10}}
volumes with test-time augmentation | volumes number | {test_time_augmentation: true}
a fusion without volumes | {backbones: [test_resnet@late]}
`quarter_turns` without volumes | {panels: {quarter_turns: true}}
a formula over classes | photographs classes | {scores: {s: {formula: classes, range: "0..1"}}}
classes with a linear stacker | photographs classes | {stack: [ridge]}
numbers with a logistic stacker | {stack: [logistic]}
classes with severity bands | photographs classes | {evaluation: {bands: {mild: 0, severe: 1}}}
classes with readers | photographs classes | {evaluation: {readers: {classes: {one: site}}}}
numbers with `imbalance` | {recipe: {imbalance: weights}}
fixed copies without phases | {panels: {offline_copies: 2, flip: both}}
fixed copies with attention | {panels: {offline_copies: 2, pooling: attention}}
nested cross-validation with phases | {nested_cv: {folds: 2}, recipe: {phases: [{epochs: 1}]}}
nested cross-validation with gradual unfreezing | {nested_cv: {folds: 2}, recipe: {tuning: gradual_unfreezing}}
nested cross-validation with early stopping | {nested_cv: {folds: 2}, recipe: {early_stopping: {monitor: inner}}}
nested cross-validation with a split by image | {nested_cv: {folds: 2}, panels: {by: image}, split: {by: image}}
a split by image with panels by case | {split: {by: image}}
a split by image with pretraining | {split: {by: image}, panels: {by: image}, \
pretrain: {cohort: "there.csv", subjects: distinct, targets: {number: "0..4"}}}
"""


def contradiction(modality: str, kind: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A study with settings that contradict each other."""
    values = settings(modality, kind, Path("here.csv"), "new-cases")
    for key, stated in changes.items():
        values[key] = {**values.get(key, {}), **stated} if isinstance(stated, dict) else stated
    if "phases" in values["recipe"]:
        del values["recipe"]["epochs"]
    return values


def refusal(values: dict[str, Any]) -> str:
    """The message that refuses a study, without the name of its file."""
    try:
        build_study(values, source="study", folder=Path())
    except StudyError as error:
        return str(error).partition("\n")[2].strip().rstrip(".")
    raise AssertionError("The study is not refused.")


def as_markdown() -> str:
    """The page of the documentation."""
    works = "Each combination marked *works* is run in `tests/test_combinations.py`, for numbers, classes and grades."
    lines = ["# Combinations", "", works, "", "| | " + " | ".join(MODALITIES.values()) + " |"]
    lines.append("|---" * (len(MODALITIES) + 1) + "|")
    lines += [f"| {way.title} | " + " | ".join(state(m, name) for m in MODALITIES) + " |" for name, way in WAYS.items()]
    refused = "Settings that contradict each other are refused before anything is read. The message names the key:"
    lines += ["", "## Refused settings", "", refused, ""]
    for line in CONTRADICTIONS.strip().splitlines():
        title, *place, changes = line.split(" | ")
        modality, kind = (place[0] if place else "photographs number").split()
        key, _, reason = refusal(contradiction(modality, kind, yaml.safe_load(changes))).partition(": ")
        assert reason, title
        lines.append(f"- {title}: `{key}`")
    return "\n".join(lines) + "\n"


def make_table(folder: Path, modality: str, name: str, *, seed: int) -> Path:
    """The table of a tiny cohort whose images show its labels: severity is brightness."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(SUBJECTS):
        severity, subject = number % 3, f"{name}{number}"
        about = {"subject": subject, "site": f"site{number % 2}", "number": severity * 2}
        about |= {"classes": "ill" if severity else "healthy", "grades": severity}
        for path, extra in _images(folder, modality, subject, severity, rng):
            rows.append({"path": path.relative_to(folder).as_posix(), **about, **extra})
    table = folder / f"{name}.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


def _images(folder: Path, modality: str, subject: str, severity: int, rng: Any) -> list[tuple[Path, dict[str, str]]]:
    """The files of one subject: two photographs, one slide, or one volume of each of two sequences."""
    if modality == "photographs":
        found = []
        for region in ("upper", "lower"):
            path = folder / f"{subject}-{region}.png"
            values = rng.integers(0, 80, (SIDE, SIDE, 3)) + 60 * severity + 20
            Image.fromarray(values.astype(np.uint8)).save(path)
            found.append((path, {"region": region}))
        return found
    if modality == "slides":
        path, values = folder / f"{subject}.tiff", np.full((4 * SIDE, 4 * SIDE, 3), 245)
        values[SIDE // 2 : -SIDE // 2, SIDE // 2 : -SIDE // 2] = (190 - 50 * severity, 60, 120)
        values = (values + rng.integers(-8, 8, values.shape)).clip(0, 255).astype(np.uint8)
        _write_slide(path, values)
        return [(path, {})]
    import nibabel

    found = []
    for sequence in ("T1", "T2"):
        path, values = folder / f"{subject}-{sequence}.nii", rng.random((SIDE, SIDE, 6)).astype(np.float32) * 100
        values[8:24, 8:24] += 200 + 200 * severity
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 3.0, 1.0])), path)
        found.append((path, {"sequence": sequence}))
    return found


def _write_slide(path: Path, values: np.ndarray) -> None:
    """A pyramidal TIFF of 1 µm pixels."""
    from casewise.plugins.phantoms.pyramid import write_pyramid

    def paint(left: int, top: int, width: int, height: int) -> np.ndarray:
        return values[top : top + height, left : left + width]

    write_pyramid(path, (values.shape[1], values.shape[0]), paint, mpp=1.0, levels=1)


NEVER = {"monitor": "none"}


def settings(modality: str, kind: str, table: Path, way: str) -> dict[str, Any]:
    """The study of one combination."""
    values: dict[str, Any] = {
        "recipe": {"epochs": 1, "batch_size": 4, "lr": 0.01, "schedule": "cosine", "early_stopping": NEVER},
        "evaluation": {"bootstrap_resamples": 100, "response": False, "counterfactual_cases": 4},
        "compute": {"jobs": 1, "precision": "fp32"},
    }
    values |= {"name": "tiny", "cohort": str(table), "images": {"size": SIDE}, "panels": {"by": "case"}}
    values |= {"targets": {kind: KINDS[kind]}, "split": {"test": 0, "folds": 2, "restarts": 5}}
    values |= {"backbones": ["test_resnet"], "weights": "random", "audit": {"permutations": 99}}
    if modality == "slides":
        values |= {"tiles": {"max_tiles": 4, "min_tissue": 0.2}, "panels": {"by": "image"}}
    if modality == "volumes":
        values["volumes"] = {"sequences": ["T1"], "in_plane_size": SIDE, "bias": "none", "smoothing": "none"}
        values["panels"] = {"by": "case", "grid": "1x1"}
    if way == "several":
        if modality == "photographs":
            values |= {"regions": ["upper", "lower"], "panels": {"by": "region"}}
        if modality == "volumes":
            values["volumes"] |= {"sequences": ["T1", "T2"], "fusion": ["early", "late"]}
    if way not in WITH_BASELINES:
        values["baselines"] = {"off": "tests of networks"}
    for key, stated in WAYS[way].settings.items():
        values[key] = {**values.get(key, {}), **stated} if isinstance(stated, dict) else stated
    if "phases" in values["recipe"]:
        del values["recipe"]["epochs"]  # every phase states its own
    for key in ("external", "pretrain"):
        if key in values:
            values[key] = {**values[key], "cohort": str(table.with_name("there.csv"))}
    if "pretrain" in values:
        values["pretrain"] |= {"epochs": 1, "targets": {kind: KINDS[kind]}}
    return values


if __name__ == "__main__":
    page = Path(__file__).resolve().parents[1] / "docs" / "reference-combinations.md"
    page.write_text(as_markdown(), encoding="utf-8")


def quick_study(folder: Path, **changes: Any) -> Study:
    """A study of a number on photographs that trains in about a second, with a test set, and `changes` over it."""
    values = settings("photographs", "number", make_table(folder, "photographs", "here", seed=0), "new-cases")
    values |= {"split": {"test": 0.25, "folds": 2, "restarts": 5}, "baselines": {"off": "tests of networks"}}
    values["evaluation"]["counterfactual_cases"] = 0
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return build_study(values, source="the study", folder=folder)


def values_for_new_cases(modality: str, table: Path) -> dict[str, Any]:
    """The study of a number, classes and grades, with stackers and a test set, whose networks predict new cases."""
    values = settings(modality, "number", table, "new-cases")
    values["targets"] = {**KINDS, "grades": {**KINDS["grades"], "decision": "kappa"}}
    values |= {"split": {"test": 0.25, "folds": 2, "restarts": 5}, "synthetic": True}
    values |= {"stack": ["mean", "weighted"], "stack_baselines": True}
    values["evaluation"] = {**values.get("evaluation", {}), "prediction_coverage": 0.75}  # needs three subjects
    return values


def run_for_new_cases(folder: Path, modality: str) -> Run:
    """A run of `values_for_new_cases`."""
    table = make_table(folder, modality, "here", seed=list(MODALITIES).index(modality))
    study = build_study(values_for_new_cases(modality, table), source="the study", folder=folder)
    return run(study, folder / "run")
