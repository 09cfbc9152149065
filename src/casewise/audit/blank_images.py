"""A finding about images of one grey: nothing can be predicted from them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from casewise.audit.findings import Finding
from casewise.audit.sentences import as_in_table, fill
from casewise.cohort.table import names_text
from casewise.errors import counted
from casewise.study.schema import Study


def blank_findings(flat: np.ndarray, images: pd.DataFrame, study: Study) -> list[Finding]:
    """A warning if some of the images (`Cohort.images`) are of one grey: those that `flat` (N,) marks."""
    root = (study.root or study.cohort.parent).absolute()
    names = as_in_table(images["path"].astype(str)[flat].tolist(), root)
    if not names:
        return []
    images = counted(len(names), "image shows", "images show")
    sentence = fill("blank-images", images=images, names=names_text(names, 5))
    return [Finding("blank-images", "warning", sentence, {"images": names}, remedy=fill("blank-images remedy"))]
