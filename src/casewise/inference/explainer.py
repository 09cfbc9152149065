"""What a plugin that computes saliency maps can do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from casewise.plugin import implementing

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from casewise.inference.bundle import Bundle
    from casewise.inference.predictor import Predictor
    from casewise.modalities.base import PreparedCohort
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


class Explainer(Protocol):
    """The plugin that computes saliency maps; there is at most one, and it has all methods."""

    def stored(self, folder: RunFolder) -> dict[str, Any] | None:
        """What the report shows of the maps of a run; None if there are none, or they are of other networks."""
        raise NotImplementedError

    def explain_case(self, folder: RunFolder, case: str, networks: Sequence[str], *, map_size: int) -> Any:
        """The maps of one case of a finished run, with a `figure`; nothing is written."""
        raise NotImplementedError

    def explainable(self, members: Sequence[Bundle]) -> list[str]:
        """The learners of a bundle that have maps of new cases."""
        raise NotImplementedError

    def target_of(self, study: Study, name: str) -> Any:
        """What maps of new cases explain, with `output` and `target`; an empty name: the primary outcome.

        Raises:
            CasewiseError: the networks do not predict it.
        """
        raise NotImplementedError

    def explain_new(
        self,
        predictors: Iterable[Predictor],
        prepared: PreparedCohort,
        target: Any,
        predicted: pd.DataFrame,
        *,
        side: int,
    ) -> Sequence[Any]:
        """The maps of new cases, each with `case`, `channel`, `native` (a `NativeMap`), `method`, `signed`, `flat`.

        Args:
            predictors: the networks of the learner's folds, one or more, on the CPU.
            target: from `target_of`.
            predicted: their rows of the predictions table, by which the explained class is chosen.
            side: the longest side of pictures in pixels.
        """
        raise NotImplementedError

    def overlay(self, picture: np.ndarray, values: np.ndarray, *, signed: bool) -> np.ndarray:
        """(H, W, 3) `uint8`: a map (H, W) over a picture (H, W) or (H, W, 3) `uint8`."""
        raise NotImplementedError


def explainer() -> Explainer | None:
    """The plugin that computes saliency maps; None if it is not installed."""
    return next(iter(implementing(Explainer)), None)
