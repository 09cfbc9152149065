"""Decoding the images into a store, once for networks, audit and report."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from casewise.modalities.registry import modality_of
from casewise.splits.predefined import TEST
from casewise.study.schema import Study

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.base import ImageStore
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits


def plan(study: Study, cohort: Cohort, splits: Splits | None, folder: RunFolder, show: Show) -> Study:
    """The study with everything that the images decide without their labels, such as `images.fit`.

    Images of the test set take no part; without a split, all images decide.
    """
    tested = splits.subjects(TEST) if splits else []
    images = cohort.images[~cohort.images["subject"].astype(str).isin(tested)]
    deciding = dataclasses.replace(cohort, images=images)
    return modality_of(study).planned(study, deciding, folder.images(study.images.store), show)


def prepare(study: Study, cohort: Cohort, folder: RunFolder, show: Show) -> ImageStore:
    """Decode every image of the cohort once, into a store for networks, audit and report, or open the present store.

    Raises:
        ImageError: naming every image that cannot be prepared.
    """
    return modality_of(study).prepare(study, cohort, folder.images(study.images.store), show)
