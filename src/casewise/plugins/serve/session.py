"""A model in memory that answers requests and describes itself to clients; it runs in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from casewise.cohort.folder_layout import ENDINGS, SLIDES
from casewise.errors import CasewiseError, ImageError
from casewise.evaluation.agreement import band_of
from casewise.files import checksum
from casewise.inference.case_chunks import prepare_together
from casewise.inference.drift import Batch, Drift, RecentCases
from casewise.inference.flag_reasons import reasons_of
from casewise.inference.model import TrainedModel, load_bundle
from casewise.inference.new_cases import NewCases, NewTable, slot_column
from casewise.inference.resident import ResidentModel, slots_of
from casewise.inference.stated import stated_by
from casewise.modalities.registry import modality_of
from casewise.plugins.serve import submission as submitted
from casewise.plugins.serve.results import explained_class, flags_of, map_picture, plain, trajectory
from casewise.plugins.serve.settings import check_learner
from casewise.predictions.covariates import encodings_of
from casewise.report.formatting import display_name, known_classes, outcome_words
from casewise.study.images import POOLINGS
from casewise.study.learners import learner_name
from casewise.study.schema import Study
from casewise.targets import kind_named
from casewise.version import __version__
from casewise.web.settings import Json, ServiceError

NOTICE = "Research software, not a medical device. The results must not be used to diagnose, treat or monitor anyone."


# In place of the figures of the reported model.
OTHER_LEARNER = "This is not the learner that the report of the study is about: its figures are not shown here."


def describe(model: TrainedModel, study: Study, learner: str, networks: list[str], explained: list[str]) -> Json:
    """The facts of a model as plain values.

    Args:
        learner: the learner that predicts; networks: those behind it; explained: those with saliency maps.
    """
    about, noun = model.about, modality_of(study).noun(study)
    display = about.get("display") or {}
    names = [*study.outputs, *(name for name in study.scores if name not in study.outputs)]
    titles = {name: str(display.get(name) or display_name(study, name)) for name in names}
    outcome, bands = study.primary_outcome, about.get("bands") or {}
    targets = [_target(study, name, titles[name], bands if name == outcome else {}) for name in names]
    sequences = getattr(study.modality_settings, "sequences", None)
    level = model.combination.intervals.get("level")
    return {
        "name": str(about.get("name") or model.folder.name),
        "title": str(about.get("title") or about.get("name") or "A model of casewise"),
        "checksum": model.checksum,
        "casewise": __version__,
        "notice": NOTICE,
        "synthetic": bool(about.get("synthetic") or any(m.origin.get("synthetic") for m in model.members)),
        "learner": learner,
        "learner_title": learner_name(learner),
        "networks": sum(member.model in networks for member in model.members),
        "modality": study.modality_name,
        "noun": {"singular": noun.singular, "plural": noun.plural},
        "visits": bool(about.get("visits", True)),
        "several": _several_images(study, networks),
        "primary_outcome": outcome,
        "targets": targets,
        "targets_by_name": {target["name"]: target for target in targets},
        "titles": titles,
        "coverage": level,
        "audited": _first_sentence(str(about.get("audited") or "")) if learner == model.headline else "",
        "known": _background(about, study) if learner == model.headline else OTHER_LEARNER,
        "doubts": list(about.get("doubts") or []) if learner == model.headline else [],
        "unit": study.unit,
        "response": about.get("response"),
        "slots": slots_of(study),
        "regions": list(study.regions),
        "sequences": [str(name) for name in sequences or []],
        "series": bool(sequences),
        "all_slots": study.missing_regions == "refuse" and not sequences,
        "endings": [".nii", ".nii.gz", ".dcm"]
        if sequences
        else [end for end in ENDINGS if end not in SLIDES or study.modality_name == "slides"],
        "explained_learners": explained,
        "explained_titles": {name: learner_name(name) for name in explained},
        "explained_targets": list(study.outputs),
        "card": model.card,
    }


def _first_sentence(text: str) -> str:
    first, mark, _ = text.partition(". ")
    return first + mark.strip()


def _background(about: Mapping[str, Any], study: Study) -> str:
    """The findings of the study's audit, its figures, and which classes are known, in sentences."""
    result = f"In its study: {about['result']}." if about.get("result") else ""
    known = known_classes(study, study.primary_outcome)
    return " ".join(filter(None, [str(about.get("audited") or ""), result, known]))


def _covariate_fields(record: Mapping[str, Any]) -> list[Json]:
    """The fields of covariates: numbers have a `range`, categories `levels`; `optional` if training cases lacked some.

    Args:
        record: of the models of covariates (`casewise.predictions.covariates.CovariateFit`); empty if none is served.
    """
    return [
        {
            "name": encoding.name,
            "range": list(encoding.limits) or None,
            "levels": [level for level in encoding.levels if level],
            "optional": encoding.marks_missing or "" in encoding.levels,
        }
        for encoding in encodings_of(record)
    ]


def _several_images(study: Study, networks: list[str]) -> str:
    """How several images of a visit or region are used, as a sentence; empty where they are one scan."""
    if getattr(study.modality_settings, "sequences", None):
        return ""
    noun, own = modality_of(study).noun(study), [study.level_of(name) == "image" for name in study.targets]
    if all(own):
        return f"Each {noun.singular} has a prediction of its own."
    views = [study.of_learner(name).panels for name in networks]
    many, of = f"Several {noun.plural}", " of a region" if study.panels.by == "region" else ""
    if any(own) or study.modality_name != "photographs" or len({(p.bags, p.slots, p.pooling) for p in views}) > 1:
        return f"{many}{of} are combined in one prediction."
    if views[0].bags or views[0].slots > 1:
        at_once = "" if views[0].bags else f", {views[0].slots} at a time"
        return f"{many}{of} are read together{at_once}."
    return f"{many}{of}: the {POOLINGS[views[0].pooling].chosen} of their predictions counts."


def _target(study: Study, name: str, title: str, bands: dict[str, float]) -> Json:
    score = name in study.scores
    kind = "regression" if score else study.targets[name].kind
    numeric = kind_named(kind).form == "number"
    low, high = study.range_of(name)
    return {
        "name": name,
        "title": title,
        "says": outcome_words(study, name) if title == name else title,
        "kind": kind,
        "score": score,
        "primary": name == study.primary_outcome,
        "level": study.level_of(name),
        "range": [low, high] if numeric else None,
        "classes": [] if score else study.classes_of(name),
        "bands": dict(sorted(bands.items(), key=lambda band: band[1])) if numeric else {},
    }


def _plain_rows(table: pd.DataFrame) -> list[Json]:
    """The rows of numbers, without those that are not finite."""
    rows = table.astype(float).to_dict("records")
    return [{str(name): value for name, value in row.items() if np.isfinite(value)} for row in rows]


# Columns of the output table that have an entry of another name or form in an answer.
OTHER_FORM = {"learner", "case", "subject", "visit", "image", "prediction", "prediction set", "problem"}


class ModelSession:
    """A model with its networks in memory.

    Args:
        path: a bundle (folder or zip file) or a run folder.
        learner: as in `casewise.inference.ensemble.Ensemble`; it must name one learner.
        max_pixels: of one image.
        trust: a public key, with whose private key a bundle must be signed.

    Attributes:
        recent: the cases that the service answered before, and its warning.

    Raises:
        RunError: there is no such model or learner, or the model cannot be served.
    """

    def __init__(self, path: Path, learner: str, *, max_pixels: int, trust: Path | None = None) -> None:
        self.model: TrainedModel = load_bundle(path, trust=trust)
        check_learner(learner, self.model.learners)
        self.resident, self.max_pixels = ResidentModel(self.model, learner), max_pixels
        self.ensemble, self.learner, self.study = self.resident.ensemble, self.resident.learner, self.resident.study
        self.recent = RecentCases()

    @cached_property
    def description(self) -> Json:
        """The answer of /api/model (see `casewise.plugins.serve.session.describe`)."""
        networks = sorted({member.model for member in self.ensemble.members})
        described = describe(self.model, self.study, self.learner, networks, self.resident.explained)
        return described | {"covariates": _covariate_fields(self.ensemble.covariates)}

    def predict(self, submission: submitted.Submission, folder: Path) -> Json:
        """The answer of /api/predict for images in `folder`.

        Raises:
            CasewiseError: an image cannot be read, or one is missing.
        """
        batch = Batch()
        cases = self._cases(submission, folder)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _, _, rows = self._prepared(submission, folder, Path(work), batch)
        images = pd.concat(batch) if batch else pd.DataFrame(columns=["case", "subject"])
        by_case = dict(iter(images.drop(columns="subject").groupby("case")))
        measured = [
            case | {"images": _plain_rows(by_case[name].drop(columns="case"))}
            for name, case in cases.items()
            if name in by_case
        ]
        source, drift = self.recent.tested(measured, self.model.drift)
        answer = self._answer(submission, self.model.table.of_source(rows, drift), drift)
        return answer | {"recent": {"new": measured, "source": source, "result": asdict(drift)}}

    def _cases(self, submission: submitted.Submission, folder: Path) -> dict[str, Json]:
        """By the name of each visit its name and subject among recent cases.

        The subject is the patient whom DICOM files state. Without one it is the images themselves, so that images that
        are sent twice count once.
        """
        digests: dict[int, list[str]] = {}
        paths = [next(folder.rglob(file.stored)) for file in submission.files]  # a repeated request has folders
        for file, path in zip(submission.files, paths, strict=True):
            digests.setdefault(file.visit, []).append(checksum(path))
        stated = next(stated_by(paths), None)
        everything = sorted(digest for own in digests.values() for digest in own)
        subject = self.recent.hashed(*(stated.person if stated and stated.person[0] else everything))
        return {
            f"{submitted.SUBJECT}/visit {visit + 1}": {
                "case": self.recent.hashed(subject, *sorted(own)),
                "subject": subject,
                "source": "",
            }
            for visit, own in digests.items()
        }

    def explain(self, submission: submitted.Submission, folder: Path) -> Json:
        """The answer of /api/explain for images in `folder`.

        Raises:
            CasewiseError: as `predict`; or there is no such learner or target, or it has no maps.
        """
        names, explainer = self.resident.explained, self.resident.explainer
        learner = submission.learner or next(iter(names), "")
        if explainer is None or learner not in names:
            why = "Its networks weight tiles, or the plugin `explain` is not installed."
            remedy = f"Choose one of: {', '.join(names)}." if names else why
            message = f"There are no saliency maps of {learner or self.learner}. {remedy}"
            raise ServiceError(422, "no_saliency", message)
        try:
            target = explainer.target_of(self.study, submission.target)
        except CasewiseError as error:
            raise ServiceError(422, "unknown_target", str(error)) from error
        maps: list[Json] = []
        with tempfile.TemporaryDirectory(dir=folder) as work:
            # only the maps of classes depend on what was predicted
            table, prepared, rows = self._prepared(submission, folder, Path(work), predict=bool(target.output.classes))
            for shown in self.resident.maps(table.study, prepared, rows, target=target, learner=learner):
                level = self.study.level_of(target.target)
                entry = map_picture(explainer, shown, submission)
                entry["explained_class"] = explained_class(rows, target.target, level, entry)
                del entry["stored"]
                maps.append(entry)
        signed = any(entry["signed"] for entry in maps)
        return {
            "model": self._facts,
            "learner": learner,
            "learner_title": learner_name(learner),
            "target": target.target,
            "title": self.description["titles"].get(target.target, target.target),
            "signed": signed,
            "meaning": self.resident.meaning(learner, signed=signed, classes=bool(target.output.classes)),
            "maps": maps,
        }

    def _prepared(
        self,
        submission: submitted.Submission,
        folder: Path,
        work: Path,
        batch: Batch | None = None,
        *,
        predict: bool = True,
    ) -> tuple[NewTable, list[NewCases], pd.DataFrame]:
        """The table of all visits, the prepared cases, and their rows in the columns of the output table.

        Without `predict` there are no rows. The numbers of images are added to `batch`.

        Raises:
            CasewiseError: images cannot be read; the worker puts the client's names into the message.
        """
        submitted.check_slots(submission, self.description)
        submitted.check_pixels(submission, folder, self.max_pixels, self.description)
        submitted.check_person(submission, folder)
        submitted.check_companions(submission, folder, self.description)
        rows = self._cells(submission, folder)
        table, cells, cases = self.resident.table(rows, work, folder)
        if not predict:
            prepared, refused = prepare_together(table, cells, cases, work / "prepared")
            if refused:
                raise ImageError("\n".join(reason for _, reason in refused))
            return table, prepared, pd.DataFrame(columns=self.model.table.columns)
        rows, prepared = self.model.predict_together(self.ensemble, table, cells, cases, work / "prepared", batch)
        problems = list(dict.fromkeys(rows.loc[rows["prediction"].isna() & (rows["problem"] != ""), "problem"]))
        answered = set(rows.loc[rows["prediction"].notna(), "case"])
        if problems and len(answered) < len(submission.visits):
            raise ImageError("\n".join(problems))
        return table, prepared, rows

    def _cells(self, submission: submitted.Submission, folder: Path) -> pd.DataFrame:
        """One row for each image or scan; the DICOM files of one scan are moved into a folder."""
        column, rows = slot_column(self.study), []
        for file in submitted.into_series(submission, folder) if self.description["series"] else submission.files:
            cells = {"path": file.stored, "subject": submitted.SUBJECT, "visit": f"visit {file.visit + 1}"}
            covariates = submission.visits[file.visit].covariates
            rows.append({**cells, **({column: file.slot} if column else {}), **covariates})
        return pd.DataFrame(rows)

    @property
    def _facts(self) -> Json:
        """The facts about the model in an answer, so that a client can check that it is the described model."""
        names = ("name", "title", "checksum", "learner", "casewise", "synthetic")
        return {name: self.description[name] for name in names}

    def _answer(self, submission: submitted.Submission, rows: pd.DataFrame, drift: Drift) -> Json:
        by_visit = dict(iter(rows.groupby(rows["visit"].astype(str), sort=False)))
        visits = []
        for number, visit in enumerate(submission.visits):
            own = by_visit[f"visit {number + 1}"]
            results = [self._result(submission, row) for row in own.to_dict("records")]
            images = [{"file": f.name, "region": f.slot} for f in submission.files if f.visit == number]
            entry = {"visit": visit.name, "day": visit.day, "covariates": dict(visit.covariates), "images": images}
            visits.append(entry | {"results": results, "flags": flags_of(results)})
        return {
            "model": self._facts,
            "notice": self.description["notice"],
            "source": drift.facts,
            "visits": visits,
            "trajectory": trajectory(visits, self.description),
        }

    def _result(self, submission: submitted.Submission, row: Mapping[Any, Any]) -> Json:
        """A row of the output table as plain values; columns that are added to the table are passed on."""
        target = str(row["target"])
        facts = self.description["targets_by_name"][target]
        classes = facts["classes"]
        value = row["prediction"]
        missing = plain(value) is None
        result: Json = {
            "target": target,
            "title": facts["title"],
            "region": str(row["region"]),
            "image": submission.named(Path(str(row["image"])).name) if row["image"] else "",
            "prediction": None if missing else str(value) if classes else float(value),
        }
        if classes:
            result["probabilities"] = {name: plain(row[f"probability of {name}"]) for name in classes}
            result["prediction_set"] = [name for name in str(row["prediction set"]).split(" | ") if name]
        elif facts["bands"] and not missing:
            names = list(facts["bands"])
            ends = [row["prediction low"], float(value), row["prediction high"]]
            low, own, high = band_of(np.array(ends, dtype=float), facts["bands"])
            # the bands that the interval touches; none without an interval
            bands = [] if plain(ends[0]) is None else names[low : high + 1]
            result |= {"band": names[own], "bands": bands}
        used = {*OTHER_FORM, "target", "region", *(name for name in row if str(name).startswith("probability of "))}
        result |= {str(name).replace(" ", "_"): plain(cell) for name, cell in row.items() if name not in used}
        result["flags"] = [submission.named(reason) for reason in reasons_of(str(row["flags"]))]
        result["problem"] = str(row["problem"])
        return result
