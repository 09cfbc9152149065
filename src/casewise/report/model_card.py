"""The model card of a bundle, in Markdown: what the models predict, for whom, how well, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from casewise.evaluation.results import Results
from casewise.modalities.registry import modality_of
from casewise.report.blocks import Block, Code, Facts, Items, Row, Section, Table, Text, markdown_page
from casewise.report.context import SIDES, report_title
from casewise.report.formatting import capital, escaped
from casewise.report.sections.calibration import calibrated, coverage
from casewise.report.tables import metric_format
from casewise.study.schema import Study
from casewise.study.weight_origins import origins_sentence, recorded_origins
from casewise.targets import kind_named

STAGES = ("test", "external", "oof", "validation", "training")
KINDS = {"regression": "number", "classification": "classes", "ordinal": "grades"}
SYNTHETIC = "**The models were trained on synthetic images. They must not be used for patients.**"
PURPOSE = (
    "A result of research and no medical device: before any other use, test it on patients of the place where it is to"
    " be used (`external:` in a study, or `casewise predict` and their labels)."
)
OF_FOLDS = (
    "A learner predicts a new case by the mean over the models of all folds; none was trained again on all subjects."
    " Figures of a test set and of an external cohort are of this mean. Figures out of fold are of single models,"
    " each on subjects that this study did not train it on, and apply to this bundle approximately.",
    "`spread` is the standard deviation over the models of the folds: their disagreement, and no interval.",
)
HELD_OUT = (
    "Each learner has one model, fitted on the training set. All figures are of this model; figures on the training"
    " set say nothing about new patients.",
    "`spread` is empty, since each learner has a single model. No prediction interval or set was calibrated.",
)
STOPPED = " The validation set stopped the training: its figures are too optimistic."
REFITTED = (
    "Each learner has one model, trained on all subjects outside the test set. All figures are of the models of"
    " the folds. The models of this bundle were trained on more subjects and were not evaluated, so the figures apply"
    " approximately.",
    "`spread` is empty, since each learner has a single model. Thresholds, intervals and the distance that counts as"
    " 1 come from the models of the folds.",
)
LIMITS = (
    "`beyond` says that a case is far from the training cases: its distance is above 1, the distance that at most one"
    " in twenty held-out cases of the study exceeds. It does not find every unsuitable image.",
    "`flags` says why a case is unlike the training cases, such as dark, upside down, or of another texture (`casewise"
    " predict --abstain` leaves out its prediction; `beyond` alone does not). With few training subjects there are no"
    " such limits.",
    "Probabilities are as the models give them, without recalibration. Prediction intervals and sets are meant for"
    " cases like the study's cases.",
    "The model knows only the targets, classes and kinds of images above.",
)
UNKNOWN_SUBJECTS = ": a person may be on both sides of the split, and every figure may be too good."
PRIVACY = (
    "The bundle contains no image, no label, no name of a subject and no path of a file. Instead of the names of the"
    " subjects behind each model it contains salted hashes of the names, and instead of the images fingerprints: 512"
    " signs of the coarsest patterns of each. A study that uses a network as first weights is checked against both,"
    " so that no subject on whom it was trained is held out there. The hashes do not withstand"
    " guessing: whoever can list possible names, such as numbers from 1 to 500, can find out which of them took part."
    " Whoever has an image can find out from the fingerprints whether it was used; from a fingerprint alone, at most a"
    " rough distribution of light and dark could be guessed."
)
USE = (
    "The table needs the columns of the training table but no labels; a folder of images will do where folders name the"
    " subjects. `manifest.json` has the SHA-256 of every file; a bundle that was changed is refused."
)


def model_card(
    study: Study, about: Mapping[str, Any], results: Results, audit: Mapping[str, Any], provenance: Mapping[str, Any]
) -> str:
    """The card from the contents of the bundle's files (see `casewise.pipeline.bundle`); it names no subject."""
    training_note, spread = REFITTED if about["final"] == "refit" else OF_FOLDS
    if study.split.holdout:
        training_note, spread = HELD_OUT[0] + STOPPED * (study.recipe.early_stopping.monitor == "fold"), HELD_OUT[1]
    rows = _performance(study, about, results)
    subjects, weights = (
        provenance["subjects"],
        dict.fromkeys(network["first_weights"] for network in provenance["networks"]),
    )
    unit = study.unit
    data = [
        (f"{capital(unit)}s for training and validation", str(subjects["training_and_validation"])),
        (f"{capital(unit)}s of the test set", str(subjects["test"])),
        *(
            (f"Predicted {SIDES.get(stage, stage)}", f"{counts['cases']} cases of {counts['subjects']} {unit}s")
            for stage, counts in provenance["predicted"].items()
        ),
    ]
    networks = [
        ("Learners", ", ".join(about["learners"])),
        ("Predicts unless another is asked for", str(about["combination"]["headline"])),
        *([] if study.split.holdout else [("Folds", str(about["folds"]))]),
        ("First weights", "; ".join(weights)),
        *([("Their origin", sentence)] if (sentence := _origin(provenance, unit)) else []),
    ]
    versions = {"written": provenance["written"], "casewise": provenance["casewise"], "Python": provenance["python"]}
    versions |= provenance["libraries"] | {"fingerprint of the study": f"`{provenance['fingerprint']}`"}
    versions |= {"hash of the split": f"`{provenance['split']}`", "seed": str(provenance["seed"])}
    figures: list[Block] = [Text("No case with a prediction has a reference value: nothing was evaluated.")]
    if rows:
        heads = ["Stage", "Target", "Metric", "Value", "Interval", f"{capital(unit)}s"]
        figures = [Table(heads, rows, f"Of {about['combination']['headline']}. All metrics are in `metrics.json`.")]
    covered = coverage(study, results)
    observed = [covered] if covered.rows else []
    # warnings that predictions carry are against it as well
    doubts = [*filter(None, [str(about.get("audited") or "")]), *(about.get("doubts") or [])]
    unknown = [] if study.subjects_known else [study.not_known + UNKNOWN_SUBJECTS]
    sections = [
        Section("targets", "What it predicts", [_outputs(study, about)]),
        Section("networks", "The models", [Facts(networks), Text(training_note)]),
        Section("data", "Data", [Facts(data)]),
        *([Section("doubts", "What the report says against it", [Items(doubts)])] if doubts else []),
        Section("performance", "Performance", figures),
        Section("audit", "Audit", _audited(audit)),
        Section("intervals", "Prediction intervals and sets", [Facts(calibrated(study, results)), *observed]),
        Section("limits", "Limits", [Items([*LIMITS, spread, *unknown])]),
        Section("privacy", "Privacy", [Text(PRIVACY)]),
        Section("provenance", "Provenance", [Facts(list(versions.items()))]),
        Section("use", "Use", [Code("casewise predict BUNDLE new-cases.csv --output predictions.csv"), Text(USE)]),
    ]
    head = [f"# Model card: {escaped(report_title(study))}", *([SYNTHETIC] if about["synthetic"] else []), PURPOSE]
    return markdown_page(head, sections)


def _origin(provenance: Mapping[str, Any], unit: str) -> str:
    """The sentence on the origin of first weights."""
    records = [{"origins": network["origins"]} for network in provenance["networks"]]
    return origins_sentence([origin for record in records for origin in recorded_origins(record)], unit)


def _outputs(study: Study, about: Mapping[str, Any]) -> Table:
    rows = []
    for output in about["outputs"]:
        values = ", ".join(output["classes"]) or "{} to {}".format(*output["range"])
        rows.append(Row(output["name"], [KINDS.get(output["kind"], output["kind"]), values]))
    for name in about["scores"]:
        rows.append(Row(name, ["score, a formula over targets", "{} to {}".format(*study.range_of(name))]))
    images = f"Images: {modality_of(study).noun(study).plural}, prepared as in training."
    caption = f"The primary outcome is {about['primary_outcome']}. {images}"
    return Table(["Target", "Kind", "Values"], rows, caption)


def _audited(audit: Mapping[str, Any]) -> list[Block]:
    if not audit["audited"]:
        return [Text("The cohort was not audited.")]
    if not audit["findings"]:
        untested = audit.get("untested", "")
        kinds = "duplicates or leaks" if untested else "duplicates, leaks or shortcuts among what it could test"
        return [Text(f"The audit found no {kinds}{f'; {untested}' if untested else ''}.")]
    rows = [Row(f["id"], [f["level"], str(audit["accepted"].get(f["id"], ""))]) for f in audit["findings"]]
    return [Table(["Finding", "Level", "Accepted because"], rows, "Findings of the audit.")]


def _performance(study: Study, about: Mapping[str, Any], results: Results) -> list[Row]:
    """The headline metrics of the headline's learner, for every target and stage, with their intervals."""
    learner, rows = about["combination"]["headline"], []
    for stage in STAGES:
        for target in [*study.outputs, *study.scores]:
            write = metric_format(study, target)
            for metric in kind_named(study.kind_of(target)).headline:
                figure = results.figures.of(stage, learner, target).get(metric)
                if figure is None or figure.value is None:
                    continue
                value = write.cell(metric, figure, words=True)
                texts = (target, write.title(metric), value.text, value.small, str(figure.n_subjects))
                rows.append(Row(SIDES[stage], texts))
    return rows
