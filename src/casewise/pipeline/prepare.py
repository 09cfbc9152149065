"""Preparing the images: each is decoded once, into a store that networks, audit and report read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.modalities.registry import modality_of

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.base import ImageStore
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


def prepare(study: Study, cohort: Cohort, folder: RunFolder, show: Show) -> ImageStore:
    """Prepare every image of the study's cohort once, or open what is there.

    Raises:
        ImageError: naming every image that cannot be prepared.
    """
    return modality_of(study).prepare(study, cohort, folder.images(study.images.store), show)
