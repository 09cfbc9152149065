"""The table of new cases from folders of images and single image files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.folder_layout import FolderImage, find_region, read_new_layout
from casewise.errors import counted

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study

log = logging.getLogger("casewise")


def new_images(study: Study, paths: Sequence[Path]) -> pd.DataFrame:
    """One row for each image; a single file, and each file of a folder without subfolders, is a subject of its own.

    Raises:
        CasewiseError: a folder has no images, or a layout that is not supported.
    """
    images: list[FolderImage] = []
    for path in paths:
        if path.is_dir():
            images += _of_folder(study, path)
        else:
            region = find_region(path.name, study.regions) if study.regions else ""
            images.append(FolderImage(str(path), path.name, region=region))
    return as_table(study, _distinct(images))


def _of_folder(study: Study, folder: Path) -> list[FolderImage]:
    layout = read_new_layout(folder, regions=study.regions)
    if layout.skipped:
        log.warning(
            "%s: %s no image by name and %s left out, such as %s.",
            folder,
            counted(len(layout.skipped), "file is", "files are"),
            "is" if len(layout.skipped) == 1 else "are",
            layout.skipped[0],
        )
    if layout.shape == "*.jpg" and len(layout.images) > 1:
        log.warning(
            "%s has no subfolders, so each of its %d images counts as a subject of its own. If subjects have several "
            "images, make a folder for each subject, or give a table with the columns %s.",
            folder,
            len(layout.images),
            " and ".join(repr(_heading(study, role)) for role in ("path", "subject")),
        )
    return [FolderImage(str(folder / image.path), image.subject, image.visit, image.region) for image in layout.images]


def _distinct(images: list[FolderImage]) -> list[FolderImage]:
    """Single files of the same name in several folders are subjects with their whole paths as names."""
    own = [image.subject for image in images if Path(image.path).name == image.subject]
    repeated = {name for name in own if own.count(name) > 1} if len(set(own)) < len(own) else set()
    return [
        FolderImage(image.path, image.path, image.visit, image.region) if image.subject in repeated else image
        for image in images
    ]


def as_table(study: Study, images: Sequence[FolderImage]) -> pd.DataFrame:
    """The rows of image files, under the study's headings; visit and region where some image has one."""
    import pandas as pd

    roles = ["path", "subject", *(role for role in ("visit", "region") if any(getattr(i, role) for i in images))]
    return pd.DataFrame({_heading(study, role): [getattr(image, role) for image in images] for role in roles})


def _heading(study: Study, role: str) -> str:
    return str(study.columns.get(role) or role)
