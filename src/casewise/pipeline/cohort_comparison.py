"""Comparing the images of two cohorts; a comparison is repeated only if one of the two has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from casewise.audit import cohorts, hashes, keypoints, probes, registration, twins, verify
from casewise.audit.cohorts import compare_cohorts
from casewise.audit.twin_findings import refuse_twins, twins_between
from casewise.audit.twins import shown_by
from casewise.modalities.base import ImageStore, PreparedCohort
from casewise.modalities.registry import modality_of

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.store.store import TileStore
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


# The modules whose constants decide on the result.
OF_SEARCH, OF_COMPARISON = (twins, hashes, keypoints, registration, verify), (cohorts, probes)


def own_cohort(study: Study, cohort: Cohort, store: ImageStore, folder: RunFolder) -> PreparedCohort:
    """The study's own cohort, with its prepared images."""
    return PreparedCohort(study, cohort, folder.images(study.images.store), store)


def cohort_difference(own: PreparedCohort, external: PreparedCohort, folder: RunFolder, show: Show) -> None:
    """Write how well simple features tell the study's own cohort from an external one."""
    first, second = _audited(own, show), _audited(external, show)
    permutations, seed = own.study.audit.permutations, own.study.seed
    made_from = _inputs_hash(first, second, OF_COMPARISON, permutations, seed)
    earlier = folder.cohort_difference.read_or_none()
    if earlier and earlier["made_from"] == made_from:
        return
    compared = compare_cohorts(first, second, permutations=permutations, seed=seed)
    folder.cohort_difference.write(compared | {"made_from": made_from})


def check_no_twins(
    first: PreparedCohort,
    second: PreparedCohort,
    folder: RunFolder,
    show: Show,
    *,
    where: str,
    other_people: bool,
) -> None:
    """Stop if a picture occurs in both cohorts under different subjects, or at all if the cohorts share no people.

    The search is stored with the prepared images, so that runs with other seeds do not repeat it.

    Raises:
        CohortError: names the pairs.
    """
    both = _audited(first, show), _audited(second, show)
    made_from = _inputs_hash(*both, OF_SEARCH, other_people)
    searches = folder.cohort_twins.read_or_none() or {}
    name = f"{first.folder.suffix or 'own'} {second.folder.suffix or 'own'}"
    if searches.get(name, {}).get("made_from") != made_from:
        pairs = twins_between(*both[0], *both[1], other_people=other_people)
        searches[name] = {"made_from": made_from, "pairs": [list(pair) for pair in pairs]}
        folder.cohort_twins.write(searches)
    refuse_twins(searches[name]["pairs"], both[0][0], both[1][0], where=where, other_people=other_people)


def _audited(prepared: PreparedCohort, show: Show) -> tuple[Cohort, TileStore]:
    return modality_of(prepared.study).audited(prepared, show)


def _inputs_hash(
    first: tuple[Cohort, TileStore], second: tuple[Cohort, TileStore], modules: Sequence[ModuleType], *settings: int
) -> str:
    """A hash of everything that a comparison of two cohorts depends on, also its constants and its `ALGORITHM`."""
    inputs = {
        "constants": constants(modules),
        "images": [tiles.address for _, tiles in (first, second)],
        "files": [shown_by(cohort.images) for cohort, _ in (first, second)],
        "subjects": [cohort.images["subject"].astype(str).tolist() for cohort, _ in (first, second)],
        "settings": settings,
    }
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def constants(modules: Sequence[ModuleType]) -> dict[str, str]:
    """The public constants of modules, by their full name."""
    return {
        f"{module.__name__}.{name}": repr(value)
        for module in modules
        for name, value in sorted(vars(module).items())
        if name.isupper() and not name.startswith("_") and not isinstance(value, bool)
    }
