"""The options of `casewise explain`, its `explanations.json`, and whether that still describes the run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from casewise.cohort.table import text_of
from casewise.errors import CasewiseError, CohortError, RunError, none_of
from casewise.modalities.registry import modality_of
from casewise.predictions.stacking import by_weight
from casewise.study.images import WEIGHTED
from casewise.study.learners import name_of_fold
from casewise.study.loading import saved_study

if TYPE_CHECKING:
    import pandas as pd

    from casewise.pipeline.finished import FinishedRun
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study

# Increased when the meaning of the measures changes.
FORM = 3
# A part of `explanations.json`, or a row of a table.
Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class ExplainSettings:
    """The options of `casewise explain`.

    Attributes:
        cases: as `SUBJECT/VISIT`; by default a few that `select_cases` selects.
        networks: by default all of the study.
        output: the folder for pictures and volumes; by default `explanations` in the run folder.
        measure: measure all out-of-fold cases against the masks of lesions, or of the anatomy, that the study names.
        map_size: the least number of cells a side of a CNN's map; 0 for a stride of 16 pixels (see
            `casewise.plugins.explain.methods.gradcam.layer_of`).
    """

    cases: Sequence[str] = ()
    networks: Sequence[str] = ()
    output: Path | None = None
    measure: bool = False
    map_size: int = 0


def _learners_of(run: FinishedRun) -> list[str]:
    """The learners that are explained by default: by their weights in the reported model, then networks first.

    Networks that weight the tiles of a bag are left out: the weights already give the influence of each tile.
    """
    networks = [] if run.study.panels.pooling in WEIGHTED else run.study.networks
    learners = [*networks, *(name for name in run.study.learners if name not in run.study.networks)]
    return by_weight(learners, run.results.main.learner or "", run.files.stackers.read_if_exists() or {})


def check_networks(run: FinishedRun, names: Sequence[str]) -> list[str]:
    """The learners of these names, by default all of `_learners_of`, after checking that their files exist.

    Raises:
        CasewiseError: the study has no such network, or its files are missing or belong to another split; or it has
            only networks that weight tiles (see `_learners_of`).
    """
    networks = _learners_of(run)
    if not networks:
        raise CasewiseError(
            f"The networks of {run.study.name} weight the tiles of a case (panels.pooling: {run.study.panels.pooling})."
            " The weights are in tiles.parquet, and the report shows them as maps; `casewise explain` does not apply."
        )
    for name in names:
        if name not in networks:
            raise RunError(f"networks: {none_of(name, networks)}")
    selected = [name for name in networks if name in names] if names else list(networks)
    for model in selected:
        for fold in range(run.splits.folds):
            job = run.files.job(model, fold)
            missing = [file.path for file in (job.weights, job.facts, job.record) if not file.exists()]
            if missing:
                name = name_of_fold(model, fold, alone=bool(run.splits.holdout))
                which = f"{missing[0]} is missing: the network {name} cannot be explained."
                raise RunError(f"{which} Run the study again, or select other networks with --network.")
            if job.facts.read()["split"] != run.splits.hash:
                raise RunError(f"{job.path}: this network was trained on another split. Run the study again.")
    return selected


def named_cases(run: FinishedRun, names: Sequence[str]) -> list[str]:
    """The cases named as `SUBJECT/VISIT`, or by a subject who has one case.

    Raises:
        CohortError: there is no such case, or the subject has several.
    """
    images = run.images
    cases = list(dict.fromkeys(images["case"].astype(str)))
    by_subject: dict[str, list[str]] = {}
    for case, subject in zip(images["case"].astype(str), images["subject"].astype(str), strict=True):
        if case not in by_subject.setdefault(subject, []):
            by_subject[subject].append(case)
    selected, problems = [], []
    for name in dict.fromkeys(names):
        if name in cases:
            selected.append(name)
        elif len(subject_cases := by_subject.get(name, [])) == 1:
            selected.append(subject_cases[0])
        else:
            # never a case of another subject, whose name is often alike
            own = by_subject.get(name.partition("/")[0], [])
            hint = f" The subject has {', '.join(own[:8])}{' …' if len(own) > 8 else ''}." if own else ""
            problems.append(f"The run has no case {name!r}; a case is written as SUBJECT/VISIT.{hint}")
    if problems:
        raise CohortError("\n  ".join(problems))
    return list(dict.fromkeys(selected))


def save_results(run: FinishedRun, shown: Record, placement: Record, measures: Record | None) -> None:
    """Write `explanations.json`; without new measures, earlier ones of the same networks and masks are kept."""
    before = run.files.explanations.read_or_none() or {}
    source = _measurement_source(run.study, run.cohort.images)
    if measures is not None:
        measures = {"inputs": source, **measures}
    elif before.get("fingerprint") == run.fingerprint and run.files.has_weights(before.get("weights_sha256")):
        earlier = before.get("measured") or {}
        measures = earlier if _same_source(earlier.get("inputs") or {}, source) else None
    results = {
        "fingerprint": run.fingerprint,
        "weights_sha256": run.files.weights_sha256(_learners_of(run)),
        "shown": shown,
        "placement": placement,
        "measured": measures,
    }
    run.files.explanations.write(_without_nan(results))


def read_results(folder: RunFolder) -> Record | None:
    """The content of `explanations.json`; None if it is missing or describes other networks.

    `measured` is None if masks, their column or the intervals have changed since.
    """
    results, fingerprint = folder.explanations.read_or_none(), folder.fingerprint.read_if_exists()
    if not results or not fingerprint or results.get("fingerprint") != fingerprint["fingerprint"]:
        return None
    if not folder.has_weights(results.get("weights_sha256")):
        return None
    if results.get("measured"):
        try:
            study = saved_study(folder.study.read(), source=str(folder.study.path))
            source = _measurement_source(study, folder.cohort.read())
            current = _same_source(results["measured"].get("inputs") or {}, source)
        except RunError:
            current = False
        results["measured"] = results["measured"] if current else None
    if results.get("shown"):
        results["shown"]["folder"] = str(folder.path / results["shown"]["folder"])
    return results


def _measurement_source(study: Study, images: pd.DataFrame) -> Record:
    """The inputs of measures besides the networks: the columns with masks, the masks' contents, and the intervals.

    `masks` is None if no mask file exists, for example on another machine; their contents are then unknown.

    Args:
        study: the study of the run.
        images: the cohort's table of images.
    """
    folder = Path(study.root or study.cohort.parent).absolute()
    columns = [column for column in modality_of(study).mask_columns(study).values() if column in images]
    rows = [row for column in columns for row in zip(images["case"], images["path"], images[column], strict=True)]
    masks = [(str(case), Path(str(path)).name, text_of(mask)) for case, path, mask in rows]
    return {
        "form": FORM,
        "columns": columns,
        "labels": [study.images.labels_in(column) for column in columns],
        "resamples": study.evaluation.bootstrap_resamples,
        "confidence": study.evaluation.confidence,
        "seed": study.seed,
        "masks": _hash_of_masks(masks, folder),
    }


def _same_source(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether measures made from `before` are valid for `after`.

    >>> before = {"form": 3, "masks": "a"}
    >>> _same_source(before, {"form": 3, "masks": None}), _same_source(before, {"form": 3, "masks": "b"})
    (True, False)
    """
    masks_exist = after["masks"] is not None
    return all(before.get(name) == value for name, value in after.items() if name != "masks" or masks_exist)


def _hash_of_masks(rows: list[tuple[str, str, str]], folder: Path) -> str | None:
    """A hash over case, slice, name and content of every mask; None if no mask file exists."""
    digest, exists = hashlib.sha256(), False
    for case, slice_name, mask in sorted(rows):
        if not mask:
            continue
        digest.update(f"{case}|{slice_name}|{mask}|".encode())
        if (folder / mask).is_file():
            exists = True
            with (folder / mask).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest() if exists else None


def _without_nan(value: Any) -> Any:
    """The value with NaN replaced by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {str(key): _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
