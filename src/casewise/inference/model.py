"""A trained model for new cases: a bundle, all networks of a run folder, or the network of one folder."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from casewise.cohort.companions import listed_companions
from casewise.cohort.groups import check_columns
from casewise.cohort.identity import AS_WRITTEN, same_subjects
from casewise.cohort.table import names_text
from casewise.console import Show, Silent
from casewise.errors import CohortError, RunError, Suggesting, counted, shortened
from casewise.evaluation.record import from_json
from casewise.files import checksum
from casewise.inference import case_chunks, input_checks, new_cases
from casewise.inference.bundle import Bundle, check_composition
from casewise.inference.case_sizes import slots_of
from casewise.inference.drift import WORDS, Batch, Drift, confirmation, drift
from casewise.inference.ensemble import Combination, Ensemble
from casewise.inference.flag_reasons import joined, reasons_of
from casewise.inference.image_measures import COMPARED, FEWEST_SUBJECTS
from casewise.inference.look import Look, read_look
from casewise.inference.output_table import OutputTable
from casewise.inference.visits import check_case_sizes, ignores_visits, names_visits
from casewise.modalities.base import PreparedCohort
from casewise.modalities.registry import modality_of
from casewise.models.threads import on_threads
from casewise.predictions.covariates import flags_of
from casewise.run_folder import BundleFolder, JobFolder, JsonFile, RunFolder
from casewise.run_folder.bundle_folder import check_signature, extract, is_archive
from casewise.run_folder.folder import HEADLINE, check_model_path
from casewise.study.learners import is_registered, learner_named
from casewise.study.schema import Study

log = logging.getLogger("casewise")
# Folders above a file that may be of its subject.
_LEVELS = 3


@dataclass(frozen=True)
class TrainedModel(Suggesting):
    """The trained networks of a study; each network predicts the mean over its folds.

    Attributes:
        folder: the folder of the bundle, of the run, or of the network.
        members: the networks of all folds.
        combination: the stackers, the rules of decisions, the headline, and the quantiles of intervals.
        about: the facts of the bundle; empty for a single network, and for a run without a bundle.
        card: the model card of the bundle, in Markdown; empty without one.
        limits: the limits by which new cases are flagged; None if there are none, as for a single network.
        look: what the look of new cases is compared with; None if the limits have none.
    """

    folder: Path
    members: tuple[Bundle, ...]
    combination: Combination = field(default_factory=Combination)
    about: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""
    limits: input_checks.Limits | None = None
    look: Look | None = None
    # The folder of an unpacked zip file, which is removed with this object.
    unpacked: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        unknown = {
            each.model
            for each in self.members
            if {"bank", "learner_kind"} & set(each.network) and not is_registered(each.model)
        }
        if unknown:
            raise RunError(
                f"{self.folder}: casewise has no learner named {names_text(sorted(unknown))}. Install the package that "
                "brings it; in Python, import the module that registers it first."
            )

    def __repr__(self) -> str:
        targets = ", ".join([*self.table.classes, *self.table.scores])
        return f"TrainedModel({str(self.folder)!r}): {targets} by {self.headline or ', '.join(self.learners)}"

    @property
    def learners(self) -> list[str]:
        """The names of the networks, of the baselines, and of the learners that combine them."""
        return self.combination.learners(list(dict.fromkeys(member.model for member in self.members)))

    @property
    def headline(self) -> str:
        """The learner that the study's report is about; empty if nothing was evaluated."""
        return self.combination.headline

    @property
    def checksum(self) -> str:
        """The SHA-256 of the bundle's manifest, which lists the checksums of all other files; empty if not a bundle."""
        bundle = BundleFolder(Path(self.unpacked.name) if self.unpacked else self.folder)
        return checksum(bundle.manifest_path) if bundle.exists() else ""

    def check_abstaining(self) -> None:
        """Check that there are limits of the images of new cases.

        Raises:
            RunError: there are none, so that no case would be left out.
        """
        if self.limits is None or not self.limits.ranges:
            raise RunError(
                f"--abstain: {self.folder} has no limits of images, by which cases are flagged. They need at "
                f"least {FEWEST_SUBJECTS} training subjects in two folds, and the bundle of a whole run, "
                "not one of its networks. Leave out --abstain."
            )

    @property
    def modalities(self) -> tuple[str, ...]:
        """The DICOM modalities that training images stated; empty if they stated none."""
        return self.limits.modalities if self.limits else ()

    @property
    def table(self) -> OutputTable:
        """The columns of predictions."""
        first = self.members[0]
        return OutputTable(
            {str(output["name"]): output["classes"] for output in first.outputs},
            list(first.settings["scores"]),
            self.combination.intervals,
        )

    @property
    def reader(self) -> Bundle:
        """The network whose settings decide how new cases are read; other learners derive their own from these."""
        return next((member for member in self.members if learner_named(member.model).by_steps), self.members[0])

    def predict(
        self,
        cases: new_cases.NewInput,
        *,
        learner: str = HEADLINE,
        columns: Mapping[str, str] | None = None,
        root: Path | str | None = None,
        pattern: str = "",
        show: Show | None = None,
        abstain: bool = False,
        source_confirmed: str = "",
    ) -> pd.DataFrame:
        """Predict new cases; labels are neither needed nor read. All cases are prepared at once.

        `predict_in_chunks` needs less memory.

        Args:
            cases: a table (CSV, Parquet or a data frame) with the columns of the training table other than the
                labels, an image, a folder of images, a list of images and folders, or a list of lists, each of the
                images of one case. An image is a file, an array, (H, W) or (H, W, 3) uint8, or an image of Pillow.
            learner: the name of a learner; `headline`, the one that the report is about; `networks`, every network and
                baseline; `all`, these and the stackers.
            columns: standard name -> the table's column, such as `{"path": "file", "subject": "patient"}`; the others
                are named as in the study.
            root: the folder that paths in the table are relative to; by default the table's own, and for a data frame
                the working directory.
            pattern: what the paths below a folder state: `{subject}`, `{visit}`, `{region}`, `{sequence}` and `{file}`,
                such as `{subject}/{visit}/{file}`; without `{subject}` the folder is one subject. By default the
                folder is read in one of the layouts of the guide.
            show: where progress is reported, and how files and folders were read.
            abstain: whether cases that are unlike the training cases get no prediction, but the flags as `problem`.
            source_confirmed: who confirms that the model may be used for the source of these cases, and why, as
                `NAME, REASON`. Without it, all cases lose their probabilities, intervals and sets, and have a flag, if
                they are together unlike the training cases.

        Returns:
            One row for each learner, case, region or image, and target or score of the study: `learner`, `case`,
            `subject`, `visit`, `region`, `image`, `target`, `prediction`, for classes the probability of each, by name;
            `prediction low` and `prediction high`, the prediction interval of a number, NaN if there is none;
            `prediction set`, the classes that may be the true one, by name, separated by ` | `; `interval note`, why
            there is no interval, which classes are in every set because too few subjects had them, or that the case is
            flagged;
            `spread`, the standard deviation over the networks of the folds (of a number, of the expected grade, or of
            the probability of the predicted class; NaN for a single network); `distance` from the training features: 1
            is the distance that at most one in twenty held-out cases of the study exceeds, NaN where a network gives
            none (a warning then says why); `beyond`, whether it is above 1; `flags`, why the case is unlike the
            training cases, separated by `; `, empty if it is not; and `problem`, why there is no prediction, such as a
            file that cannot be read; empty if there is one.

        Raises:
            CasewiseError: the cases as a whole cannot be read, such as a table without the column of the images.
            RunError: there is no such learner.
        """
        options: Any = {"learner": learner, "columns": columns, "root": root, "pattern": pattern, "abstain": abstain}
        options["source_confirmed"] = source_confirmed
        (chunk,) = self.predict_in_chunks(cases, **options, size=sys.maxsize, show=show)
        rows = chunk.table
        if text := chunk.drift.text:
            log.warning("%s", text)
        if without := dict.fromkeys(rows.loc[rows["problem"] != "", "problem"]):
            first = next(iter(without))
            log.warning("Some cases have no prediction; the column problem says why. The first: %s", first)
        return rows

    def _table(
        self,
        ensemble: Ensemble,
        cases: new_cases.NewInput,
        folder: Path,
        columns: Mapping[str, str] | None,
        root: Path | str | None,
        pattern: str,
        show: Show,
    ) -> tuple[new_cases.NewTable, pd.DataFrame]:
        """The table of new cases and its rows; how files were read is shown."""
        sizes = self.limits.sizes if self.limits else None
        table = new_cases.new_table(
            cases, self.reader, folder, columns=columns or {}, root=root, pattern=pattern, sizes=sizes
        )
        cells = table.cells()
        if self.about.get("visits") and not (table.reading or new_cases.predicts_single_images(table.study)):
            try:
                check_case_sizes(table.study, cells, sizes, new_cases.slot_column(table.study))
            except CohortError as error:
                raise table.corrected(error) from error
        table = replace(with_columns(table, cells, ensemble), modalities=self.modalities)
        if table.reading:
            show.line("cases", table.reading)
        heading = table.study.columns.get("subject") or "subject"
        path = table.study.columns.get("path") or "path"
        start = (table.study.root or table.study.cohort.parent).absolute()
        names = self._names(cells, heading, path, start) if heading in cells else {}
        trained_on = frozenset[str]().union(*(member.subjects for member in self.members))
        trained_names = set(same_subjects(sorted(set[str]().union(*names.values())), trained_on, AS_WRITTEN))
        if of_training := [name for name, written in names.items() if written & trained_names]:
            log.warning(
                "Names of the training: %s of %s. The model may know their images by heart, unless they are others of "
                "the same name.",
                f"{len(of_training):,}",
                counted(len(names), table.study.unit),
            )
        if not table.reading and path in cells:
            for doubt in listed_companions(start / text for text in cells[path].str.strip() if text):
                log.warning("%s", doubt.removeprefix("WARNING: "))
        if ignores_visits(cells, table.study):
            log.warning("The study of this model has no visits: the visits of the new cases are not used.")
        return table, cells

    def _names(self, cells: pd.DataFrame, heading: str, path: str, start: Path) -> dict[str, set[str]]:
        """By subject what the training may have named it: itself, its files with and without ending, and folders.

        A folder may be a person if all its images are of one subject, or as many as a case may have. Farther up than
        three levels, folders are of the computer and not of the study.
        """
        names = {name: {name, *_number_of(name)} for name in cells[heading].astype(str) if name}
        people: dict[tuple[str, ...], list[str]] = defaultdict(list)
        files = cells[path].astype(str) if path in cells else ()
        for name, file in zip(cells[heading].astype(str), files, strict=False):
            relative = Path(os.path.relpath(file, start)) if os.path.isabs(file) else Path(file)
            if not (name and file):
                continue
            names[name] |= {relative.name, relative.stem}
            folders = relative.parts[:-1]
            for level in range(max(0, len(folders) - _LEVELS), len(folders)):
                people[folders[: level + 1]].append(name)
        most = self.limits.sizes.limit if self.limits and self.limits.sizes else input_checks.MOST_OF_CASE
        for folders, of_folder in people.items():
            if folders[-1] != ".." and (len(set(of_folder)) == 1 or len(of_folder) <= most):
                for name in set(of_folder):
                    names[name].add(folders[-1])
        return names

    @cached_property
    def _fingerprints(self) -> Mapping[str, np.ndarray]:
        """The fingerprints of all images on which the networks were trained; empty if the networks have none."""
        from casewise.audit.fingerprints import joined, read_fingerprints

        files = [JobFolder(member.folder).fingerprints for member in self.members]
        prints = [read_fingerprints(file) for file in files if file.exists()]
        return joined(prints) if prints else {}

    def _of_training(self, table: new_cases.NewTable, prepared: Sequence[new_cases.NewCases]) -> list[str]:
        """The files of prepared images that show pictures of the training, whatever their names are."""
        from casewise.audit.fingerprints import fingerprints, same_pictures
        from casewise.audit.sentences import as_in_table

        files: list[str] = []
        study = table.study
        for new in prepared if self._fingerprints else ():
            cohort = PreparedCohort(study, new.cohort, new.folder, new.store)
            audited, store = modality_of(study).audited(cohort, Silent())
            rows = same_pictures(fingerprints(store), self._fingerprints)
            paths = map(table.without_folder, audited.images["path"].astype(str).iloc[rows])
            files += as_in_table(list(paths), study.root or Path.cwd())
        return files

    def _predicted(
        self, ensemble: Ensemble, study: Study, new: new_cases.NewCases, abstain: bool, batch: Batch | None
    ) -> pd.DataFrame:
        """The table of prepared cases."""
        import pandas as pd

        rows, images = ensemble.predict(study, new), new.cohort.images
        paths = images.set_index(images["image"].astype(str))["path"].astype(str)
        rows = rows.assign(image=rows["image"].where(rows["image"] == "", rows["image"].map(paths)))
        if self.limits:
            unit = "image" if new_cases.predicts_single_images(study) else "case"
            by = "path" if unit == "image" else "case"
            flags = input_checks.case_flags(self.limits, new, self.look, batch, by=by, slots=slots_of(study))
            rows = rows.assign(flags=rows[unit].astype(str).map(flags).fillna(""))
        if record := ensemble.covariates:
            reasons = flags_of(record, ensemble.covariate_cells(images))
            flags = rows["flags"] if "flags" in rows else pd.Series("", index=rows.index)
            reads = rows["model"].isin(list(record["models"]))
            units = zip(rows["case"].astype(str), flags, reads, strict=True)
            texts = [joined([*reasons_of(f), *(reasons[case] if own else ())]) for case, f, own in units]
            rows = rows.assign(flags=texts)
        output = self.table
        return output.abstaining(output.of_rows(rows)) if abstain else output.of_rows(rows)

    def drift(self, batch: Batch, repeats: float = 1) -> Drift:
        """Whether new cases together differ from the training cases, from the numbers of their images."""
        quantiles, trained = (self.limits.quantiles, self.limits.subjects) if self.limits else ({}, 0)
        return drift(batch, quantiles, trained, repeats)

    def predict_in_chunks(
        self,
        cases: new_cases.NewInput,
        *,
        learner: str = HEADLINE,
        columns: Mapping[str, str] | None = None,
        root: Path | str | None = None,
        pattern: str = "",
        size: int = case_chunks.ROWS,
        abstain: bool = False,
        source_confirmed: str = "",
        show: Show | None = None,
    ) -> Iterator[case_chunks.PredictedChunk]:
        """Predict new cases in chunks, by subject; each has its `table`, with the columns of `predict`.

        The images are prepared chunk by chunk; the tables follow when all cases are predicted and tested together.

        Args:
            size: the rows of the table in a chunk; the cases of a subject are never divided. Other arguments are those
                of `predict`.

        Raises:
            CasewiseError: the table as a whole cannot be read, such as one without the column of the images.
            RunError: there is no such learner.
        """
        if abstain:
            self.check_abstaining()
        confirmed = confirmation(source_confirmed)
        ensemble = Ensemble(self.members, self.combination, learner)
        with tempfile.TemporaryDirectory() as temporary, (show or Silent()).bar("predict") as bar:
            table, cells = self._table(ensemble, cases, Path(temporary), columns, root, pattern, show or Silent())
            single = new_cases.predicts_single_images(table.study)
            raw_cases, has_visits = (
                case_chunks.cases_of(cells, table.study, single=single),
                names_visits(cells, table.study),
            )
            unit = "images" if single else "cases"
            done, batch, of_training, chunks = 0, Batch(), list[str](), list[case_chunks.PredictedChunk]()
            for chunk in case_chunks.in_chunks(raw_cases, size):
                bar(done, len(raw_cases), f"{done:,} of {len(raw_cases):,} {unit}")
                with tempfile.TemporaryDirectory(dir=temporary) as folder:
                    rows, new = self.predict_together(
                        ensemble, table, cells, chunk, Path(folder), batch, abstain=abstain
                    )
                    of_training += self._of_training(table, new)
                done += len(chunk)
                sources = case_chunks.sources_of(chunk, cells, table.study)
                chunks.append(case_chunks.PredictedChunk(rows, sources, has_visits, batch))
            bar(done, len(raw_cases), f"{done:,} of {len(raw_cases):,} {unit}")
            _warn_pictures(of_training)
            tested = replace(self.drift(batch), confirmed=confirmed)
            for predicted in chunks:
                rows = self.table.of_source(predicted.table, tested)
                yield replace(predicted, table=self.table.abstaining(rows) if abstain else rows, drift=tested)

    @on_threads()
    def predict_together(
        self,
        ensemble: Ensemble,
        table: new_cases.NewTable,
        cells: pd.DataFrame,
        cases: Sequence[case_chunks.RawCase],
        folder: Path,
        batch: Batch | None = None,
        *,
        abstain: bool = False,
    ) -> tuple[pd.DataFrame, list[new_cases.NewCases]]:
        """Prepare some cases of a table in `folder` and predict them; their rows, and the prepared cases.

        A case that cannot be read has rows with the reason as `problem`. The numbers of images are added to `batch`.
        """
        import pandas as pd

        output, (prepared, problems) = self.table, case_chunks.prepare_together(table, cells, cases, folder)
        tables = [self._predicted(ensemble, table.study, new, abstain, batch) for new in prepared]
        answered = {name for predicted in tables for name in predicted["case"]}
        answered |= {case.name for case, _ in problems}
        problems += [(case, case_chunks.LEFT_OUT) for case in cases if case.name not in answered]
        if problems:
            tables.append(output.of_problems(problems, ensemble.learners))
        rows = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
        return rows.assign(**{name: rows[name].map(table.without_folder) for name in ("image", "problem")}), prepared


def _number_of(name: str) -> set[str]:
    """The number of a name of letters and a long number, by which a table may name the same person.

    >>> _number_of("HN0038332"), _number_of("P12")
    ({'38332'}, set())
    """
    match = re.fullmatch(r"[^\W\d_]+[-_ ]?0*(\d{4,})", name)
    return {match[1]} if match else set()


def _warn_pictures(files: Sequence[str]) -> None:
    """Warn that images are pictures of the training."""
    if files:
        log.warning(
            "Pictures of the training, by their fingerprints: %s (%s). The model may know them by heart, whatever "
            "their names are.",
            counted(len(files), "image"),
            names_text(files),
        )


def with_columns(table: new_cases.NewTable, cells: pd.DataFrame, ensemble: Ensemble) -> new_cases.NewTable:
    """A table that is read with the covariates that the learners need.

    Raises:
        CohortError: it lacks one.
    """
    covariates = list(ensemble.covariates.get("columns", ()))
    check_columns(covariates, cells.columns.tolist())
    return replace(table, study=table.study.model_copy(update={"covariates": covariates}))


def load_bundle(path: Path | str, *, trust: Path | str | None = None) -> TrainedModel:
    """Load a bundle (a folder or a zip file), the trained networks of a run folder, or one network's folder.

    Args:
        trust: the file of a public key, with whose private key the bundle must be signed.

    Raises:
        RunError: there is no trained network, a file is missing or was changed, networks of a run are missing or do not
            predict the same, it is a comparison by image, or it is not signed with the trusted key.
    """
    path = Path(path)
    check_model_path(path, None if trust is None else Path(trust))
    if is_archive(path):
        unpacked = tempfile.TemporaryDirectory(prefix="casewise-bundle-")
        return _of_bundle(extract(path, Path(unpacked.name)), path, trust, unpacked)
    if BundleFolder(path).exists():
        BundleFolder(path).verify()
        return _of_bundle(BundleFolder(path), path, trust, None)
    job, run = JobFolder(path), RunFolder(path)
    if job.facts.exists() or job.weights.exists():
        member = Bundle.open(job.path)
        _check((member,), path)
        return TrainedModel(path, (member,), Combination.of_network(job, member))
    run.bundle.verify()
    return _of_bundle(run.bundle, path, None, None)


def _of_bundle(
    folder: BundleFolder, path: Path, trust: Path | str | None, unpacked: tempfile.TemporaryDirectory[str] | None
) -> TrainedModel:
    """The model of a bundle whose files match its manifest."""
    if trust is not None:
        check_signature(folder, path, Path(trust))
    about = folder.about()
    try:
        folders = [folder.member(entry["learner"], entry["fold"]) for entry in about["members"]]
        combination = Combination(**about["combination"])
        if wrong := [name for name in ("bands", "display", "response") if not isinstance(about.get(name) or {}, dict)]:
            raise TypeError(f"{wrong[0]} is not an object")
    except (LookupError, TypeError) as error:
        raise RunError(f"{folder.facts.path} is damaged ({error!r}). {folder.facts.remedy}") from error
    members = tuple(Bundle.open(member.path) for member in folders)
    _check(members, path)
    try:
        check_composition(folder, about, members, path)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder.facts.path} is damaged ({error!r}). {folder.facts.remedy}") from error
    limits = _limits(folder.input_checks)
    look = read_look(folder.look, limits.look, len(COMPARED)) if limits and limits.look else None
    model = TrainedModel(path, members, combination, about, folder.card.read(), limits, look, unpacked)
    try:
        model.table.of_rows(combination.rehearsed(members).assign(spread=math.nan))
    except (RunError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{folder.facts.path} is damaged: the field combination does not fit the networks "
            f"({shortened(repr(error))}). {folder.facts.remedy}"
        ) from error
    if model.learners != about["learners"]:
        raise RunError(
            f"{path}: the networks and what combines them are {names_text(model.learners)}, and "
            f"{folder.facts.path.name} states the learners {names_text(about['learners'])}. {folder.facts.remedy}"
        )
    return model


def _limits(file: JsonFile) -> input_checks.Limits | None:
    """The limits by which new cases are flagged; None if there is no file.

    Raises:
        RunError: the file is damaged.
    """
    values = file.read_if_exists()
    try:
        limits = from_json(input_checks.Limits, values) if values else None
        for name, (points, shares) in limits.quantiles.items() if limits else ():
            if name.split()[0] not in WORDS or not points or len(points) != len(shares):
                raise ValueError(f"no quantiles of {name[:80]}")
        if limits and limits.subjects < 1:
            raise ValueError("no subjects")
        return limits
    except (ValueError, LookupError) as error:
        raise RunError(f"{file.path} is damaged ({error!r}). {file.remedy}") from error


def _check(members: tuple[Bundle, ...], path: Path) -> None:
    """Refuse networks that do not belong together or come from a comparison by image."""
    if not members:
        raise RunError(f"{path} contains no trained networks.")
    if any(member.origin.get("comparison_only") for member in members):
        raise RunError(
            f"{path} holds a comparison of splits by image: its networks were trained on subjects that they are "
            "tested on. Take the networks of the study itself."
        )
    first = members[0]
    if different := next((member for member in members if _targets(member) != _targets(first)), None):
        raise RunError(f"{different.folder} and {first.folder} do not predict the same targets.")


def _targets(bundle: Bundle) -> list[tuple[object, ...]]:
    return [(output["name"], output["kind"], output["classes"]) for output in bundle.outputs]
