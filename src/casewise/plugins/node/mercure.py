"""The same predictor as a module of mercure: one task is a folder of DICOM files, and answers go into another."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from casewise.errors import CasewiseError, StudyError
from casewise.files import checksum, parsed_json, read_regular, write_atomic, write_json
from casewise.inference.flag_reasons import UNCONFIRMED
from casewise.modalities.store.dicom_file import damage_named, quiet_pydicom, text_of
from casewise.plugins.node.records import StudyTask, study_folder, study_label
from casewise.plugins.node.settings import LARGEST, ModelSettings
from casewise.study.messages import sentences
from casewise.web.settings import Json

if TYPE_CHECKING:
    from casewise.plugins.node.predictor import StudyPredictor

TASK, RESULT = "task.json", "result.json"
IN, OUT = "MERCURE_IN_DIR", "MERCURE_OUT_DIR"


def run_mercure(bundle: Path | None, variables: Mapping[str, str] = os.environ) -> list[str]:
    """Answer the studies in the incoming folder of a task; why some are not answered.

    Args:
        bundle: where the settings of the module state none.

    Raises:
        CasewiseError: the folders, the settings or the model cannot be used.
    """
    folders = [Path(variables.get(name) or "") for name in (IN, OUT)]
    for name, folder in zip((IN, OUT), folders, strict=True):
        if not variables.get(name) or not folder.is_dir():
            raise CasewiseError(f"{name} is not a folder. mercure sets it for its modules.")
    incoming, outgoing = folders
    settings = _settings(incoming / TASK, bundle)
    settings.check_model()
    from casewise.inference.model import load_bundle
    from casewise.plugins.node.predictor import StudyPredictor

    predictor = StudyPredictor(load_bundle(settings.bundle, trust=settings.trust), settings)
    problems, studies = list[str](), list[Json]()
    files = sorted(path for path in incoming.glob("*.dcm") if path.is_file())
    if not files:
        raise CasewiseError(f"{incoming} has no file whose name ends in .dcm.")
    for uid, own in _by_study(files).items():
        try:
            studies.append(_answered(predictor, uid, own, outgoing))
        except CasewiseError as error:
            studies.append({"study": study_label(uid), "state": "quarantined", "reason": str(error)})
            problems.append(f"study {study_label(uid)}: {error}")
    write_json(outgoing / RESULT, {"model": predictor.description, "studies": studies})
    return problems


def _settings(path: Path, bundle: Path | None) -> ModelSettings:
    """The settings of the module: `process.settings` of a task.

    Raises:
        StudyError: the task cannot be read, or has invalid settings.
    """
    try:
        process = (parsed_json(read_regular(path, LARGEST)) if path.exists() else {}).get("process") or {}
        values: dict[str, Any] = dict(process.get("settings") or {})
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, TypeError, AttributeError):
        raise StudyError(f"{path} is not a task of mercure: settings belong under process.settings.") from None
    if bundle and "bundle" not in values:
        values["bundle"] = str(bundle)
    try:
        return ModelSettings.model_validate(values, context={"folder": Path.cwd()})
    except ValidationError as error:
        lines = sentences(error.errors(include_url=False, include_context=False), values, ModelSettings)
        raise StudyError(f"{path}: process.settings cannot be used:\n  " + "\n  ".join(lines)) from None


def _by_study(files: list[Path]) -> dict[str, list[Path]]:
    """The files of each study; what states no study is one of its own."""
    studies: dict[str, list[Path]] = {}
    for path in files:
        with damage_named(path):
            tags = quiet_pydicom().dcmread(
                path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True, force=True
            )
        studies.setdefault(text_of(tags, "StudyInstanceUID"), []).append(path)
    return studies


def _answered(predictor: StudyPredictor, uid: str, files: list[Path], outgoing: Path) -> Json:
    """Write the answers to a study, and what is stated of it as the result.

    Raises:
        CasewiseError: it cannot be answered.
    """
    content = hashlib.sha256("".join(sorted(map(checksum, files))).encode()).hexdigest()
    with tempfile.TemporaryDirectory() as name:
        answer = predictor.answer(StudyTask(uid, files, Path(name) / study_folder(uid), content))
        names = [f"{study_label(uid)}-{each.name}" for each in answer.answers]
        for each, written in zip(answer.answers, names, strict=True):
            write_atomic(outgoing / written, each.path.read_bytes())
    observation = json.loads(answer.observation.as_json())
    kept = {key: observation[key] for key in ("predictions", "probabilities", "flags", "distance")}
    if answer.observation.withheld:  # as in the answers
        kept |= {"probabilities": {}, "flags": [UNCONFIRMED, *kept["flags"]]}
    state, refused = ("refused" if answer.observation.refused else "answered"), answer.observation.refused
    about = {"study": study_label(uid), "state": state, "answers": names, "unwritten": dict(answer.unwritten)}
    return about | kept | ({"reason": refused} if refused else {})
