"""Decoding the images into a store, once for networks, audit and report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.modalities.registry import modality_of
from casewise.study.schema import Study

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.base import ImageStore
    from casewise.run_folder import RunFolder


def plan(study: Study, cohort: Cohort, folder: RunFolder, show: Show) -> Study:
    """The study with everything that the images decide without their labels, such as `images.fit`."""
    return modality_of(study).planned(study, cohort, folder.images(study.images.store), show)


def prepare(study: Study, cohort: Cohort, folder: RunFolder, show: Show) -> ImageStore:
    """Decode every image of the cohort once, into a store for networks, audit and report, or open the present store.

    Raises:
        ImageError: naming every image that cannot be prepared.
    """
    return modality_of(study).prepare(study, cohort, folder.images(study.images.store), show)
