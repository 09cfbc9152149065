"""Comparing the images of the external cohort with those of the study; repeated only if one of the two has changed."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from casewise.audit.cohorts import compare_cohorts
from casewise.modalities.base import ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


def cohort_difference(
    study: Study, main: Cohort, store: ImageStore, external: PreparedCohort, folder: RunFolder, show: Show
) -> None:
    """Write how well simple features tell the two cohorts apart."""
    own = PreparedCohort(study, main, folder.images(study.images.store), store)
    audited = [modality_of(study).audited(prepared, show) for prepared in (own, external)]
    inputs = {
        "casewise": __version__,
        "images": [tiles.address for _, tiles in audited],
        "subjects": [cohort.images["subject"].astype(str).tolist() for cohort, _ in audited],
        "permutations": study.audit.permutations,
        "seed": study.seed,
    }
    made_from = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    earlier = folder.cohort_difference.read_or_none()
    if earlier and earlier["made_from"] == made_from:
        return
    compared = compare_cohorts(audited[0], audited[1], permutations=study.audit.permutations, seed=study.seed)
    folder.cohort_difference.write(compared | {"made_from": made_from})
