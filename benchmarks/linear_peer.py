"""The linear peer of peers.py: `StandardScaler` and a linear model on the features of a frozen network.

Classes: `LogisticRegression`, whose C has the highest log-likelihood in inner folds; numbers: `Ridge`, whose alpha has
the smallest absolute error. Inner folds keep the images of a subject together. Everything runs on one thread, except
the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SIDE, BATCH = 224, 32
TEST = 0  # the fold of the test set
INNER_FOLDS = 4
# 1,280 standardised features: from nearly constant predictions to nearly perfect separation of a few hundred images.
INVERSE_STRENGTHS = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
STRENGTHS = [1e1, 1e2, 1e3, 1e4, 1e5]
MAX_ITER, TOLERANCE = 200, 1e-3
FLOOR = 1e-6  # the least probability that is counted


def features(paths: Sequence[str], weights: Path) -> np.ndarray:
    """The pooled features (N, 1280) `float32` of a frozen MobileNetV2; paths have no leading slash."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from torchvision import models, transforms

    network = models.mobilenet_v2(weights=None)
    network.load_state_dict(load_file(str(weights)))
    network.eval()
    steps = transforms.Compose(
        [
            transforms.Resize((SIDE, SIDE)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    values = []
    with torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            images = [steps(Image.open(f"/{path}").convert("RGB")) for path in paths[start : start + BATCH]]
            values.append(network.features(torch.stack(images)).mean(dim=(2, 3)).numpy())
    return np.concatenate(values)


def log_likelihood(model: Any, values: np.ndarray, labels: np.ndarray) -> float:
    """The mean log-likelihood of labels; that of a class without training images is the logarithm of `FLOOR`."""
    import numpy as np

    probabilities = model.predict_proba(values)
    index = np.searchsorted(model.classes_, labels).clip(max=len(model.classes_) - 1)
    chosen = np.where(model.classes_[index] == labels, probabilities[np.arange(len(labels)), index], 0.0)
    return float(np.log(np.maximum(chosen, FLOOR)).mean())


def fitted(values: np.ndarray, labels: np.ndarray, subjects: np.ndarray, *, numbers: bool) -> Any:
    """The pipeline with the penalty that is best in inner folds by subject, fitted to all rows."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    model, grid, scoring, folds = (
        (Ridge(), {"model__alpha": STRENGTHS}, "neg_mean_absolute_error", GroupKFold)
        if numbers
        else (
            LogisticRegression(max_iter=MAX_ITER, tol=TOLERANCE),
            {"model__C": INVERSE_STRENGTHS},
            log_likelihood,
            StratifiedGroupKFold,
        )
    )
    pipeline = Pipeline([("scale", StandardScaler()), ("model", model)])
    search = GridSearchCV(pipeline, grid, scoring=scoring, cv=folds(INNER_FOLDS))
    with threadpool_limits(1), warnings.catch_warnings():
        # weak penalties need more iterations than they are given; they are judged as they are
        warnings.simplefilter("ignore", ConvergenceWarning)
        # a grade of few images is missing in some inner folds
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return search.fit(values, labels, groups=subjects).best_estimator_


def out_of_fold(table: pd.DataFrame, values: np.ndarray, folds: Sequence[int], *, numbers: bool) -> pd.DataFrame:
    """The rows of `folds` with predictions of models of the other folds, in the columns of fastai's.

    `table` has the columns subject, fold (`TEST`: the test set, on which no model is trained) and label; row i has the
    features `values[i]`. The prediction is in column `prediction`, or in `p_CLASS` of each class.
    """
    import pandas as pd

    tables = []
    labels, subjects = table["label"].to_numpy(), table["subject"].to_numpy()
    for fold in folds:
        judged = (table["fold"] == fold).to_numpy()
        train = ~judged & (table["fold"] != TEST).to_numpy()
        model = fitted(values[train], labels[train], subjects[train], numbers=numbers)
        if numbers:
            columns = {"prediction": model.predict(values[judged])}
        else:
            probabilities = model.predict_proba(values[judged])
            columns = {f"p_{name}": probabilities[:, n] for n, name in enumerate(model.classes_)}
        tables.append(table[judged].reset_index(drop=True).join(pd.DataFrame(columns)))
    every = pd.concat(tables, ignore_index=True)
    return every if numbers else every.fillna({f"p_{name}": 0.0 for name in set(labels)})
