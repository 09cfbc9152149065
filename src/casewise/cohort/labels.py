"""The recorded values of each panel: targets, and scores computed from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from casewise.study.scores import study_scores

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study


def panel_values(panels: pd.DataFrame, study: Study, name: str) -> np.ndarray:
    """(P,) recorded values of a target, or of a score computed from targets, of each panel; NaN if not scored."""
    if name in study.targets:
        return panels[name].to_numpy(float)
    score = next(s for s in study_scores(study) if s.name == name)
    references = score.references
    return score.value({(n, r): panel_values(panels, study, n) for n, r in references})


def label_table(panels: pd.DataFrame, study: Study) -> np.ndarray:
    """(P, T) recorded values of all outputs of the networks."""
    return np.stack([panel_values(panels, study, name) for name in study.outputs], axis=1)
