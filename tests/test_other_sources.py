"""Models that are meant for other sources: weights and figures follow the sources."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import casewise
from casewise.evaluation.figures import KNOWN
from casewise.models.outputs import Output
from casewise.report.context import read_context
from casewise.report.first_screen import sizes
from casewise.report.sections.designs.validation import for_other_sources, source_rows
from casewise.study.loading import build_study
from casewise.training.linear_models import Directions, linear_model
from casewise.training.losses import balanced, weights_within

LABEL = Output("label", "classification", 2)


def cohort(random: np.random.Generator, signal: float, sizes: dict[str, tuple[int, int]]) -> tuple[np.ndarray, ...]:
    """Features (N, 12), labels and sources: the source shows in all features but the first, which has the signal."""
    labels = np.concatenate([np.repeat([0.0, 1.0], counts) for counts in sizes.values()])
    sources = np.concatenate([np.repeat(name, sum(counts)) for name, counts in sizes.items()]).astype(object)
    level = {name: random.normal(0, 2, 11) for name in sizes}
    values = random.normal(size=(len(labels), 12))
    values[:, 0] += signal * labels
    values[:, 1:] += np.stack([level[source] for source in sources])
    return values, labels, sources


def outside(values: np.ndarray, labels: np.ndarray, sources: np.ndarray, weights: np.ndarray | None) -> float:
    """The AUROC in the last source, `new`, of a model of the others."""
    train = sources != "new"
    subjects = np.arange(train.sum()).astype(str).astype(object)
    model = linear_model(Directions.of(values[train]), labels[train], subjects, LABEL, weights=weights)
    return float(roc_auc_score(labels[~train], (values[~train] @ model.weight.T + model.bias)[:, 1]))


def within(labels: np.ndarray, sources: np.ndarray) -> np.ndarray:
    train = sources != "new"
    return weights_within(labels[train], sources[train].tolist())


def test_the_source_says_nothing_about_the_class_in_the_weighted_cases() -> None:
    _, labels, sources = cohort(np.random.default_rng(0), 0, {"a": (40, 4), "b": (5, 30), "c": (0, 9)})
    weights = weights_within(labels, sources.tolist())
    totals = pd.Series(weights).groupby([sources, labels]).sum()
    for cell, total in {("a", 0): 22, ("a", 1): 22, ("b", 0): 17.5, ("b", 1): 17.5, ("c", 1): 9}.items():
        assert totals[cell] == pytest.approx(total)
    truth = torch.tensor(labels)[:, None]
    shares = balanced(truth, [LABEL], sources.tolist())
    assert np.allclose(shares.numpy(), weights / weights.sum())
    copied = balanced(truth.repeat(2, 1), [LABEL], sources.tolist())
    assert np.allclose(copied.numpy(), np.tile(weights, 2) / weights.sum() / 2)


def test_weights_help_in_a_new_source_and_find_nothing_where_nothing_is() -> None:
    """Where the class goes with the source, and in simulations without signal."""
    sizes, gains, chance = {"a": (60, 3), "b": (3, 60), "c": (60, 3), "new": (150, 150)}, [], []
    for seed in range(8):
        data = cohort(np.random.default_rng(seed), 1.2, sizes)
        gains.append(outside(*data, within(*data[1:])) - outside(*data, None))
        nothing = cohort(np.random.default_rng(seed), 0, sizes)
        chance.append(outside(*nothing, within(*nothing[1:])))
    assert np.mean(gains) > 0.02
    assert abs(np.mean(chance) - 0.5) < 3 * np.std(chance) / np.sqrt(len(chance)) + 0.01


def study_of(folder: Path, **changes: Any) -> Any:
    values: dict[str, Any] = {"name": "other", "synthetic": True, "cohort": "c.csv", "weights": "random"}
    values |= {"images": {"size": 32}, "targets": {"label": ["no", "yes"]}, "backbones": []}
    values |= {"split": {"leave_out": "site", "folds": 2, "restarts": 5}, "recipe": {"meant_for": "other_sources"}}
    values |= {"audit": {"permutations": 99}, "accept": dict.fromkeys(("shortcut-border", "shortcut-site"), "planted")}
    values |= {"evaluation": {"bootstrap_resamples": 100, "response": False, "counterfactual_cases": 0}}
    return build_study(values | changes, source="the test's study", folder=folder)


def test_a_run_shows_known_and_left_out_sources(tmp_path: Path) -> None:
    random, rows = np.random.default_rng(0), []
    for number in range(24):
        site, label = "ew"[number % 2], (number // 2) % 2
        picture = random.normal(110 + 20 * label, 25, (32, 32)).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        rows.append({"path": f"{number}.png", "subject": number, "site": site, "label": ["no", "yes"][label]})
    pd.DataFrame(rows).to_csv(tmp_path / "c.csv", index=False)
    run = casewise.run(study_of(tmp_path), tmp_path / "run", show=False)
    results = run.results
    known = results.figures.select(population=KNOWN)
    assert {cell.group for cell in known.cells} == {"", "e", "w"} == {"", *results.sources}
    assert {name for name in results.learners("oof") if results.over_sources(name, KNOWN)} == set(
        results.learners("oof")
    )
    sides = run.files.known_sources.splits.read()["subjects"]
    assert {(str(row["site"]), sides[str(row["subject"])]) for row in rows} == {(s, f) for s in "ew" for f in (1, 2)}
    context = read_context(run.folder)
    assert [row.name for row in source_rows(context)] == ["mean", "known", "e", "known", "w", "known"]
    assert [size.cohort for size in sizes(context)] == ["sites left out", "known sites"]
    assert len(for_other_sources(context)) == 2
