"""One job: train one network, predict the held-out cases, and write weights, facts and predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
import torch

from casewise.errors import SplitError
from casewise.files import checksum
from casewise.inference.bundle import Bundle, ComputeFacts, as_json, output_facts, settings_of, with_encoders
from casewise.inference.predictor import Predictor
from casewise.jobs.compute_plans import pace_of
from casewise.jobs.fitting import FITTERS, Choice, FoldData, PlannedJob, first_network
from casewise.jobs.plan import Job, JobInputs, Progress, begin, divided, epochs_inside
from casewise.jobs.predict import FittedModel, JobPredictions, predict
from casewise.models.build_model import network_facts, scaled_facts
from casewise.models.outputs import class_counts, outputs_of
from casewise.models.threads import on_threads
from casewise.models.weights import check_finite
from casewise.plugin import implementing
from casewise.predictions.table import check
from casewise.splits.grouped import check_apart
from casewise.study.learners import learner_named
from casewise.study.model import mixed_seed
from casewise.study.schema import NestedCV, Study
from casewise.study.weight_origins import as_records, origins_of
from casewise.training.checkpoint import write_network, write_tensors
from casewise.training.compute_plan import ComputePlan
from casewise.training.cost import PeakMemory, Timer, give_memory_back
from casewise.training.frozen_features import MEMORY
from casewise.training.loop import standardise, statistics_agreement
from casewise.training.losses import guess_loss
from casewise.training.stages import Record

if TYPE_CHECKING:
    from casewise.models.backbones import Network

# The column with the real subject of an image where every image counts as a subject; no table has one of this name.
PERSON = "subject (before the split by image)"


class InnerChoice(Protocol):
    """A plugin that chooses epochs and a learning rate by inner folds."""

    def choose_inside(self, progress: Progress, plan: ComputePlan, tune: NestedCV) -> Record:
        """Train the job's network on inner folds; return what was `chosen` (`lr`, `epochs`), and all trainings.

        Raises:
            TrainingError: nothing can be chosen.
            SplitError: an inner fold cannot be made.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class _InitialNetwork:
    """A network with its first weights, their origin, and all subjects that influence it.

    `earlier_subjects` influenced it through its first weights. They are other people than the study's subjects, even if
    names are the same.
    """

    network: Network
    origin: str
    subjects: frozenset[str]
    earlier_subjects: frozenset[str] = frozenset()


def run_job(job: Job, inputs: JobInputs, plan: ComputePlan, *, side_by_side: int = 1) -> None:
    """Train the job's network and write its results; an interrupted job continues from its last state.

    Writes the weights, their facts, the predictions, the predictions of single tiles if cases have several panels, and
    finally the record of the job.

    Args:
        side_by_side: the number of jobs that share the memory for values that are computed once.

    Raises:
        SplitError: a held-out subject is among those trained on.
    """
    inputs, plan = inputs.of_learner(job.model), replace(plan, parts=job.parts())
    with on_threads(plan.threads):
        if job.trial:
            job.folder.pace.write(asdict(pace_of(job, inputs, plan)))
        else:
            _run(job, inputs, plan, side_by_side)


def _run(job: Job, inputs: JobInputs, plan: ComputePlan, side_by_side: int) -> None:
    begin(job, f"{plan.described()} once")
    progress = Progress(job, inputs, Timer(job.folder.path))
    with PeakMemory() as memory:
        progress.begin()
        choice = choose(job, inputs, plan, progress)
        planned = PlannedJob(job, inputs, plan, choice, progress, MEMORY // side_by_side)
        model = build(planned)
        fitted = fit(planned, model)
        give_memory_back()  # predictions need other blocks than training steps
        predictions = predict(job, inputs, fitted)
    record(planned, model.origin, fitted, predictions, peak_memory_mb=memory.peak_mb)


def choose(job: Job, inputs: JobInputs, plan: ComputePlan, progress: Progress) -> Choice:
    """Divide the training subjects, and let inner folds choose epochs and a learning rate if the study states so.

    Raises:
        SplitError: a held-out subject is among those trained on.
    """
    study, splits = inputs.study, inputs.splits
    where = job.name
    held_out = splits.held_out(job.fold)
    check_apart(splits.training(job.fold), held_out, where=where)
    fit_subjects, stop_subjects = divided(study, inputs.cohort.panels, splits, job.fold)
    if study.recipe.early_stopping.monitor == "inner":
        check_apart(fit_subjects, stop_subjects, where=f"{where}, inner part")
    check_apart(fit_subjects, held_out, where=where)
    if not study.nested_cv:
        return Choice(held_out, fit_subjects, stop_subjects, study.recipe)
    inner = implementing(InnerChoice)[0].choose_inside(progress, plan, study.nested_cv)
    recipe = study.recipe.model_copy(update={"lr": inner["chosen"]["lr"]})
    return Choice(held_out, fit_subjects, stop_subjects, recipe, inner)


def build(planned: PlannedJob) -> _InitialNetwork:
    """The network with its first weights, pretrained on another cohort if the study states so."""
    job, inputs, choice, study = planned.job, planned.inputs, planned.choice, planned.inputs.study
    seed = mixed_seed(study.seed, job.model, job.fold)
    tell, excluded = planned.progress.pretraining(epochs_inside(study)), choice.excluded_subjects
    first = first_network(inputs, job, planned.plan, seed, excluded, job.folder.pretraining, tell)
    origin, of_bundle = first.origin, first.of_bundle
    earlier: list[str] = []
    if of_bundle and study.bundle_subjects == "distinct":
        # Other people of the study may have the same names.
        earlier, of_bundle = of_bundle, []
        origin += "; its subjects are other people than the study's subjects, as the study states"
    # All subjects that influence the network: by training, by early stopping, and through its first weights.
    subjects = {*inputs.splits.training(job.fold), *choice.stop_subjects, *of_bundle, *first.pretrained_on}
    if inputs.pretraining:
        left_out = inputs.pretraining.cohort.panels["subject"].nunique() - len(first.pretrained_on)
        without = f"{left_out} held-out subjects left out" if left_out else "none of them is a held-out subject by name"
        cohort = inputs.pretraining.study.cohort.parent.name
        origin += f"; then pretrained on {len(first.pretrained_on)} subjects of {cohort} ({without})"
    return _InitialNetwork(first.network, origin, frozenset(subjects), frozenset(earlier))


def fit(planned: PlannedJob, model: _InitialNetwork) -> FittedModel:
    """Train the network on the fold's training subjects.

    Raises:
        SplitError: one of the two sides has no recorded target, or no training subject has one of the classes.
    """
    job, inputs, choice = planned.job, planned.inputs, planned.choice
    study, panels, outputs = inputs.study, inputs.cohort.panels, outputs_of(inputs.study)
    data = FoldData.of(inputs, job.model, choice.fit_subjects, choice.stop_subjects, alone=False)
    for purpose, rows in (("training", data.fit_rows), ("early stopping", data.stop_rows)):
        if not len(rows):
            raise SplitError(
                f"{job.name}: none of the subjects chosen for {purpose} has a recorded target. "
                "Hold out fewer subjects (`split`), raise recipe.early_stopping.val_fraction, or add cases."
            )
    train, stop = data.train.truth, data.stop.truth
    check_classes(study, train, where=job.name)
    standardise(model.network, train, outputs)
    agreement = _agreement(planned, model.network, data)
    learned, dataset = FITTERS[learner_named(job.model).kind](planned, model.network, outputs, data)
    if agreement is not None:
        learned = replace(learned, records={**learned.records, "statistics_agreement": agreement})
    stops = study.recipe.early_stopping.monitor != "none"
    people = _training_subjects(panels, model.subjects)
    plan = planned.plan
    compute = ComputeFacts(plan.device, plan.precision, plan.channels_last, plan.threads)
    trained_on = _training_subjects(panels, model.subjects - set(choice.stop_subjects))["subjects"]
    bundle = Bundle(
        folder=job.folder.path,
        model=job.model,
        fold=job.fold,
        network=scaled_facts(network_facts(study, job.model), learned.network),
        outputs=output_facts(study, outputs, learned.network),
        settings=settings_of(study, job.model),
        fitted=data.preprocessing,
        compute=compute,
        batch_size=study.recipe.batch_size,
        stop_subjects=frozenset(people["subjects"]) - frozenset(trained_on),
        subjects=frozenset(people.pop("subjects")),
        origin={
            "weights": model.origin,
            "origins": as_records(origins_of(study, job.model)),
            "split": inputs.splits.hash,
            "synthetic": study.synthetic,
            **people,
        }
        | ({"earlier_subjects": sorted(model.earlier_subjects)} if model.earlier_subjects else {})
        | ({"final": True} if job.final else {}),
    )
    guess = guess_loss(train, stop, outputs, study.recipe) if stops else None
    return FittedModel(Predictor(bundle, learned.network), learned, dataset, data, guess)


def _agreement(planned: PlannedJob, network: Network, data: FoldData) -> float | None:
    """How well the stored statistics of first weights fit the training images, where training uses a batch's own."""
    study, model = planned.inputs.study, planned.job.model
    trained = learner_named(model).by_steps and planned.choice.recipe.updates_statistics
    if not trained or all(origin.kind == "random" for origin in origins_of(study, model)):
        return None
    batch = planned.choice.recipe.batch_size
    return statistics_agreement(network, data.train, torch.device(planned.plan.device), batch)


def record(
    planned: PlannedJob, weights: str, fitted: FittedModel, predictions: JobPredictions, *, peak_memory_mb: float
) -> None:
    """Write weights, facts, predictions and, last, the record by which the job counts as finished."""
    job, choice, learned = planned.job, planned.choice, fitted.learned
    monitor = planned.inputs.study.recipe.early_stopping.monitor
    check_finite(learned.network.state_dict(), f"{job.name}: ", f"Lower recipe.lr, or take {job.model} out.")
    encoders = write_network(job.folder, learned.network)
    bundle = with_encoders(fitted.predictor.bundle, encoders)
    origin = bundle.origin | {"weights_sha256": checksum(job.folder.weights.path)}
    for file in (job.folder.distance, job.folder.fingerprints, job.folder.predictions, job.folder.tile_predictions):
        file.remove()  # of an earlier training
    distance = None
    if predictions.distance:
        write_tensors(job.folder.distance, predictions.distance.tensors)
        distance = predictions.distance.as_json(checksum(job.folder.distance.path))
    job.folder.facts.write(as_json(replace(bundle, origin=origin, distance=distance)))
    if predictions.rows is not None:
        job.folder.predictions.write(check(predictions.rows))
    if predictions.by_tile is not None:
        job.folder.tile_predictions.write(predictions.by_tile)
    facts = {
        "model": job.model,
        "fold": job.fold + 1,
        "fingerprint": job.fingerprint,
        "first_weights": job.first_weights,
        "weights": weights,
        "origins": bundle.origin["origins"],
        **({"encoders": encoders} if encoders else {}),
        "parameters": sum(p.numel() for p in learned.network.parameters()),
        "epochs": len(learned.history),
        "best_epoch": len(learned.history) if monitor == "none" else learned.best_epoch + 1,
        "stopped_on": monitor,
        "n_fitted": len(choice.fit_subjects),
        "n_stopped": len(choice.stop_subjects),
        **planned.progress.timer.cost(),
        "peak_memory_mb": round(peak_memory_mb, 1),
        **{k: v for k, v in asdict(planned.plan).items() if k in ("device", "precision", "threads")},
        "memory_format": planned.plan.memory_format.replace("_", "-"),
        **({"parts": planned.plan.parts} if planned.plan.parts > 1 else {}),
        **({"fused": True} if planned.plan.fused else {}),
        "guess_loss": fitted.guess_loss,
        **learned.records,
        "phases": learned.phases,
        **({"inner": choice.inner} if choice.inner else {}),
        **predictions.train_metrics,
        **({"candidates": [asdict(losses) for losses in learned.candidates]} if learned.candidates else {}),
        "history": learned.history,
    }
    job.folder.finish(facts)
    job.folder.remove_training()
    job.folder.parts.remove()


def check_classes(study: Study, labels: torch.Tensor, *, where: str) -> None:
    """Check that every class has training subjects.

    Raises:
        SplitError: naming the class without training subjects.
    """
    for column, output in enumerate(outputs_of(study)):
        counts = class_counts(labels[:, column], output).tolist() if output.classes else []
        if 0 in counts:
            raise SplitError(
                f"{where}: no training subject has {output.name} {study.classes_of(output.name)[counts.index(0)]!r}; "
                "all who have it are held out or decide when to stop. Add subjects, merge the class with another, "
                "hold out fewer subjects (`split`), or write `recipe: {schedule: constant, early_stopping: {monitor: "
                "none}}`."
            )


def _training_subjects(panels: pd.DataFrame, names: Iterable[str]) -> dict[str, Any]:
    """The subjects that a network was trained on, for its facts; `names` may be names of single images.

    >>> _training_subjects(pd.DataFrame({"subject": ["b", "a"]}), {"a", "b"})
    {'subjects': ['a', 'b']}
    >>> _training_subjects(pd.DataFrame({"subject": ["a image 0", "a image 1"], PERSON: "a"}), {"a image 0", "c"})
    {'subjects': ['a', 'c'], 'comparison_only': True}
    """
    if PERSON not in panels:
        return {"subjects": sorted(names)}
    person_of = dict(zip(panels["subject"].astype(str), panels[PERSON].astype(str), strict=True))
    return {"subjects": sorted({person_of.get(name, name) for name in names}), "comparison_only": True}
