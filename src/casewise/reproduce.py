"""Reproducing a finished run: the saved study is run again in a new folder, and compared with the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import CohortError, ImageError, RunError, StudyError, WeightsError, counted, cut
from casewise.files import checksum, parquet_bytes, read_parquet
from casewise.run import run as run_study

if TYPE_CHECKING:
    import pandas as pd

    from casewise.analysis.run import Run
    from casewise.console import Show
    from casewise.modalities.base import ImageStore
    from casewise.pipeline.reproduction import Reproduction
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study

SHOWN = 10


def reproduce(
    run: Run | Path | str,
    output: Path | str | None = None,
    *,
    tolerance: float = 0.0,
    show: Show | bool | None = None,
) -> Reproduction:
    """Run the saved study of a finished run from scratch, with its compute plan, and compare both.

    The comparison is in `reproduction.json` of the new folder. An interrupted reproduction is continued.

    Args:
        run: a finished run, or its folder.
        output: a new folder; by default that of the run with `-reproduced` at the end of its name.
        tolerance: the largest absolute difference of a predicted value or probability that counts as equal.
        show: where progress is reported, as in `run`.

    Raises:
        CasewiseError: the run is not finished, its table, images or first weights are missing or have changed, or
            `output` has other files.
    """
    from casewise.console import shown_at
    from casewise.pipeline.reproduction import Reproduction, compared
    from casewise.run_folder import RunFolder
    from casewise.study.loading import saved_study

    if not 0 <= tolerance < float("inf"):
        raise StudyError(f"The tolerance must be a number of at least 0, not {cut(tolerance)}.")
    source = RunFolder(Path(run) if isinstance(run, (str, Path)) else run.folder)
    source.check_exists()
    source.refuse_image_split()
    source.check_finished()
    study = _again(saved_study(source.study.read(), source=str(source.study.path)), source)
    target = RunFolder(Path(output or source.path.resolve().with_name(f"{source.path.resolve().name}-reproduced")))
    mark = {"run": str(source.path.resolve()), "predictions_sha256": checksum(source.predictions.path)}
    _check_target(source, target, mark)
    show = shown_at(show)
    with target.lock():
        target.reproduction.write({**mark, "finished": False})
        _check_inputs(study, source, target, show)
        _repeat_parts(study, source, target)
    run_study(study, target.path, show=show)
    record = {**mark, "finished": True, **compared(source, target, study, tolerance)}
    with target.lock():
        target.reproduction.write(record)
    return Reproduction(target.path, record)


def _again(study: Study, source: RunFolder) -> Study:
    """The study with the compute plan that the run recorded, which prepares its images anew and tells no tracker."""
    from casewise.jobs.compute_plans import recorded_plans
    from casewise.plugin import repeated

    source.compute.read_if_exists()  # a damaged one must not be set aside in another run's folder
    plans = recorded_plans(source, study.learners)  # of baselines, the threads matter
    if missing := [name for name in study.networks if name not in plans]:
        raise RunError(f"{source.compute.path} has no compute plan of {missing[0]}, so it cannot be repeated.")
    compute: dict[str, Any] = {"plan": plans or None}
    if plans:
        compute |= dict.fromkeys(("device", "precision", "memory_format", "threads"), "auto")
    return repeated(study).model_copy(
        update={
            "compute": study.compute.model_copy(update=compute),
            "images": study.images.model_copy(update={"store": None}),
        }
    )


def _repeat_parts(study: Study, source: RunFolder, target: RunFolder) -> None:
    """Compute batches in as many parts as in the run, where its memory did not suffice for whole ones."""
    from casewise.pipeline.train import finished

    for name, fold, job in finished(source, study.learners):
        record = job.record.read()
        again = target.final_job(name) if fold == "all" else target.job(name, int(fold) - 1)
        # an interrupted reproduction may need more parts by now; they count only for a job with the same fingerprint
        if record.get("parts", 1) > 1 and not (again.parts.exists() or again.record.exists()):
            again.parts.write({"parts": record["parts"], "fingerprint": record["fingerprint"]})


def _check_target(source: RunFolder, target: RunFolder, mark: dict[str, str]) -> None:
    """Check that the folder is new, or has an interrupted reproduction of the same run.

    Raises:
        RunError: it is the run's own folder or within it, or has other files.
    """
    paths = source.path.resolve(), target.path.resolve()
    if paths[0] == paths[1] or paths[0] in paths[1].parents:
        raise RunError(f"{target.path} is in the run that is reproduced. Choose another folder with --output.")
    if target.path.exists() and not target.path.is_dir():
        raise RunError(f"{target.path} is a file. Choose a new folder with --output.")
    if not target.path.is_dir() or all(entry.name.startswith(".") for entry in target.path.iterdir()):
        return
    present = target.reproduction.read_if_exists()
    if present is None or {name: present.get(name) for name in mark} != mark:
        raise RunError(
            f"{target.path} holds other files than a reproduction of {source.path}. Choose a new folder with --output."
        )
    if present["finished"]:
        raise RunError(
            f"{target.path} already holds a reproduction of {source.path}; its result is in "
            f"{target.reproduction.path.name}. Remove it to run the study once more, or choose a new folder with "
            "--output."
        )


def _check_inputs(study: Study, source: RunFolder, target: RunFolder, show: Show) -> None:
    """Check that table, first weights and images are those of the run, before anything is trained.

    The images are prepared for this, in the new folder, where the run finds them.

    Raises:
        CohortError, WeightsError, ImageError: naming what has changed.
    """
    from casewise.console import Silent
    from casewise.pipeline.read import plan, prepare, read, split
    from casewise.pipeline.train import weights

    if study.recipe.auto and source.recipe_plan.exists() and not target.recipe_plan.exists():
        # another machine, with other cores, would plan another recipe
        target.recipe_plan.write(source.recipe_plan.read())
    cohort = read(study, target, Silent())
    _check_table(study, source, cohort.images)
    weights(study, target, show)
    _check_weights(study, source)
    splits = split(study, cohort, target, Silent())
    store = prepare(plan(study, cohort, splits, target, Silent()), cohort, target, show)
    _check_images(study, source, store)


def _check_table(study: Study, source: RunFolder, images: pd.DataFrame) -> None:
    """Check that the table has the rows and values that the run read."""
    recorded, present = source.cohort.read(), read_parquet(parquet_bytes(images))
    problems = []
    for names, text in (
        ([name for name in recorded if name not in present], "the column {} is missing"),
        ([name for name in present if name not in recorded], "the column {} is new"),
    ):
        problems += [text.format(cut(name)) for name in names]
    if len(recorded) != len(present):
        problems.append(f"there are {counted(len(present), 'image')}, and the run had {len(recorded):,}")
    else:
        for name in [name for name in recorded if name in present]:
            before, now = recorded[name], present[name]
            for row in (~((before == now) | (before.isna() & now.isna()))).to_numpy().nonzero()[0]:
                case = present["case"].iloc[row]
                problems.append(
                    f"{name} of image {row + 1} (case {case}) was {_cell(before, row)}, is {_cell(now, row)}"
                )
    if problems:
        raise CohortError(_listed(f"{study.cohort} is not the table of {source.path}:", problems))


def _cell(column: pd.Series, row: int) -> str:
    value = column.iloc[row]
    return cut(value.item() if hasattr(value, "item") else value)


def _check_weights(study: Study, source: RunFolder) -> None:
    """Check that every learner starts from the file of first weights that it started from in the run."""
    from casewise.inference.run_members import first_weights_checksum

    problems = []
    for name in study.learners:
        record = next(iter(source.job_records([name])), None)
        before, now = str((record or {}).get("first_weights", "")), first_weights_checksum(study, name)
        if record is not None and before != now:
            problems.append(f"{name}: SHA-256 was {before or 'none'}, is {now or 'none, because the file is missing'}")
    if problems:
        raise WeightsError(_listed(f"First weights are not those of {source.path}:", problems))


def _check_images(study: Study, source: RunFolder, store: ImageStore) -> None:
    """Check that the prepared images are those of the run; files that have changed are named."""
    before = str(source.fingerprint.read()["decided"].get("tiles", ""))
    if before == store.address:
        return
    changed = _changed_files(study, source, store)
    if not changed:
        raise ImageError(
            f"The images are not those of {source.path}: their hash was {before[:12]} and is {store.address[:12]}. "
            "Either files have changed, or this version of casewise or of its libraries prepares them otherwise."
        )
    raise ImageError(_listed(f"{counted(len(changed), 'image')} changed after {source.path} was made:", changed))


def _changed_files(study: Study, source: RunFolder, store: ImageStore) -> list[str]:
    """The files whose content was another one in the run, as far as its store of pictures still says so."""
    from casewise.modalities.store.store import open_store

    try:
        recorded = open_store(source.images(_stated_store(source)).of("tiles")).index
    except RunError:
        return []
    before = dict(zip(recorded["path"].astype(str), recorded["sha256"].astype(str), strict=True))
    now = dict(zip(store.index["path"].astype(str), store.index["sha256"].astype(str), strict=True))
    return [path for path, value in now.items() if before.get(path, "") != value]


def _stated_store(source: RunFolder) -> Path | None:
    """The folder of the run's image store that its study states, if it does."""
    stated = (source.study.read().get("images") or {}).get("store")
    return Path(stated) if stated else None


def _listed(head: str, problems: list[str]) -> str:
    rest = len(problems) - SHOWN
    more = [f"and {rest:,} more"] if rest > 0 else []
    return "\n  ".join([head, *problems[:SHOWN], *more])
