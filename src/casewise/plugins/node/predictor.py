"""The model of a node in memory: it chooses the images of a study, predicts them, and writes the answers.

A study without suitable images is answered too, with the reason in place of each prediction. If one format cannot be
written, the others still are. Only a study that cannot be answered, such as one of two patients, needs a person.
"""

from __future__ import annotations

import errno
import hashlib
import io
import multiprocessing
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from casewise.errors import CasewiseError, RunError, shortened
from casewise.files import checksum, make_folder, sync_folder, write_atomic
from casewise.inference.case_chunks import CasePicture, PredictedChunk, RawCase
from casewise.inference.drift import RecentCases
from casewise.inference.new_cases import NewCases, slot_column
from casewise.inference.resident import ResidentModel, pictured
from casewise.inference.result_formats import format_owners
from casewise.modalities.store.dicom_file import quiet_pydicom
from casewise.plugins.node.headers import InstanceHeader, UnanswerableError, patient_of, read_header
from casewise.plugins.node.monitoring.observation import Observation, identifier_hash, observed
from casewise.plugins.node.records import UNFINISHED, Answer, StudyAnswer, StudyTask, study_label
from casewise.plugins.node.selection import Row, SelectionError, Slots, select
from casewise.plugins.node.settings import ModelSettings
from casewise.report.formatting import plain
from casewise.run_folder.folder import HEADLINE
from casewise.study.learners import learner_name
from casewise.web.settings import Json, location_of

if TYPE_CHECKING:
    from casewise.inference.model import TrainedModel
    from casewise.study.schema import Study

# Stands for the patient during prediction; the patient's ID is written into the answers only.
_SUBJECT = "patient"
# Prefix of formats with pictures; only these need saliency maps.
_SUMMARY = "summary"
_MOST_PICTURES = 6
# Disk errors that another attempt repeats, such as a path that is too long.
_PERMANENT = (errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EILSEQ)
# Characters of a Series Description: PS3.5, 6.2, VR LO.
_LONGEST_TITLE = 64
# Longest side of a picture on the monitoring page, in pixels.
_PICTURE_SIDE = 240


class StudyPredictor:
    """The model of a node in memory.

    Args:
        salt: the secret with which identifiers of patients are hashed; they are not recorded without one.
        pictures: the folder for pictures of studies that are unlike the training; none are kept without one.

    Attributes:
        without_maps: why summary pages will show no saliency maps; empty if they will, or need not.

    Raises:
        CasewiseError: the model, the rules of selection and the formats do not suit each other.
    """

    def __init__(
        self, model: TrainedModel, settings: ModelSettings, salt: str = "", pictures: Path | None = None
    ) -> None:
        if not model.checksum:
            raise RunError(f"bundle: {model.folder} is not a bundle, whose checksum the answers state.")
        self.resident, self._pictures_folder = ResidentModel(model, HEADLINE), pictures
        self._settings, self._salt = settings, salt
        if columns := self.resident.ensemble.covariates.get("columns", ()):
            raise RunError(f"bundle: {model.folder} predicts from {', '.join(columns)}, which images do not state.")
        self._slots = Slots.of(self.resident.study)
        self._slots.check(settings.select)
        if settings.answer.abstain:
            model.check_abstaining()
        self._target, self.without_maps = None, ""
        if settings.answer.saliency and any(name.startswith(_SUMMARY) for name in settings.answer.formats):
            self._target, self.without_maps = self._saliency_target()

    @property
    def description(self) -> Json:
        """The title and the checksum of the model."""
        about, model = self.resident.model.about, self.resident.model
        return {"title": str(about.get("title") or about.get("name") or "the model"), "checksum": model.checksum}

    def reply(self, job: Json) -> Json:
        """The answer to a job as JSON values, or why there is none, without quoting any content of files."""
        files, folder = [Path(path) for path in job["files"]], Path(job["folder"])
        try:
            recent = RecentCases(**job.get("recent", {}))
            answer = self.answer(StudyTask(job["uid"], files, folder, job["content"], job["version"], recent))
        except UnanswerableError as error:
            return {"unanswerable": str(error)}
        except (RunError, OSError, MemoryError) as error:
            text = str(error) if isinstance(error, RunError) else f"{type(error).__name__} ({location_of(error)})"
            return {"failed": text, "fault": not _is_transient(error)}
        except CasewiseError as error:
            return {"unanswerable": str(error)}
        except Exception as error:  # noqa: BLE001 (the study is tried again, and then left to a person)
            return {"failed": _fault_text(error), "fault": True}
        rows = [[each.name, each.format, str(each.path), each.sha256] for each in answer.answers]
        observation, unwritten = answer.observation.as_json(), dict(answer.unwritten)
        reply = {"answers": rows, "observation": observation, "accession": answer.accession, "unwritten": unwritten}
        return reply | {"recent": answer.recent}

    def answer(self, task: StudyTask) -> StudyAnswer:
        """Choose the images of a study, predict them, and write the answers into its folder.

        Raises:
            CasewiseError: it cannot be answered.
        """
        headers = [read_header(path) for path in task.files]
        patient, unwritten, refused = patient_of(headers), dict[str, str](), ""
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            try:
                selection = select(headers, self._settings.select, self._slots)
                chunk = self._predicted(task, selection.rows, work, unwritten)
                chosen = selection.headers
            except SelectionError as error:
                chunk, chosen, refused = self._refused(task, headers, error.report), headers, str(error)
            issuer = next((header.issuer for header in headers if header.issuer), "")
            observation = observed(
                chunk,
                refused=refused,
                scanner=chosen[0].scanner,
                site=chosen[0].site,
                subject=identifier_hash(self._salt, issuer, patient),
                bundle=self.description["checksum"],
            )
            chunk, recent = self._of_source(chunk, observation, task)
            observation = replace(observation, withheld=chunk.drift.withholds)
            chunk = replace(chunk, table=chunk.table.assign(case=task.uid, subject=patient, visit=""))
            answers = self._written(chunk, task, unwritten)
        accession = next((header.accession for header in headers if header.accession), "")
        return StudyAnswer(answers, observation, identifier_hash(self._salt, accession), unwritten, recent)

    def _of_source(
        self, chunk: PredictedChunk, observation: Observation, task: StudyTask
    ) -> tuple[PredictedChunk, dict[str, Any]]:
        """The predictions after the test of the recent studies of their source, and the test for the node."""
        if not observation.images:
            return chunk, {}
        model, new = self.resident.model, [observation.as_recent(study_label(task.uid))]
        source, drift = task.recent.tested(new, model.drift)
        table = model.table.of_source(chunk.table, drift)
        table = model.table.abstaining(table) if self._settings.answer.abstain else table
        return replace(chunk, table=table, drift=drift), {"new": new, "source": source, "result": asdict(drift)}

    def _predicted(self, task: StudyTask, rows: Sequence[Row], work: Path, unwritten: dict[str, str]) -> PredictedChunk:
        """The predictions of the chosen images, which are linked into `work` under names that say nothing."""
        resident, column = self.resident, slot_column(self.resident.study)
        sources = [
            _linked(row.files, work / f"image-{number}", self._slots.scans) for number, row in enumerate(rows, 1)
        ]
        cells = [
            {"path": path.name, "subject": _SUBJECT, **({column: row.slot} if column else {})}
            for path, row in zip(sources, rows, strict=True)
        ]
        table, cell_table, cases = resident.table(pd.DataFrame(cells), work, work)
        batch: list[pd.DataFrame] = []
        abstain = self._settings.answer.abstain
        predicted, prepared = resident.model.predict_together(
            resident.ensemble, table, cell_table, cases, work / "prepared", batch, abstain=abstain
        )
        predicted = predicted.assign(problem=[str(text).replace(f"{work}/", "") for text in predicted["problem"]])
        slots = {path.name: row.slot for path, row in zip(sources, rows, strict=True)}
        chunk, pictures = PredictedChunk(predicted, {task.uid: tuple(sources)}, False, batch), list[CasePicture]()
        with _noted(unwritten, "pictures"):
            if self._pictures_folder and prepared and observed(chunk).is_unlike:
                _keep_picture(prepared[0], self._pictures_folder / f"{study_label(task.uid)}.png")
            pictures = self._pictures(table.study, prepared, predicted, slots)
        return replace(chunk, pictures={task.uid: pictures} if pictures else {})

    def _refused(self, task: StudyTask, headers: Sequence[InstanceHeader], reason: str) -> PredictedChunk:
        """A row without prediction for each target; its sources are the first instance of each series."""
        case = RawCase(task.uid, _SUBJECT, "", ())
        table = self.resident.model.table.of_problems([(case, reason)], self.resident.ensemble.learners)
        firsts = {header.series: header.path for header in reversed(headers)}
        return PredictedChunk(table, {task.uid: tuple(firsts.values())}, False)

    def _saliency_target(self) -> tuple[Any, str]:
        """The output that saliency maps explain; None, and the reason, if there can be no maps."""
        if self.resident.explainer is None:
            return None, "The extra `explain` is not installed: pip install 'casewise[explain]'."
        if not self.resident.explained:
            return None, "No network of the model has saliency maps."
        try:
            return self.resident.explainer.target_of(self.resident.study, ""), ""
        except CasewiseError as error:  # such as a score that no network predicts by itself
            return None, str(error)

    def _pictures(
        self, study: Study, prepared: Sequence[NewCases], predicted: pd.DataFrame, slots: Mapping[str, str]
    ) -> list[CasePicture]:
        """The images under their saliency maps.

        Args:
            slots: region by name of the image.
        """
        if self._target is None or not prepared or predicted["prediction"].isna().all():
            return []
        explainer, learner = self.resident.explainer, self.resident.explained[0]
        assert explainer is not None
        pictures: list[CasePicture] = []
        classes = predicted.loc[predicted["target"] == self._target.output.name, "prediction"].unique()
        of_class = f" for {plain(classes[0])}" if self._target.output.classes and len(classes) == 1 else ""
        for shown in self.resident.maps(study, prepared, predicted, target=self._target, learner=learner):
            image, values, note = pictured(shown.native)
            where = shown.channel or slots.get(Path(shown.native.name).name, "")
            how = "red raises and blue lowers" if shown.signed else "the more colour, the more influence on"
            meaning = f"{learner_name(learner)}: {how} its output{of_class}"
            title = ", ".join(filter(None, (where, meaning, note)))
            overlay = explainer.overlay(image, values, signed=shown.signed)
            colour = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
            pictures.append(CasePicture(title, colour, overlay))
            if len(pictures) == _MOST_PICTURES:
                break
        return pictures

    def _written(self, chunk: PredictedChunk, task: StudyTask, unwritten: dict[str, str]) -> tuple[Answer, ...]:
        """Write the answers to a temporary folder, then move them to the folder of the task, replacing all files there.

        Args:
            unwritten: gets the reason why a format could not be written.

        Raises:
            UnanswerableError: no format could be written.
            RunError: the folder cannot be written.
        """
        staged = task.folder.with_name(task.folder.name + UNFINISHED)
        shutil.rmtree(staged, ignore_errors=True)
        formats, system = self._settings.answer.formats, self._settings.answer.subject_system
        for name in formats:
            folder = {name: staged / name}
            with _noted(unwritten, name):
                owner = format_owners()[name]
                with owner.result_folders(self.resident.model, folder, names=True, subject_system=system) as results:
                    results.receive(chunk)
                (written,) = results.folders
                if written.without or not written.files:
                    unwritten[name] = next(iter(written.without.values()), "Nothing was written.")
        if all(name in unwritten for name in formats):
            raise UnanswerableError(" ".join(f"{name}: {unwritten[name]}" for name in formats))
        node = multiprocessing.parent_process()
        if node and not node.is_alive():
            os._exit(0)  # the node has ended; it predicts the study when it is started again
        answers = []
        make_folder(task.folder)
        for style in (name for name in formats if name not in unwritten):
            files = sorted((staged / style).iterdir())
            for number, file in enumerate(files, 1):
                name = f"{style}{f'-{number}' if len(files) > 1 else ''}{file.suffix}"
                if task.content and file.suffix == ".dcm":
                    _state_version(file, task)
                os.replace(file, task.folder / name)
                answers.append(Answer(name, style, task.folder / name, checksum(task.folder / name)))
        for path in set(task.folder.iterdir()) - {answer.path for answer in answers}:
            path.unlink()
        sync_folder(task.folder)
        shutil.rmtree(staged, ignore_errors=True)
        return tuple(answers)


@contextmanager
def _noted(unwritten: dict[str, str], name: str) -> Iterator[None]:
    """Note an error as the reason why something is missing in an answer; a full disk or memory is still raised."""
    try:
        yield
    except (RunError, MemoryError):
        raise
    except CasewiseError as error:
        unwritten[name] = str(error)
    except Exception as error:  # noqa: BLE001 (its message may quote data of a patient)
        unwritten[name] = _fault_text(error)


def _keep_picture(prepared: NewCases, path: Path) -> None:
    """Keep a picture of a study for the page of monitoring."""
    picture = np.asarray(prepared.store.tiles[0])  # (C, H, W)
    image = Image.fromarray(picture[0] if len(picture) != 3 else picture.transpose(1, 2, 0))
    image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    image.save(content := io.BytesIO(), "PNG")
    write_atomic(path, content.getvalue())


def _state_version(path: Path, task: StudyTask) -> None:
    """Derive the UIDs of a DICOM answer from the images too, so that a new version does not replace the old one.

    The same images, model and study give the same UIDs, so that Orthanc recognises a repetition.
    """
    dataset = quiet_pydicom().dcmread(path)
    for tag in ("SeriesInstanceUID", "SOPInstanceUID"):
        number = int(hashlib.sha256(f"{dataset[tag].value} {task.content}".encode()).hexdigest()[:32], 16)
        dataset[tag].value = f"2.25.{number}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.InstanceNumber = task.version
    if task.version > 1:
        dataset.SeriesDescription = shortened(f"{dataset.SeriesDescription}, version {task.version}", _LONGEST_TITLE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the images may violate the standard
        dataset.save_as(content := io.BytesIO(), enforce_file_format=True)
    write_atomic(path, content.getvalue())


def _is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed: too little memory, or an error of the disk that is not permanent."""
    cause = error if isinstance(error, (OSError, MemoryError)) else error.__cause__
    return isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno not in _PERMANENT)


def _fault_text(error: Exception) -> str:
    """A fault in words, without the message of the error, which may quote data of a patient."""
    return f"A fault of casewise ({location_of(error)}). Please report it."


def _linked(files: Sequence[Path], path: Path, scan: bool) -> Path:
    """A link to a film, or a folder of links to the files of a scan."""
    if not scan:
        path = path.with_suffix(".dcm")
        os.symlink(files[0], path)
        return path
    path.mkdir()
    for number, file in enumerate(files, 1):
        os.symlink(file, path / f"{number:05}.dcm")
    return path
