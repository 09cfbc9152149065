"""New cases read and prepared for a trained model, by the same code as in training; there are no labels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.folder_layout import ENDINGS, read_layout
from casewise.cohort.natural_sort import natural
from casewise.errors import CasewiseError
from casewise.modalities.base import ImageFolder, ImageStore
from casewise.modalities.registry import modality_of

if TYPE_CHECKING:
    import pandas as pd

    from casewise.console import Show
    from casewise.inference.bundle import Bundle
    from casewise.study.schema import Study

log = logging.getLogger("casewise")


@dataclass(frozen=True)
class NewCases:
    """Cases that were read, and their prepared images."""

    cohort: Cohort
    store: ImageStore


def write_table(cases: Path | str | pd.DataFrame, bundle: Bundle, folder: Path) -> Path:
    """The table of the cases, written into `folder` if they are a data frame or a folder of photographs.

    Raises:
        CasewiseError: the path does not exist, or the folder cannot be read as cases.
    """
    import pandas as pd

    if isinstance(cases, pd.DataFrame):
        table = cases
    elif not isinstance(cases, (str, Path)):
        raise CasewiseError(
            f"cases: must be the path of a table or of a folder of images, or a data frame, not a "
            f"{type(cases).__name__}. A list of images is a data frame with the columns {_columns(bundle)}."
        )
    else:
        path = Path(cases).absolute()
        if path.is_file() and path.name.casefold().endswith(ENDINGS):
            raise CasewiseError(
                f"cases: {cases} is one image. Give its folder, or a data frame with the columns {_columns(bundle)} "
                "and one row."
            )
        if path.is_file():
            return path
        if not path.is_dir():
            raise CasewiseError(f"cases: {cases} is neither a table nor a folder of images.")
        table = _table_of_folder(path, bundle)
    target = folder / "new-cases.csv"
    table.to_csv(target, index=False)
    return target


def _columns(bundle: Bundle) -> str:
    columns = bundle.settings["columns"]
    return " and ".join(repr(str(columns.get(role) or role)) for role in ("path", "subject"))


def _table_of_folder(folder: Path, bundle: Bundle) -> pd.DataFrame:
    """One row an image, by the layout of the folders; without subfolders each image is a subject."""
    import pandas as pd

    columns, regions = bundle.settings["columns"], bundle.settings["regions"]

    def heading(role: str) -> str:
        return str(columns.get(role) or role)

    if not regions and all(path.is_file() for path in folder.iterdir() if not path.name.startswith(".")):
        files = [path for path in folder.iterdir() if path.name.casefold().endswith(ENDINGS) and path.name[0] != "."]
        if not files:
            raise CasewiseError(f"{folder} contains no images ({', '.join(ENDINGS)}).")
        if len(files) > 1:
            log.warning(
                "%s has no subfolders, so each of its %d images counts as a subject of its own. If subjects have "
                "several images, give a table with the columns %s.",
                folder,
                len(files),
                _columns(bundle),
            )
        files.sort(key=lambda path: natural(path.name))
        return pd.DataFrame({heading("path"): map(str, files), heading("subject"): [path.name for path in files]})
    images = read_layout(folder, regions=regions, classes=[]).images
    table = pd.DataFrame(
        {heading("path"): [str(folder / i.path) for i in images], heading("subject"): [i.subject for i in images]}
    )
    for role in ("visit", "region"):
        if any(getattr(image, role) for image in images):
            table[heading(role)] = [getattr(image, role) for image in images]
    return table


def prepare_new_cases(study: Study, folder: Path, show: Show) -> NewCases:
    """Read the study's table without labels and prepare its images in `folder`.

    Raises:
        CohortError: with every problem of the table.
        ImageError: with every image that cannot be read.
    """
    modality, image_folder = modality_of(study), ImageFolder(folder)
    cohort = modality.read(study, read_cohort(study, to_learn=False, labelled=False), image_folder, show)
    return NewCases(cohort, modality.prepare(study, cohort, image_folder, show))
