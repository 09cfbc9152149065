"""The peers of the planned recipes: the linear one learns out of fold only, and predictions are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

FOLDS = (1, 2, 3)


@pytest.fixture(scope="module")
def peers(benchmark: Any) -> Any:
    return benchmark("peers")


def synthetic() -> tuple[pd.DataFrame, np.ndarray]:
    """90 images of 45 subjects in three folds and a test set, with 60 features of which 20 show the label."""
    rng = np.random.default_rng(3)
    subject = np.repeat(np.arange(45), 2)
    signal = np.repeat(rng.normal(size=45), 2)
    labels = np.array(["absent", "faint", "present"])[np.digitize(signal, [-0.4, 0.4])]
    values = rng.normal(size=(90, 60)).astype(np.float32)
    values[:, :20] += 2 * signal[:, None]
    columns = {"path": [f"images/{n}.png" for n in range(90)], "subject": subject.astype(str), "fold": subject % 4}
    return pd.DataFrame(columns).assign(case=subject, image="", label=labels), values


def test_the_linear_peer_predicts_images_that_it_was_not_trained_on(peers: Any) -> None:
    table, values = synthetic()
    predictions = peers.out_of_fold(table, values, FOLDS, numbers=False)
    assert predictions["path"].tolist() == [p for fold in FOLDS for p in table["path"][table["fold"] == fold]]
    columns = ["p_absent", "p_faint", "p_present"]
    assert np.allclose(predictions[columns].sum(axis=1), 1)
    labels = predictions["label"]
    assert predictions["p_present"][labels == "present"].min() > predictions["p_present"][labels == "absent"].mean()
    # neither the labels of a fold nor those of the test set change its predictions
    changed = table.assign(label=np.where(table["fold"].isin([1, peers.TEST]), "absent", table["label"]))
    again = peers.out_of_fold(changed, values, [1], numbers=False)
    assert np.allclose(again[columns], predictions[columns][predictions["fold"] == 1], atol=1e-6)


def test_fastai_is_trained_on_all_other_folds_and_never_on_the_test_set(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, _ = synthetic()
    learned: dict[int, set[int]] = {}

    def measured(program: str, /, **task: Any) -> dict[str, float]:
        images = pd.read_csv(task["table"])
        learned[task["fold"]] = set(images["fold"]) - {task["fold"]}
        images[images["fold"] == task["fold"]].assign(p_absent=1.0).to_csv(task["predictions"], index=False)
        return {"seconds": 2.0}

    monkeypatch.setattr(peers.users, "measured", measured)
    options = {"numbers": False, "epochs": 1, "folder": tmp_path}
    rows, seconds = peers.of_fastai(table, FOLDS, Path("mobilenet_v2.safetensors"), **options)
    assert (seconds, len(rows)) == (6.0, (table["fold"] != peers.TEST).sum())
    assert learned == {1: {2, 3}, 2: {1, 3}, 3: {1, 2}}
    peers.of_fastai(table, [peers.TEST], Path("mobilenet_v2.safetensors"), **options)
    assert learned[peers.TEST] == set(FOLDS)
