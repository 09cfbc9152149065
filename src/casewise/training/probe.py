"""Starting from a fitted head: a ridge regression on the features that the body gives before any training.

Linear probing before fine-tuning keeps good pretrained features from being torn by the gradients of a random head
(Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from casewise.models.backbones import Network
from casewise.training.data import PanelData

PENALTIES = np.logspace(0, 5, 11)


def probe(network: Network, data: PanelData, subjects: Sequence[str], *, batch: int) -> None:
    """Set the network's head to the ridge regression of the standardised targets on its features.

    The penalty of each target is chosen by cross-validation over groups of the given (training) subjects.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold

    values = features(network, data, batch=batch).double().numpy()
    centre, spread = values.mean(axis=0), values.std(axis=0) + 1e-6
    values = (values - centre) / spread
    wanted = ((data.truth - network.centre.cpu()) / network.scale.cpu()).double().numpy()
    groups = np.asarray(subjects)
    linear = network.head[-1]
    assert isinstance(linear, torch.nn.Linear)
    for target in range(wanted.shape[1]):
        scored = ~np.isnan(wanted[:, target])
        folds = min(5, len(set(groups[scored])))
        if folds < 2:
            continue
        parts = list(GroupKFold(folds).split(values[scored], groups=groups[scored]))
        ridge = RidgeCV(PENALTIES, cv=parts, scoring="neg_mean_squared_error").fit(
            values[scored], wanted[scored, target]
        )
        weight = ridge.coef_ / spread
        with torch.no_grad():
            linear.weight[target] = torch.from_numpy(weight).to(linear.weight)
            linear.bias[target] = float(ridge.intercept_ - weight @ centre)


def features(network: Network, data: PanelData, *, batch: int) -> Tensor:
    """The body's features of every panel, unvaried, mean over its views: (P, width)."""
    from casewise.training.module import averaged

    network.eval()
    slots, owner = data.views()
    found = []
    with torch.inference_mode():
        for part, own in zip(slots.split(4 * batch), owner.split(4 * batch), strict=True):
            found.append((network.features(data.plain_batch(part, network.mean.device)).float().cpu(), own))
    return averaged(found, len(data)).clone()
