"""The steps of a run, each leaving its result in the run folder for the next one and for other tools."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from casewise import predictions as predicted
from casewise import slides, tuned
from casewise.audit.findings import Audit
from casewise.audited import check_audit, examined
from casewise.cohort import Cohort, check_copied, read_cohort
from casewise.console import Show
from casewise.errors import CohortError, RunError, StudyError, nearest
from casewise.evaluation import results as evaluation
from casewise.files import write_json, write_parquet
from casewise.images.tiles import tiles_of
from casewise.remarks import environment, guess, headline, hopeless
from casewise.report.wording import counted
from casewise.scores import apply_scores, cases_with_missing_regions, check_scores
from casewise.split import Splits, check_scored, read_splits, write_splits
from casewise.split import split as make_splits
from casewise.split_given import validation_in
from casewise.study import STACKERS, Study
from casewise.tile_predictions import gather
from casewise.truth import study_scores, truth_table

if TYPE_CHECKING:
    from casewise.images.slide_plans import KeptSlide
    from casewise.images.store import TileStore
    from casewise.jobs.expand import Job


def read(study: Study, folder: Path | None, show: Show) -> Cohort:
    """Read the cohort table, cut its slides, and check that the study can be carried through (in this folder)."""
    from casewise.jobs.fingerprint import refuse_other, what_decides
    from casewise.other_cohorts import read_external

    if study.weights_dir and not study.weights_dir.is_dir():
        near = study.weights_dir.parent
        hint = nearest(study.weights_dir.name, [p.name for p in near.iterdir()]) if near.is_dir() else ""
        raise StudyError(f"weights_dir: there is no folder {study.weights_dir}.{hint}")
    cohort = read_cohort(study)
    check_audit(study, cohort.images)
    levels: dict[str, Literal["region", "case"]] = {
        name: "region" if study.level_of(name) == "region" else "case" for name in study.outputs
    }
    check_scores(study_scores(study), targets=levels, regions=study.regions)
    if np.isnan(truth_table(cohort.panels, study)).all():
        raise CohortError(
            f"{study.cohort}: no case has any of {', '.join(study.outputs)} recorded: there is nothing to learn. "
            "Fill in the target columns."
        )
    for name, values in zip(study.outputs, truth_table(cohort.panels, study).T, strict=True):
        if np.nanmin(values) == np.nanmax(values):
            raise CohortError(f"{study.cohort}: {name} is {np.nanmin(values):g} everywhere: there is nothing to learn.")
    external = read_external(study, cohort) if study.external else None
    cohort = slides.cut(study, cohort, folder / slides.FOLDER if folder else None, show)
    if study.volumes:
        from casewise.volumes.cases import counted as counted_scans
        from casewise.volumes.cases import settle_sequences

        cohort = settle_sequences(study, cohort)
    check_copied(study, cohort.panels)
    if study.recipe.phases:
        from casewise.jobs.networks import check_freeze_points

        check_freeze_points(study)
    if folder:
        refuse_other(folder, what_decides(study, cohort))
    parts = [
        f"{cohort.cases['subject'].nunique():,} subjects",
        f"{len(cohort.cases):,} cases",
        counted_scans(study, cohort) if study.volumes else slides.counted(cohort),
    ]
    if study.regions:
        parts.append(f"{len(study.regions)} regions")
    show.line("cohort", ", ".join(parts) + (" (synthetic)" if study.synthetic else ""))
    for note in cohort.notes:
        show.line("", note)
    if external and not folder:  # a run tells of it once its images are read
        other, elsewhere = external
        people, images = elsewhere.cases["subject"].nunique(), len(elsewhere.images)
        show.line("external", f"{other.name}: {people:,} subjects, {images:,} images, to be tested on")
    return cohort


def prepare(study: Study, cohort: Cohort, folder: Path, show: Show) -> TileStore:
    """Decode every image and every tile of a slide once into the tile store; of volumes, prepare the slices."""
    if study.volumes:
        from casewise.volumes.preparation import slices_and_pictures

        return slices_and_pictures(study, cohort, folder, show)
    slides.sweep(study, cohort, folder / slides.FOLDER)
    return tiles_of(study, cohort, study.images.store or folder / "tiles", show)


def split(study: Study, cohort: Cohort, folder: Path, show: Show) -> Splits:
    """Split by subject, or take the run's own manifest after checking that it still fits."""
    path = folder / "splits.json"
    # By slides and not by tiles: who is tested on must not depend on how finely slides are cut.
    whole = slides.uncut(study, cohort)
    splits = make_splits(whole, study)
    check_scored(splits, whole.panels, study)
    if path.is_file():
        before = read_splits(path)
        if before.hash != splits.hash and any((folder / "jobs").glob("*/*/job.json")):
            raise RunError(
                f"{folder} was split differently: {_why_split(study, folder)}. "
                "Networks of two splits must not be mixed. Give another folder with --out."
            )
    write_splits(splits, path)
    tested = splits.record["imbalance"]["test"]
    guide = splits.record["balance"]
    n = splits.record["n"]
    sides = f"{n['test']['subjects']} subjects for the test, " if n["test"]["subjects"] else "no test set, "
    told = f", imbalance of {guide} {tested[guide]:.1%}" if guide in tested else ""
    how = f" (best of {study.split.restarts:,})" if splits.record["how"] == "balanced" else " (imported)"
    if study.split.column and validation_in(cohort.images[study.split.column]):
        how = " (imported; validation is trained on)"
    if sources := splits.record.get("left_out"):
        show.line("split", f"each {study.split.leave_out} left out once: {', '.join(sources)}")
    else:
        show.line("split", f"{sides}the others in {splits.folds} folds by subject{told}{how}")
    return splits


def _why_split(study: Study, folder: Path) -> str:
    from casewise.jobs.fingerprint import changed_settings

    found = "; ".join(changed_settings(folder, study, "split"))
    return found or "the cohort's subjects, the seed or the split settings changed since"


def audit(study: Study, cohort: Cohort, tiles: TileStore, splits: Splits, folder: Path, show: Show) -> Audit:
    """Look for one person under two names, for leaks of the split and for shortcuts; stop at errors not accepted.

    Raises:
        AuditError: naming what was found; nothing was trained.
    """
    found = examined(study, cohort, tiles, splits, folder, show)
    show.line("audit", found.verdict_beside(study.accept))
    for note in found.notes(study.accept):
        show.line("", note)
    found.gate(study.accept)
    return found


def train(study: Study, cohort: Cohort, tiles: TileStore, splits: Splits, folder: Path, show: Show) -> pd.DataFrame:
    """Train every backbone on every fold and gather what the networks predict for subjects they never saw."""
    from casewise.jobs.expand import expand
    from casewise.jobs.fingerprint import claim, what_decides, with_images
    from casewise.jobs.local import run_jobs
    from casewise.jobs.network import Material
    from casewise.other_cohorts import apart_from_pretraining, to_pretrain_on, to_test_on

    elsewhere = to_test_on(study, cohort, tiles, folder, show) if study.external else None
    pretraining = to_pretrain_on(study, cohort, tiles, splits, folder, show) if study.pretrain else None
    if elsewhere and pretraining:
        apart_from_pretraining(study, elsewhere, pretraining, folder, show)
    fingerprint = claim(folder, with_images(what_decides(study, cohort), splits, tiles, pretraining), study)
    write_json(folder / "study.json", study.model_dump(mode="json"))
    write_parquet(folder / "cohort.parquet", cohort.images)
    jobs = expand(study, splits, folder, fingerprint)
    begun = time.monotonic()
    material = Material(study, cohort, splits, study.images.store or folder / "tiles", tiles.address, pretraining)
    if study.volumes:
        from casewise.volumes.preparation import SCANS

        material = dataclasses.replace(material, tiles=folder / SCANS)
    with show.bar("jobs") as bar:
        run_jobs(jobs, material, folder, tell=lambda done, text: bar(done, len(jobs), text))
    show.line(
        "jobs",
        f"{len(jobs)} networks ({counted(len(study.networks), study.network_noun)} × {splits.folds} folds), "
        + (f"each after {study.tune.folds * len(study.rates)} inner trainings, " if study.tune else "")
        + f"{time.monotonic() - begun:.0f} s",
    )
    gather(study, jobs, cohort, folder)
    table = pd.concat([pd.read_parquet(job.folder / "predictions.parquet") for job in jobs], ignore_index=True)
    tables = [_placed(table, cohort)]
    if elsewhere:
        tables.append(_elsewhere(elsewhere, jobs, folder, show))
    table = pd.concat(tables, ignore_index=True)
    tested = table[table["stage"] != "oof"]
    means = [predicted.mean_over_folds(tested)] if len(tested) else []
    return predicted.check(pd.concat([table[table["stage"] == "oof"], *means], ignore_index=True))


def _elsewhere(elsewhere: tuple[Study, Cohort, TileStore], jobs: list[Job], folder: Path, show: Show) -> pd.DataFrame:
    """What the trained networks predict on the external cohort."""
    from casewise.jobs.elsewhere import predict_elsewhere

    other, external, store = elsewhere
    with show.bar("external") as bar:
        table = predict_elsewhere(
            jobs, other, external, folder / "tiles-external", store, tell=lambda done: bar(done, len(jobs))
        )
    return _placed(table, external)


def _placed(table: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """Put in days and paths as the table has them now; jobs may have been trained before they were mended."""
    paths = cohort.images.set_index(cohort.images["image"].astype(str))["path"].astype(str)
    days = cohort.cases.set_index("case")["day"]
    image = table["image"].where(table["image"] == "", table["image"].map(paths))
    return table.assign(day=table["case"].map(days), image=image)


def stack(study: Study, predictions: pd.DataFrame, folder: Path, show: Show) -> pd.DataFrame:
    """Combine the base learners by the study's stackers, and put together what was chosen within each fold."""
    from casewise.stacking import stack as fit_stackers

    nested = _chosen_inside(study, predictions, folder, show)
    if not study.stack or len(study.networks) < 2:
        write_json(folder / "stackers.json", {})
        if study.stack:
            show.line("stack", "left out: one backbone alone is not combined")
        return pd.concat([predictions, *nested], ignore_index=True)
    ranges = {name: study.range_of(name) for name in study.outputs}
    stacked = fit_stackers(predictions, study.stack, ranges=ranges)
    write_json(folder / "stackers.json", stacked.coefficients)
    show.line("stack", ", ".join(STACKERS[name] for name in study.stack))
    return pd.concat([predictions, stacked.rows, *nested], ignore_index=True)


def _chosen_inside(study: Study, predictions: pd.DataFrame, folder: Path, show: Show) -> list[pd.DataFrame]:
    """The rows of the learner whose network inner folds chose; nothing where the study asks for none."""
    path = folder / tuned.FILE
    if not (study.tune and study.tune.among and len(study.networks) > 1):
        path.unlink(missing_ok=True)
        return []
    chosen = tuned.chosen_networks(_records(folder), study.networks)
    write_json(path, chosen)
    names = [told["network"] for told in chosen["folds"].values()]
    show.line("nested", ", ".join(f"{name} in {names.count(name)}" for name in dict.fromkeys(names)) + " folds")
    return [tuned.nested_rows(predictions, chosen)]


def _records(folder: Path) -> list[dict[str, Any]]:
    """What the jobs tell of themselves."""
    return [json.loads(path.read_text()) for path in sorted((folder / "jobs").glob("*/*/job.json"))]


def score(study: Study, predictions: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Work out the clinical scores and write `predictions.parquet`."""
    scores = study_scores(study)
    table = predicted.check(
        apply_scores(predictions, scores, missing_regions=study.missing_regions, regions=study.regions)
    )
    predicted.write(folder / "predictions.parquet", table)
    return table


def evaluate(study: Study, cohort: Cohort, predictions: pd.DataFrame, folder: Path, show: Show) -> dict[str, Any]:
    """Judge every learner on every target with intervals by subject, and write `metrics.json`."""
    from casewise.evaluation.classed import one_class_notes
    from casewise.evaluation.elsewhere import one_class_by_source
    from casewise.evaluation.headline import headline_inside, headline_within
    from casewise.evaluation.over_folds import over_folds

    settings = study.evaluation
    begun = time.monotonic()
    names = [*study.outputs, *study.scores]
    classed = {name: study.classes_of(name) for name in names if study.classes_of(name)}
    found = evaluation.evaluate(
        predictions,
        targets={name: study.range_of(name) for name in names if name in set(predictions["target"])},
        main=study.outcome,
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=study.seed,
        bands=settings.bands or None,
        baseline=settings.baseline if settings.response else None,
        responders=tuple(settings.responders),
        readers=readers_table(study, cohort),
        subjects_known=study.subjects_known,
        classes=classed,
        positive={name: first for name in names if (first := study.positive_of(name)) is not None},
        sensitivities=tuple(settings.sensitivities),
    )
    for name, cases in cases_with_missing_regions(predictions, study_scores(study)).items():
        if cases and study.missing_regions == "allow":
            found["notes"].append(
                f"{name}: {len(cases)} cases lack a region; it is taken as the mean of the regions that are there. "
                "They are predicted, but not judged, since their recorded score is unknown."
            )
    classes = study.classes_of(study.outcome)
    found |= _other_patients(study, predictions, folder)
    if found.get("left_out"):
        column = study.split.leave_out or "source"
        found["main"] = headline_within(found["main"], found["metrics"], found["left_out"], column, found["notes"])
        found["notes"] += one_class_by_source(found["left_out"], study.level_of(study.outcome))
    if tuned.NESTED in set(predictions["model"]):
        found["main"] = headline_inside(found["main"], found["metrics"], tuned.NESTED, found["notes"])
    found["over_folds"] = evaluation.plain(over_folds(predictions, names, classed))
    nouns = {name: study.level_of(name) for name in names if study.classes_of(name)}
    found["notes"] += one_class_notes(found["classes"], nouns)
    found["notes"] += [note] if (note := found.pop("drop_note", "")) else []
    found["notes"] += [*guess(predictions, study.outcome, classes), *hopeless(study, folder)]
    write_json(folder / "metrics.json", found)
    show.line(
        "evaluate",
        f"{counted(predictions['model'].nunique(), 'learner')}, {settings.resamples:,} resamples of subjects, "
        f"{time.monotonic() - begun:.0f} s",
    )
    return found


def _other_patients(study: Study, predictions: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """What is lost on the external cohort, and the figures of each source that was left out of training."""
    from casewise.evaluation.bootstrap import Plan
    from casewise.evaluation.elsewhere import by_source, drop, within_sources

    target, settings = study.outcome, study.evaluation
    plan = Plan(settings.resamples, settings.confidence, study.seed)
    classes, positive = study.classes_of(target), study.positive_of(target)
    found: dict[str, Any] = {}
    if study.external:
        found["external_drop"] = drop(predictions, target, classes=classes, positive=positive, plan=plan)
        inside = {f["internal_stage"] for told in found["external_drop"].values() for f in told.values()}
        if "oof" in inside:
            found["drop_note"] = (
                "The external cohort is predicted by the mean of all folds' networks, cases out of fold by one network "
                "each: the drop is somewhat larger than it looks."
            )
    splits = json.loads((folder / "splits.json").read_text())
    if names := splits.get("left_out"):
        folds = sorted((side, subject) for subject, side in splits["subjects"].items() if side != "test")
        sources = {subject: names[side - 1] for side, subject in folds}
        found["left_out"] = by_source(predictions, target, sources, classes=classes, positive=positive, plan=plan)
        found["within"] = within_sources(found["left_out"])
    return evaluation.plain(found)


def readers_table(study: Study, cohort: Cohort) -> pd.DataFrame | None:
    """What each reader recorded: case, target, reader, value; None where the study names no readers."""
    tables = []
    for target, columns in study.evaluation.readers.items():
        for reader, column in columns.items():
            values = pd.to_numeric(cohort.images[column], errors="coerce")
            means = values.groupby(cohort.images["case"]).mean().dropna()
            tables.append(
                pd.DataFrame({"case": means.index, "target": target, "reader": reader, "value": means.to_numpy()})
            )
    return pd.concat(tables, ignore_index=True) if tables else None


def report(
    study: Study,
    cohort: Cohort,
    predictions: pd.DataFrame,
    results: dict[str, Any],
    tiles: TileStore,
    folder: Path,
    show: Show,
) -> Path:
    """Write the HTML report."""
    from casewise.images.readers import read_image
    from casewise.report.explained import read_explanations
    from casewise.report.material import Material, no_grids
    from casewise.report.page import write_report

    jobs = [record for record in _records(folder) if record["model"] in study.networks]
    paths = cohort.images.set_index("image")["path"]
    whole = set(cohort.images.loc[cohort.images["tile_side"] >= 0, "path"]) if slides.is_cut(cohort) else set()
    single = folder / "tiles.parquet"

    def slide(path: str) -> KeptSlide | None:
        return slides.slide_of(study, path, folder / slides.FOLDER) if path in whole else None

    def photograph(image: int) -> np.ndarray | None:
        if study.volumes:
            return np.repeat(tiles.tiles[image].transpose(1, 2, 0), 3, axis=2)  # the middle slice of a scan
        shown = slide(str(paths[image]))
        return shown.read_picture() if shown else read_image(Path(paths[image]), size=900)

    checked = folder / "audit.json"
    material = Material(
        study=study,
        audit=json.loads(checked.read_text()) if checked.is_file() else None,
        cohort_images=cohort.images,
        panels=cohort.panels,
        cases=cohort.cases,
        notes=[*cohort.notes, *results["notes"]],
        splits=json.loads((folder / "splits.json").read_text()),
        predictions=predictions,
        metrics=results,
        jobs=jobs,
        stackers=json.loads((folder / "stackers.json").read_text()),
        tiles=lambda numbers: np.asarray(tiles.tiles[numbers]),
        photograph=photograph,
        environment=environment(sum(job["seconds"] for job in jobs)),
        slide=slide,
        tile_predictions=pd.read_parquet(single) if single.is_file() else None,
        grids=_grids(study, cohort, folder) if study.volumes else no_grids,
        explanations=read_explanations(folder),
    )
    path = write_report(material, folder / "report.html")
    sentence = headline(study, results)
    if sentence:
        show.line("result", sentence)
    return path


def _grids(study: Study, cohort: Cohort, folder: Path) -> Callable[[str], list[tuple[str, np.ndarray]]]:
    """From a case to its central panel by sequence, as networks of its fold (on the test set the first's) see it."""
    from casewise.jobs.fitted import fitted_rows
    from casewise.volumes.preparation import SCANS
    from casewise.volumes.shown import central_panels
    from casewise.volumes.slice_store import open_slices

    slices, splits = open_slices(folder / SCANS), read_splits(folder / "splits.json")
    rows = {str(case): row for row, case in enumerate(cohort.panels["case"])}
    fitted: dict[int, Any] = {}

    def grids(case: str) -> list[tuple[str, np.ndarray]]:
        fold = max(0, splits.side[str(cohort.panels["subject"].iloc[rows[case]])])
        if fold not in fitted:
            fitted[fold] = fitted_rows(study, cohort.panels, splits, fold)
        return central_panels(study, slices, rows[case], fitted[fold])

    return grids
