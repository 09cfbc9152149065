"""The bundle of a finished run: its networks with everything needed to use them elsewhere.

It has no images and no names of subjects, but hashes of both.
"""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from casewise.audit.sentences import untested
from casewise.cohort.identity import pseudonym
from casewise.console import Show, shown
from casewise.errors import RunError, counted
from casewise.evaluation.metrics_file import encoded
from casewise.evaluation.response import clear_limit
from casewise.files import checksum, json_hash, text_hash, write_atomic, write_json
from casewise.inference.run_members import predicting_members
from casewise.pipeline.finished import FinishedRun
from casewise.predictions.table import CHOOSING
from casewise.run_folder.bundle_folder import FORMATS, link_or_copy, write_archive
from casewise.splits.predefined import TEST
from casewise.study.weight_origins import as_records, origins_sentence, recorded_origins, unknown_origin
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.inference.bundle import Bundle
    from casewise.run_folder import BundleFolder, JobFolder
    from casewise.study.schema import Study

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "pandas")
# The parts of the results that contain numbers only, and no names of cases.
FIGURES = (
    *("format", "metrics", "main", "calibration", "prediction_sets", "classes", "over_folds", "against_baselines"),
    "seeds",
)
# The levels at which statements are against a model; what has none is told by `synthetic` and the warnings of a bundle.
USUAL = ("flag", "bad", "warning")
AGAINST = {"synthetic": (), "first_weights": (), "audited": ("warning",), "nothing_learned": (*USUAL, "open")}


@shown("bundle")
def write_bundle(run: FinishedRun, show: Show) -> None:
    """Write the bundle of a run into its folder, unless an intact one of the same inputs is there.

    Raises:
        RunError: a network is missing, or a file of the run is damaged.
    """
    members = predicting_members(run.files)
    # the metrics record all parts of the run
    made_from = json_hash([FORMATS, __version__, checksum(run.files.metrics.path)])
    if run.files.bundle.is_made_from(made_from):
        return
    with run.files.bundle.replacing() as target:
        _fill(target, run, members)
        target.write_manifest(__version__, made_from)
    weights = sum(path.stat().st_size for path in run.files.bundle.path.rglob("*.safetensors")) / 2**20
    show.line(
        "bundle",
        f"{counted(len(members), 'fitted model')} for new cases, {weights:,.1f} MiB; `casewise bundle` packs them",
    )


def archive_run(folder: Path, output: Path, show: Show, *, key: Path | None = None) -> Path:
    """Write the bundle of a finished run as a zip file; the run's own bundle is made first where it is missing.

    Args:
        key: the file of a private key by which the bundle is signed; None for no signature.

    Raises:
        RunError: the run is not finished, or the file cannot be written.
        CasewiseError: the file of the key holds no private key.
    """
    if output.suffix.casefold() != ".zip":
        raise RunError(f"output: {output} must end in .zip.")
    if output.exists() and not output.is_file():
        raise RunError(f"output: {output} is a folder. Give the name of a file.")
    finished = FinishedRun.open(folder)
    with finished.files.lock():
        write_bundle(finished, show)
    return write_archive(finished.files.bundle, output, key)


def _fill(target: BundleFolder, run: FinishedRun, members: Sequence[JobFolder]) -> None:
    """Write every file of the bundle but its manifest."""
    # not needed, and slow to import, where the bundle is kept
    from casewise.inference.bundle import Bundle, shared_outputs
    from casewise.inference.ensemble import Combination
    from casewise.report.caveats import result_line
    from casewise.report.formatting import display_name
    from casewise.report.model_card import model_card

    # not random, so that equal runs have equal bundles
    study, folder = run.study, run.files
    salt = text_hash(f"subjects of {run.fingerprint}")[:32]
    entries = _share_networks(target, members, salt)
    bundles = [Bundle.open(member.path) for member in members]
    combination = Combination.of_run(folder, bundles)
    reader = next((bundle for bundle in bundles if bundle.model in study.networks), bundles[0])
    about = {
        "format": target.format,
        "name": study.name,
        "title": study.title,
        "synthetic": study.synthetic,
        "modality": study.modality_name,
        "primary_outcome": study.primary_outcome,
        "outputs": shared_outputs(reader.outputs),
        "scores": reader.settings["scores"],
        "learners": combination.learners(list(dict.fromkeys(entry["learner"] for entry in entries))),
        "folds": len({entry["fold"] for entry in entries}),
        "final": study.final,
        "members": entries,
        "combination": asdict(combination),
        "settings": reader.settings,
        "display": {name: display_name(study, name) for name in (*study.outputs, *study.scores)},
        "result": result_line(study, run.results),
        "audited": (warnings := _warnings(run)),
        "doubts": _doubts(run, warnings),
        "bands": study.evaluation.bands,
        "response": _response(run),
        "visits": bool((run.predictions.groupby("subject")["visit"].nunique() > 1).any()),
    }
    figures = {name: value for name, value in encoded(run.results).items() if name in FIGURES and value}
    audit, provenance = _verdict(run.audit, study), _provenance(run, bundles)
    write_json(target.facts.path, about)
    write_json(target.metrics.path, figures)
    write_json(target.audit.path, audit)
    limits = folder.input_checks.read()
    write_json(target.input_checks.path, limits)
    if limits.get("look"):
        link_or_copy(folder.look.verified(), target.look.path)
    write_json(target.provenance.path, provenance)
    write_atomic(target.card.path, model_card(study, about, run.results, audit, provenance))


def _response(run: FinishedRun) -> dict[str, object] | None:
    """How a response over time is defined; None where the study computes none, or has no visits after a baseline."""
    if not any(entry.n_visits for by_learner in run.results.response.values() for entry in by_learner.values()):
        return None
    study, rows = run.study, run.predictions
    own = (rows["target"] == study.primary_outcome) & rows["stage"].isin(CHOOSING)
    truth = rows.loc[own, "y_true"].to_numpy(dtype=float)
    return {
        "baseline": study.evaluation.baseline,
        "thresholds": list(study.evaluation.responders),
        "clear_at": clear_limit(truth),
    }


def _verdict(audit: Mapping[str, Any], study: Study) -> dict[str, object]:
    """The codes and levels of the audit's findings, and the reasons by which the study accepts errors."""
    findings = [{"id": str(f["id"]), "level": str(f["level"])} for f in audit.get("findings", [])]
    levels = dict(Counter(f["level"] for f in findings))
    accepted = {f["id"]: study.accept[f["id"]] for f in findings if f["id"] in study.accept}
    record = {"audited": bool(audit), "levels": levels, "findings": findings, "accepted": accepted}
    return record | {"untested": untested(audit.get("facts", {}))}


def _warnings(run: FinishedRun) -> str:
    """Warnings with each prediction: errors of the audit, no external cohort, shortcuts, unknown origins of weights."""
    from casewise.report.caveats import within_values

    errors = sum(finding["level"] == "error" for finding in run.audit.get("findings", []))
    texts = []
    if errors:
        texts.append(
            f"The audit of its study found {counted(errors, 'error')}: the result may rest on something other than the "
            "disease."
        )
    if "external" not in run.results.stages and not run.results.sources:
        texts.append(f"Not tested on {run.study.unit}s of another hospital or source.")
    texts += [within_values(run.study, run.results).strip()]
    texts += [origins_sentence(run.origins, run.study.unit)] if unknown_origin(run.origins) else []
    return " ".join(filter(None, texts))


def _doubts(run: FinishedRun, warnings: str) -> list[str]:
    """What the report says against the model, besides these warnings and what the audit found."""
    from casewise.report.context import read_context
    from casewise.report.statements import statements

    if not run.results.stages:
        return []  # nothing was evaluated
    return [
        statement.text
        for statement in statements(read_context(run.files.path))
        if statement.level in AGAINST.get(statement.id, USUAL) and statement.text not in warnings
    ]


def _provenance(run: FinishedRun, bundles: list[Bundle]) -> dict[str, object]:
    """Versions, hashes and counts; no names of subjects, and no paths of the user's machine."""
    sides = list(run.splits.side.values())
    stages = run.predictions.groupby("stage", sort=False)[["case", "subject"]].nunique()
    files = (run.files.cohort, run.files.splits, run.files.predictions, run.files.metrics)
    return {
        "written": datetime.now(UTC).strftime("%Y-%m-%d"),
        "casewise": __version__,
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "fingerprint": run.fingerprint,
        "split": run.splits.hash,
        "files_sha256": {file.path.name: checksum(file.path) for file in files if file.exists()},
        "seed": run.study.seed,
        "subjects": {"training_and_validation": sum(side != TEST for side in sides), "test": sides.count(TEST)},
        "predicted": {
            str(stage): {"subjects": int(counts["subject"]), "cases": int(counts["case"])}
            for stage, counts in stages.iterrows()
        },
        "networks": [
            {
                "learner": bundle.model,
                "fold": None if bundle.origin.get("final") else bundle.fold + 1,
                "subjects": len(bundle.subjects),
                "first_weights": _without_paths(str(bundle.origin["weights"])),
                "origins": as_records(recorded_origins(bundle.origin)),
                "weights_sha256": bundle.origin["weights_sha256"],
            }
            for bundle in bundles
        ],
    }


# A path in the clause on the origin of first weights, which follows one of these words.
_PATH = re.compile(r"\b(file|bundle) ([^;,]*[/\\][^;,]*)")
_OF_SUBJECTS = ("subjects", "stop_subjects", "earlier_subjects")


def _share_networks(target: BundleFolder, members: Sequence[JobFolder], salt: str) -> list[Mapping[str, Any]]:
    """Put networks into a bundle; their weights are hard links where possible, otherwise copies.

    Args:
        salt: of the hashes that replace subjects' names (see `casewise.cohort.identity.pseudonym`).

    Returns:
        For each network its `learner`, `fold`, from 1, None if it was trained on all folds, and `backbone`.
    """
    entries: list[Mapping[str, Any]] = []
    for member in members:
        facts = member.facts.read()
        fold = None if facts.get("final") else facts["fold"]
        copy = target.member(facts["model"], fold)
        copy.path.mkdir(parents=True)
        link_or_copy(member.weights.verified(), copy.weights.path)
        if facts.get("distance"):
            link_or_copy(member.distance.verified(), copy.distance.path)
        if member.fingerprints.exists():
            link_or_copy(member.fingerprints.verified(), copy.fingerprints.path)
        for sha256 in member.record.read().get("encoders", ()):
            if not copy.encoder(sha256).exists():
                link_or_copy(member.encoder(sha256).path, copy.encoder(sha256).path)
        write_json(copy.facts.path, _shared_facts(facts, salt))
        entries.append({"learner": facts["model"], "fold": fold, "backbone": facts["network"]["name"]})
    return entries


def _shared_facts(facts: Mapping[str, Any], salt: str) -> Mapping[str, Any]:
    """The facts of a network with hashes instead of subjects' names, and without paths of the user's files."""
    present = [name for name in _OF_SUBJECTS if name in facts]
    hashed = {name: sorted(pseudonym(subject, salt) for subject in facts[name]) for name in present}
    return {**facts, **hashed, "weights": _without_paths(str(facts["weights"]))}


def _without_paths(text: str) -> str:
    """A clause on the origin of weights with the names of files instead of their paths.

    >>> _without_paths("bundle /data/a b/fold1, itself from file C:\\\\w\\\\resnet18.safetensors; adapted")
    'bundle fold1, itself from file resnet18.safetensors; adapted'
    """

    def name(match: re.Match[str]) -> str:
        path = match[2].strip()
        last = PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
        return f"{match[1]} {last}"

    return _PATH.sub(name, text)
