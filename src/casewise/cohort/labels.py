"""What was recorded at each panel: targets, and scores worked out there; networks learn it, splits balance it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from casewise.predictions.scores import Score

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study


def study_scores(study: Study) -> list[Score]:
    """The study's scores in their order."""
    return [Score(name, s.formula, s.level, *s.range) for name, s in study.scores.items()]


def panel_values(panels: pd.DataFrame, study: Study, name: str) -> np.ndarray:
    """(P,) recorded values of a target, or of a score worked out from targets, at each panel; NaN where not scored."""
    if name in study.targets:
        return panels[name].to_numpy(float)
    score = next(s for s in study_scores(study) if s.name == name)
    references = score.references
    return score.value({(n, r): panel_values(panels, study, n) for n, r in references})


def label_table(panels: pd.DataFrame, study: Study) -> np.ndarray:
    """(P, T) recorded values of everything the network predicts."""
    return np.stack([panel_values(panels, study, name) for name in study.outputs], axis=1)
