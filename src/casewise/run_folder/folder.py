"""The folder of a run: every file and folder in it, its lock, and the removal of temporary files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from casewise.errors import RunError, counted, nearest_folder, none_of
from casewise.files import (
    MOMENT,
    TEMPORARY,
    check_folder,
    checksum,
    is_locked,
    make_folder,
    replacing,
    storage_failures,
)
from casewise.run_folder.artefact import Artefact, JsonFile, Part, TableFile, TextFile, WeightsFile
from casewise.run_folder.bundle_folder import BundleFolder, is_archive, public_key, remove_leftovers, stated_facts
from casewise.run_folder.job_folder import FINAL, LOCK, JobFolder

# The file that marks a folder of explanations before it has a table.
EXPLANATIONS_MARK = ".explanations"
# What `--learner` may say instead of the name of a learner.
HEADLINE, NETWORKS, ALL_LEARNERS = "headline", "networks", "all"


@dataclass(frozen=True)
class ExplanationFolder:
    """The folder of pictures, volumes and tables of `casewise explain`, in the run folder or outside it."""

    path: Path

    # One row for each picture or volume.
    table = Part(TableFile, "explanations.parquet")
    # Agreement of maps and lesion masks, one row for each case and network.
    measurements = Part(TableFile, "measured.parquet")

    def check(self) -> None:
        """Check that the folder is new, empty, or one of explanations.

        Raises:
            RunError: it has other files.
        """
        check_folder(self.path, {self.table.path.name, EXPLANATIONS_MARK}, "the folder of explanations")

    def begin(self) -> None:
        """Check the folder, and mark it as one of explanations before it has a table."""
        self.check()
        make_folder(self.path)
        (self.path / EXPLANATIONS_MARK).touch()


@dataclass(frozen=True)
class ImageFolder:
    """The folders of a cohort's prepared images: in `root`, each with the cohort's suffix.

    Attributes:
        suffix: empty for the study's own cohort.
        tiles: the folder of the tile store if it is not in `root`.

    >>> ImageFolder(Path("run")).of("tiles").as_posix(), ImageFolder(Path("run"), "external").of("tiles").as_posix()
    ('run/tiles', 'run/tiles-external')
    """

    root: Path
    suffix: str = ""
    tiles: Path | None = None

    def of(self, name: str) -> Path:
        """The folder for one purpose of the modality, such as `tiles`."""
        if name == "tiles" and self.tiles:
            return self.tiles
        return self.root / (f"{name}-{self.suffix}" if self.suffix else name)


@dataclass(frozen=True)
class RunFolder:
    """A run folder. Files have `write`, `read` (verified) and, for JSON, `read_or_none`; folders are paths.

    Attributes:
        images_of: the run folder whose prepared images are used; None for its own.
    """

    path: Path
    images_of: Path | None = None

    def __fspath__(self) -> str:
        """The path, for functions that expect one."""
        return os.fspath(self.path)

    # Inputs.

    # Every setting in force.
    study = Part(JsonFile, "study.json")
    # The cohort table as read, one row for each image.
    cohort = Part(TableFile, "cohort.parquet")
    # The table of the external cohort as read, one row for each image, with the names of its predictions.
    external_cohort = Part(TableFile, "external-cohort.parquet")
    # The fold of every subject, or the test set.
    splits = Part(JsonFile, "splits.json", required=("hash", "folds", "subjects"))
    # The findings of the audit.
    audit = Part(JsonFile, "audit.json")

    # The findings of the audit with the pictures of its pairs.
    audit_page = Part(Path, "audit.html")
    # Panels of some training cases as networks see them.
    panels_page = Part(Path, "look.html")

    # All inputs that determine the networks.
    fingerprint = Part(JsonFile, "fingerprint.json", required=("fingerprint", "decided"))
    # For each network, its precision, memory format and threads on this machine.
    compute = Part(JsonFile, "compute.json")
    # The recipe that was planned for the study, and what it depends on.
    recipe_plan = Part(JsonFile, "plan.json", required=("facts", "recipe"))
    # The planned recipe in words and as lines of a study file.
    plan_page = Part(TextFile, "plan.yaml")
    # Versions, processor and cores of the computer that evaluated the run last.
    environment = Part(JsonFile, "environment.json")
    # Of a run that repeats another one: which, and what of both is the same.
    reproduction = Part(JsonFile, "reproduction.json", "Run `casewise reproduce` again.", required=("run", "finished"))
    # For people. It has no checksum, since it is written while networks train.

    # The losses of every network by epoch.
    training_table_path = Part(Path, "training.csv")

    # Results.

    # The networks that could not be trained, with the reason for each fold: they have no part in the results.
    left_out = Part(JsonFile, "left-out.json", required=("networks",))
    # The coefficients of the stackers.
    stackers = Part(JsonFile, "stackers.json")
    # The coefficients of the models of covariates, and the image model that one of them joins.
    covariates = Part(JsonFile, "covariates.json", required=("images", "columns", "models"))
    # The rule by which each grade is decided, with the thresholds of every learner.
    decisions = Part(JsonFile, "decisions.json")
    # The quantiles of every learner and target for prediction intervals and sets.
    conformal = Part(JsonFile, "conformal.json", required=("level", "fewest", "learners"))
    # The limits by which new cases are flagged.
    input_checks = Part(JsonFile, "input-checks.json", required=("ranges",))
    # What the look of new cases is compared with.
    look = Part(WeightsFile, "look.safetensors")
    # The network that inner folds chose for each fold.
    nested = Part(JsonFile, "nested.json", required=("folds",))
    # All predictions.
    predictions = Part(TableFile, "predictions.parquet")
    # Predictions of single tiles or windows.
    tile_predictions = Part(TableFile, "tiles.parquet")
    # All metrics.
    metrics = Part(JsonFile, "metrics.json", required=("metrics", "notes"))
    # Predictions of held-out cases with altered images.
    counterfactuals = Part(TableFile, "counterfactuals.parquet")
    # How well simple features tell the external cohort from the study's own.
    cohort_difference = Part(JsonFile, "cohort-difference.json", required=("subjects", "tests"))
    # The cases shown and the measurements of `casewise explain`.
    explanations = Part(JsonFile, "explanations.json", "Run `casewise explain` again.")

    # The report; it is made from the metrics, by their checksum.
    report = Part(TextFile, "report.html")

    # The trained networks with everything needed to use them elsewhere.
    bundle = Part(BundleFolder, "bundle")

    # The folder of explanations by default.
    explanation_folder = Part(ExplanationFolder, "explanations")

    # Prepared images; modalities name the files in these folders.

    def images(self, store: Path | None = None, cohort: str = "") -> ImageFolder:
        """The folders of prepared images of a cohort: empty, the study's own, `external` or `pretraining`.

        Args:
            store: the study's folder for its own tiles, if any.
        """
        return ImageFolder(self.images_of or self.path, cohort, store)

    def cohort_twins(self, first: str, second: str) -> JsonFile:
        """The pictures that two cohorts share, which are stored with the images."""
        return JsonFile((self.images_of or self.path) / f"cohort-twins-{first}-{second}.json", required=("pairs",))

    def seed(self, seed: int) -> RunFolder:
        """The run folder of the same study trained with another seed, on the images of this run."""
        return RunFolder(self.path / "seeds" / str(seed), images_of=self.path)

    @property
    def known_sources(self) -> RunFolder:
        """The run folder of the same study split by subject, so that models have seen each source."""
        return RunFolder(self.path / "known-sources", images_of=self.path)

    # The comparison by image.

    @property
    def image_split(self) -> RunFolder:
        """The run folder of the same study split by image."""
        return RunFolder(self.path / "by-image")

    # Exists if the folder is a comparison by image and not a study.
    image_split_mark = Part(JsonFile, "comparison.json")

    def refuse_image_split(self) -> None:
        """Refuse a folder with the comparison by image.

        Raises:
            RunError: names the run that the comparison belongs to.
        """
        if self.image_split_mark.exists():
            run = self.path.resolve().parent
            raise RunError(
                f"{self.path} contains the comparison by image of the run {run}. Its networks were trained on the "
                f"subjects that they are tested on, so it has no separate page. Give {run} instead; its page shows "
                "both."
            )

    # Networks.

    # The folder of all networks.
    jobs_folder = Part(Path, "jobs")

    def job(self, network: str, fold: int) -> JobFolder:
        """The folder of a network; `fold` from 0."""
        return JobFolder(self.jobs_folder / network.replace(":", "_").replace("/", "_") / f"fold{fold + 1}")

    def final_job(self, network: str) -> JobFolder:
        """The folder of a network that is trained on all folds."""
        return JobFolder(self.job(network, 0).path.with_name(FINAL))

    def has_networks(self) -> bool:
        """Whether any job has a record or weights, verified or not."""
        job = JobFolder(Path())
        return any(any(self.jobs_folder.glob(f"*/*/{file.path.name}")) for file in (job.record, job.weights))

    def finished_jobs(self, network: str = "") -> list[JobFolder]:
        """The jobs that have a record, by network and number of the fold; by default of all networks."""
        name = JobFolder(Path()).record.path.name
        folder = self.job(network, 0).path.parent.name if network else "*"
        folders = [path.parent for path in self.jobs_folder.glob(f"{folder}/fold*/{name}")]
        return [JobFolder(path) for path in sorted(folders, key=lambda p: (p.parent.name, len(p.name), p.name))]

    def job_records(self, networks: Sequence[str]) -> list[dict[str, Any]]:
        """The verified records of the finished networks among `networks`; earlier ones of the folder are left out.

        Raises:
            DamagedError: a record has changed since it was written.
        """
        return [job.record.read() for network in sorted(networks) for job in self.finished_jobs(network)]

    def weights_sha256(self, networks: Iterable[str]) -> dict[str, list[str]]:
        """For each network, the checksums of its finished trained weights, fold by fold, as its facts record them.

        Raises:
            DamagedError: facts have changed since they were written.
        """
        return {
            network: [job.weights_sha256() for job in self.finished_jobs(network) if job.facts.exists()]
            for network in networks
        }

    def has_weights(self, recorded: Mapping[str, list[str]] | None) -> bool:
        """Whether the networks still have the weights of an earlier `weights_sha256`; False if none is recorded."""
        try:
            return bool(recorded) and self.weights_sha256(recorded or ()) == recorded
        except RunError:
            return False

    # The folder itself.

    def evaluated_files(self, learners: Iterable[str] = ()) -> dict[str, str]:
        """The checksums of all parts of a run, by their names in the folder; `metrics.json` keeps them as `made_from`.

        Files that measure time differ between equal runs, so they are left out: a network is represented by its facts.
        """
        parts = [self.study, self.cohort, self.splits, self.audit, self.fingerprint, self.recipe_plan, self.left_out]
        parts += [self.external_cohort, self.cohort_difference, self.counterfactuals, self.tile_predictions]
        parts += [self.stackers, self.covariates, self.nested, self.decisions, self.conformal, self.input_checks]
        parts.append(self.predictions)
        for name in learners:
            parts += [job.facts for job in (*self.finished_jobs(name), self.final_job(name)) if job.record.exists()]
        return {
            artefact.path.relative_to(self.path).as_posix(): checksum(artefact.path)
            for artefact in parts
            if artefact.exists()
        }

    @property
    def _marker_names(self) -> set[str]:
        """File names that mark a folder as a casewise run."""
        files = (self.study, self.cohort, self.audit, self.predictions, self.metrics, self.image_split_mark)
        return {LOCK, self.jobs_folder.name, self.explanation_folder.path.name, *(file.path.name for file in files)}

    def is_own(self) -> bool:
        """Whether casewise has worked in the folder."""
        return any((self.path / name).exists() for name in self._marker_names)

    @property
    def continuing(self) -> str:
        """The command that continues the run; it names the stored study if there is one."""
        name = str((self.study.peek() or {}).get("name", ""))
        output = "" if self.path == Path("runs") / name else f" --output {quote(str(self.path))}"
        file = f"the file of the study {name!r}" if name else "its study file"
        return f"`casewise run STUDY{output}`, where STUDY is {file}"

    def stopped_by_audit(self) -> str:
        """The errors of the stored audit that the study did not accept, and what to do; empty if there are none."""
        audit = self.audit.peek() or {"findings": [], "accepted": {}}
        errors = {finding["id"]: 0 for finding in audit["findings"] if finding["level"] == "error"}
        if not (codes := [code for code in errors if code not in audit["accepted"]]):
            return ""
        return (
            f"nothing is trained, because the audit found {counted(len(codes), 'error')} ({', '.join(codes)}). "
            f"{self.audit_page} says what to correct; what cannot be corrected can be accepted in the study, with the "
            "reason. Then run it again."
        )

    def check_own(self) -> None:
        """Check that the folder is new, empty, or one that casewise has worked in.

        Raises:
            RunError: it has other files.
        """
        check_folder(self.path, self._marker_names, "a run folder")

    def check_exists(self) -> None:
        """Check that there is such a folder.

        Raises:
            RunError: there is none, or it is a file or a bundle; the message has the nearest name in its folder.
        """
        what = "a bundle" if BundleFolder(self.path).exists() else ""
        if self.path.is_file():
            what = "a study file" if self.path.suffix.casefold() in (".yaml", ".yml") else "a file"
        if what:
            raise RunError(f"{self.path} is {what}, not a run folder. Give the folder that `casewise run` wrote.")
        if not self.path.is_dir():
            raise RunError(f"There is no run folder {self.path}.{nearest_folder(self.path)}")

    def check_finished(self) -> None:
        """Check that the folder contains a finished run with all parts that its metrics were computed from.

        Raises:
            RunError: naming what is missing or has changed; or it is the comparison by image of a run.
            DamagedError: a part is not what was written.
        """
        self.check_exists()
        self.refuse_image_split()
        needed = (self.study, self.splits, self.predictions, self.metrics, self.fingerprint)
        if missing := next((file.path.name for file in needed if not file.exists()), None):
            inside = sorted(path.parent.name for path in self.path.glob(f"*/{self.metrics.path.name}"))
            remedy = "Finish it with `casewise run` first."
            if not self.fingerprint.exists() and not self.at_work() and (stopped := self.stopped_by_audit()):
                raise RunError(f"{self.path} holds no finished run: {stopped}")
            if not self.is_own():
                remedy = "Give the folder that `casewise run` wrote."
            if inside and not self.is_own():
                remedy = f"Name one of the folders in it: {', '.join(inside[:12])}{', …' if len(inside) > 12 else ''}."
            raise RunError(f"{self.path} holds no finished run: {missing} is missing. {remedy}")
        recorded = dict.fromkeys((self.study.path.name, self.predictions.path.name), "")
        recorded |= self.metrics.read().get("made_from") or {}
        parts = {name: Artefact(self.path / name) for name in recorded}
        changed = [name for name, part in parts.items() if not (part.exists() and part.matches([recorded[name]]))]
        for artefact in (self.splits, self.fingerprint, *(parts[name] for name in changed)):
            artefact.verify()
        if changed:
            raise RunError(
                f"{self.path} holds no finished run: {self.metrics.path.name} was computed before the present "
                f"{' and '.join(changed)}. Finish the run with `casewise run` first."
            )
        for part in parts.values():
            if (job := JobFolder(part.path.parent)).facts.path == part.path:
                job.record.verify()

    def check_reported(self) -> None:
        """Check that the run's report is here and shows the present metrics.

        Raises:
            RunError: it is missing, or shows other metrics.
        """
        if self.report.made_from() != checksum(self.metrics.path):
            raise RunError(
                f"{self.path} holds no finished run: {self.report.path.name} is missing, or was not made from the "
                f"present {self.metrics.path.name}. Finish it with `casewise run`."
            )

    def at_work(self) -> bool | None:
        """Whether a process works in this folder; None if it cannot be told."""
        return is_locked(self.path / LOCK)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder until the block or the process ends, and remove temporary files of killed processes.

        Raises:
            RunError: another run is working there, the folder has only other files, or it cannot be written.
        """
        from filelock import FileLock, Timeout

        self.check_own()
        try:
            make_folder(self.path)
            # a process that asks for the status holds the lock for a moment
            lock = FileLock(self.path / LOCK, timeout=MOMENT)
            lock.acquire()
        except Timeout:
            raise RunError(
                f"Another run is working in {self.path}. Wait for it, stop it, or choose another folder with --output."
            ) from None
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise RunError(f"{self.path} cannot be written: {reason}. Choose another folder with --output.") from error
        try:
            with storage_failures(self.path):
                self._sweep()
                yield
        finally:
            with suppress(OSError):  # the folder may have vanished
                lock.release()

    def _sweep(self) -> None:
        """Remove what killed processes left behind; unfinished jobs sweep their folders under their own locks."""
        remove_leftovers(self.bundle.path)
        folders = [self, self.image_split, self.known_sources, *map(RunFolder, sorted(self.path.glob("seeds/*")))]
        record = JobFolder(Path()).record.path.name
        for path in [path for folder in folders for path in folder.jobs_folder.glob(f"*/*/{record}")]:
            job = JobFolder(path.parent)
            if any(job.path.glob("sta[gt]e*")) and job.at_work():
                continue
            # a process on another machine may be doing the same; what remains takes space and does no harm
            with suppress(OSError):
                job.remove_training()  # the process was killed after it had written the record
                job.sweep()
        in_jobs = {folder.jobs_folder for folder in folders}
        for path in self.path.rglob(f"{TEMPORARY}*"):
            if not in_jobs & set(path.parents):
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def check_model_path(path: Path, trust: Path | None = None, learners: Iterable[str] = ()) -> Mapping[str, Any]:
    """Check that a path has a bundle, a run or a network; its files are checked when it is loaded, which needs torch.

    Args:
        trust: the file of a public key that a bundle must be signed for.
        learners: names that it must have, as far as it can be told before it is loaded.

    Returns:
        The facts that the bundle states about itself, unchecked; {} for a single network.

    Raises:
        RunError: it has none of them, no such learner, or is not a bundle, and only bundles are signed; or a run has no
            bundle of its present results.
        CasewiseError: the file of the key holds no public key.
    """
    if path.is_file() and not is_archive(path):
        raise RunError(f"{path} is a file, and neither a bundle as `casewise bundle` writes it nor a run folder.")
    if not path.exists():
        raise RunError(f"There is no bundle or run folder {path}.{nearest_folder(path, or_file=True)}")
    if trust is not None:
        public_key(trust)
    run, job = RunFolder(path), JobFolder(path)
    is_bundle = path.is_file() or BundleFolder(path).exists()
    if not is_bundle and trust is not None:
        raise RunError(f"--trust: {path} is not a bundle, and only bundles are signed. Give one, or leave out --trust.")
    if not is_bundle and BundleFolder(path).facts.exists():
        raise RunError(f"{path} is a bundle without its manifest. Copy the whole bundle again from where it was made.")
    if not (is_bundle or job.facts.exists() or job.weights.exists()):
        run.check_finished()
        made_from = run.bundle.provenance.read()["files_sha256"] if run.bundle.exists() else {}
        if made_from.get(run.metrics.path.name) != checksum(run.metrics.path):
            raise RunError(f"{path} has no bundle of its present results. Run the study again.")
    facts = stated_facts(path if is_bundle else run.bundle.path)
    check_learners(learners, facts.get("learners", ()))
    return facts


def check_learners(names: Iterable[str], learners: Sequence[str]) -> None:
    """Check names given as `--learner`; without learners, which are not known yet, there is nothing to check.

    Raises:
        RunError: there is no such learner.
    """
    options = [*learners, HEADLINE, NETWORKS, ALL_LEARNERS]
    for name in names if learners else ():
        if name not in options:
            raise RunError(f"--learner: {none_of(name, options)}")


def write_page(path: Path, text: str, ending: str) -> Path:
    """Write a page; an existing file is replaced, but of tables only one whose heading is theirs.

    Raises:
        RunError: as `check_page`; or the file is another table, or cannot be written.
    """
    check_page(path, ending)
    if ending == ".csv" and path.exists() and not path.read_bytes().startswith(text.split("\n", 1)[0].encode()):
        raise RunError(f"{path} exists and holds another table. Choose another file with --output.")
    with replacing(path, unlocked_folder=True) as temporary:
        temporary.write_bytes(text.encode())
    return path


def check_page(path: Path, ending: str, option: str = "--output") -> None:
    """Check the path of a page before it is made; `option` states it.

    Raises:
        RunError: it has another ending, is a folder, or a page of a run.
    """
    owner = RunFolder(path.parent)
    problem = ""
    if path.name in {owner.report.path.name, owner.audit_page.name} and owner.is_own():
        problem = f"is a page of the run in {path.parent}"
    elif path.is_dir():
        problem = "is a folder"
    elif path.suffix.casefold() != ending:
        problem = f"does not end in {ending}, as this page must"
    if problem:
        raise RunError(f"{path} {problem}. Choose another file with {option}, such as page{ending}.")
