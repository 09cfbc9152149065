"""Chest phantoms as DICOM studies, and the settings of nodes that read them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from casewise.plugins.node.settings import NodeSettings
from tests.film_files import film_bytes
from tests.plugins.node.orthanc import USER, Orthanc

RULE: dict[str, Any] = {"modality": ["DX", "CR"], "body_part": ["CHEST"], "view": ["PA", "AP"]}
# What is changed in studies that the rule does not fit.
UNFIT: tuple[dict[str, Any], ...] = ({"BodyPartExamined": "HAND"}, {"ViewPosition": "LL"}, {"Modality": "CT"})


def chest_film(path: Path, study: int, instance: int = 1, **tags: Any) -> bytes:
    """The phantom of a file as a film of the study `1.2.826.<study>`, whose patient is `P<study>`."""
    pixels = np.asarray(Image.open(path).convert("L"))
    uid = f"1.2.826.{study}"
    about: dict[str, Any] = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "PatientID": f"P{study}"}
    about |= {"SOPInstanceUID": f"{uid}.1.{instance}", "InstanceNumber": instance, "BodyPartExamined": "CHEST"}
    about |= {"StudyDate": "20250131", "StudyTime": "101500", "AccessionNumber": f"A{study}", "SeriesNumber": 1}
    about |= {
        "ManufacturerModelName": "X1",
        "InstitutionName": "West",
        "StationName": "R1",
        "SeriesDescription": "Thorax",
    }
    return film_bytes(pixels, **{**about, **tags})


def studies(table: Path, count: int, unfit: Sequence[int] = ()) -> Iterator[tuple[str, list[bytes]]]:
    """Studies of a film and sometimes a lateral view, each with its UID; those with numbers in `unfit` fit no rule."""
    paths = [table.parent / path for path in pd.read_csv(table)["path"]]
    for number in range(1, count + 1):
        path = paths[number % len(paths)]
        films = [chest_film(path, number, **(UNFIT[number % len(UNFIT)] if number in unfit else {}))]
        if number % 3 == 0:
            lateral = {"ViewPosition": "LL", "SeriesInstanceUID": f"1.2.826.{number}.2"}
            films.append(chest_film(path, number, 2, **lateral))
        yield f"1.2.826.{number}", films


def node_values(orthanc: Orthanc, bundle: Path, folder: Path) -> dict[str, Any]:
    """The settings of a node in a folder beside an Orthanc."""
    (folder / "credentials").write_text(USER)
    (folder / "credentials").chmod(0o600)
    values: dict[str, Any] = {"bundle": str(bundle), "folder": "node", "select": [RULE]}
    values |= {"orthanc": {"url": orthanc.url, "credentials": "credentials", "poll": 0.1, "timeout": 20}}
    return values | {"answer": {"formats": ["sr"], "threads": 1}, "retry": {"first": 0.2, "longest": 1}}


def node_settings(folder: Path, bundle: Path, orthanc: Orthanc | None = None, **changes: Any) -> NodeSettings:
    """The settings of a node in a folder, beside an Orthanc that need not run."""
    values = node_values(orthanc or Orthanc(1, 1), bundle, folder)
    return NodeSettings.model_validate(values | changes, context={"folder": folder})
