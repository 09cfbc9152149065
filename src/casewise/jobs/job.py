"""One job: train one network, predict what it has not seen, and leave weights, facts and predictions behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from casewise.cohort.labels import label_table
from casewise.errors import SplitError
from casewise.jobs.build_model import network_of
from casewise.jobs.dataset import parts_of
from casewise.jobs.fit_subjects import divided
from casewise.jobs.nested import choose_inside, epochs_inside
from casewise.jobs.plan import Job, begin
from casewise.jobs.pretraining import Pretrained, pretrain
from casewise.jobs.tiles import tile_rows, weight_rows
from casewise.jobs.to_table import prediction_rows
from casewise.jobs.train_metrics import right_on
from casewise.modalities.base import PanelDataset
from casewise.modalities.dataset import mixed_seed
from casewise.modalities.registry import modality_of
from casewise.models.weights import load_weights
from casewise.predictions.table import check
from casewise.splits.grouped import Splits, check_apart
from casewise.splits.image_split import training_subjects
from casewise.study.schema import Study
from casewise.training.checkpoint import write_tensors
from casewise.training.compute_plan import ComputePlan, keep_memory
from casewise.training.feature_cache import MEMORY
from casewise.training.fit import standardise
from casewise.training.losses import class_counts, guess_loss
from casewise.training.module import predict
from casewise.training.outputs import outputs_of
from casewise.training.strategies import TrainingContext, learn
from casewise.training.timing import Timer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from casewise.cohort.cohort import Cohort


@dataclass(frozen=True)
class JobInputs:
    """What every job of a run is made from."""

    study: Study
    cohort: Cohort
    splits: Splits
    tiles: Path
    address: str
    pretraining: Pretrained | None = None


def run_job(job: Job, material: JobInputs, choice: ComputePlan, *, side_by_side: int = 1) -> None:
    """Train the job's network and write its results; a job killed before continues where its last state was written.

    Writes the weights, their facts, the predictions, where cases have several panels those of single tiles, and, last,
    the record of the job.

    Args:
        side_by_side: how many jobs share the memory for what is worked out once.

    Raises:
        SplitError: a held-out subject is among those trained on.
    """
    if material.study.compute.keep_memory:
        keep_memory()
    torch.set_num_threads(choice.threads)
    form = "channels-last" if choice.channels_last else "contiguous"
    begin(job, f"{choice.precision} {form} {'once' if material.study.compute.frozen_once else 'every step'}")
    spent = Timer(job.folder.path)
    before = epochs_inside(material.study)
    total = before + epochs_of(material.study)
    job.folder.write_progress(0, total)
    study, panels, splits = material.study, material.cohort.panels, material.splits
    subjects = panels["subject"].astype(str)
    training, held_out = splits.training(job.fold), splits.held_out(job.fold)
    check_apart(training, held_out, where=f"{job.model}, fold {job.fold + 1}")
    seed = mixed_seed(study.seed, job.model, job.fold)
    fitted_on, stopped_on = divided(study, panels, splits, job.fold)
    if study.recipe.early_stopping.monitor == "inner":
        check_apart(fitted_on, stopped_on, where=f"{job.model}, fold {job.fold + 1}, inner part")
    check_apart(fitted_on, held_out, where=f"{job.model}, fold {job.fold + 1}")
    inside = choose_inside(job, material, choice, study.nested_cv) if study.nested_cv else None
    recipe = study.recipe.model_copy(update={"lr": inside.chosen.lr}) if inside else study.recipe

    torch.manual_seed(seed)
    outputs = outputs_of(study)
    network = network_of(study, job.model)
    origin, shown = load_weights(network, study.weights_of(network.name), folder=study.weights_dir, held_out=held_out)
    # All who shaped it, also by deciding when to stop, and whom its first weights had seen.
    seen = {*training, *stopped_on, *shown}
    if material.pretraining:
        kept_out = sorted({*held_out, *(stopped_on if study.recipe.early_stopping.monitor == "inner" else [])})
        body, used = pretrain(network, material.pretraining, job, choice, kept_out=kept_out, seed=seed)
        network.body.load_state_dict(body)
        seen |= set(used)
        pack = material.pretraining.study.cohort.parent.name
        origin += f"; then pretrained on {len(used)} subjects of {pack} (held-out subjects left out)"

    truth = label_table(panels, study)

    def rows_of(names: Sequence[str], *, scored: bool) -> NDArray[np.intp]:
        chosen = subjects.isin(set(names)).to_numpy()
        return np.flatnonzero(chosen & ~np.isnan(truth).all(axis=1) if scored else chosen)

    fit_rows, stop_rows = rows_of(fitted_on, scored=True), rows_of(stopped_on, scored=True)
    part = parts_of(study, panels, truth, material.tiles, material.address, model=job.model, fitted_on=fit_rows)
    alone = study.recipe.early_stopping.monitor == "none"
    if alone:
        stop_rows = fit_rows[:1]  # Lightning wants something to validate on; nothing is decided by it
    names = [str(subjects.iloc[r]) for r in fit_rows]
    train, stop = part(fit_rows), part(stop_rows)
    for what, data in (("training", train), ("early stopping", stop)):
        if not len(data):
            raise SplitError(
                f"{job.model}, fold {job.fold + 1}: none of the subjects chosen for {what} has a recorded target. "
                "Lower split.folds, raise recipe.early_stopping.val_fraction, or add cases."
            )
    _check_learned(study, train.truth, where=f"{job.model}, fold {job.fold + 1}")
    standardise(network, train.truth, outputs)

    def tell(done: int) -> None:
        spent.note()
        job.folder.write_progress(before + done, total)

    course = TrainingContext(
        outputs,
        job.folder.path,
        mixed_seed(study.seed, job.model, job.fold),
        choice,
        study.compute.save_every,
        "last" if study.recipe.early_stopping.monitor == "none" else "best",
        tell,
        study.compute.frozen_once,
        inside.chosen.epochs if inside else None,
        memory=MEMORY // side_by_side,
    )
    learned = learn(network, recipe, train, stop, names, course)
    learned.network.to("cuda" if choice.device == "cuda" else "cpu")

    def values_at(data: PanelDataset) -> NDArray[Any]:
        return predict(
            learned.network,
            data,
            outputs,
            batch=study.recipe.batch_size,
            channels_last=choice.channels_last,
            bf16=choice.precision == "bf16",
            flips=study.test_time_augmentation,
        ).numpy()

    tables, singles = [], []
    for stage, side in (("oof", job.fold), ("test", -1)):
        rows = rows_of(splits.subjects(side), scored=False)
        if not len(rows):
            continue
        data, some = part(rows), panels.iloc[rows]
        values = values_at(data)
        tables.append(prediction_rows(some, study, values, stage=stage, model=job.model, fold=job.fold))
        singles.append(tile_rows(some, study, values, stage=stage))
        singles.append(
            weight_rows(learned.network, data, some, stage=stage, batch=study.recipe.batch_size, choice=choice)
        )
    known = {}
    if study.recipe.phases and study.classes_of(study.primary_outcome):
        # One more look at every panel that was learned from; of these, figures alone are kept.
        for name, rows in (("on_training", fit_rows), ("on_inner", stop_rows)):
            if name == "on_training" or not alone:
                own = prediction_rows(
                    panels.iloc[rows], study, values_at(part(rows)), stage="oof", model=job.model, fold=job.fold
                )
                known[name] = right_on(own, study)
    facts = {
        "backbone": job.model,
        "outputs": study.outputs,
        "ranges": {name: study.range_of(name) for name in study.outputs},
        "kinds": {name: study.kind_of(name) for name in study.outputs},
        "classes": {name: study.classes_of(name) for name in study.outputs if study.classes_of(name)},
        "images": study.images.model_dump(mode="json"),
        **modality_of(study).facts(study, job.model),
        "panels": study.panels.model_dump(mode="json"),
        "weights": origin,
        **training_subjects(panels, seen),
        "split": splits.hash,
        "synthetic": study.synthetic,
    }
    write_tensors(job.folder.weights, learned.network.state_dict(), {"format": "pt"})
    job.folder.facts.write(facts)
    job.folder.predictions.write(check(pd.concat(tables, ignore_index=True)))
    job.folder.tile_predictions.remove()
    if by_tile := [table for table in singles if table is not None]:
        job.folder.tile_predictions.write(pd.concat(by_tile, ignore_index=True))
    record = {
        "model": job.model,
        "fold": job.fold + 1,
        "fingerprint": job.fingerprint,
        "weights": origin,
        "parameters": sum(p.numel() for p in learned.network.parameters()),
        "epochs": len(learned.history),
        "best_epoch": len(learned.history) if study.recipe.early_stopping.monitor == "none" else learned.best_epoch + 1,
        "stopped_on": study.recipe.early_stopping.monitor,
        "n_fitted": len(fitted_on),
        "n_stopped": len(stopped_on),
        **{name: value for name, value in spent.told().items() if name != "core_seconds"},
        **{k: v for k, v in asdict(choice).items() if k in ("device", "precision", "threads")},
        "memory_format": form,
        "guess_loss": None if alone else guess_loss(train.truth, stop.truth, outputs, study.recipe),
        "finder": learned.finder,
        "stages": learned.stages,
        "phases": learned.phases,
        **({"inner": inside.record} if inside else {}),
        **known,
        "history": learned.history,
    }
    job.folder.record.write(record)
    job.folder.remove_training()


def _check_learned(study: Study, truth: torch.Tensor, *, where: str) -> None:
    """Stop where the division for early stopping took the last of a class from those who are learned from."""
    for place, output in enumerate(outputs_of(study)):
        absent = np.flatnonzero(class_counts(truth[:, place], output) == 0) if output.classes else ()
        for code in absent:
            raise SplitError(
                f"{where}: nobody that is learned from has {output.name} {study.classes_of(output.name)[code]!r}; "
                "those who have are held out, or decide when to stop. Add subjects, join the class to another, lower "
                "split.folds, or say `recipe: {early_stopping: {monitor: none}}`."
            )


def epochs_of(study: Study) -> int:
    """How many epochs a network of the study trains at most."""
    recipe = study.recipe
    if recipe.phases:
        return sum(phase.epochs for phase in recipe.phases)
    return (
        recipe.epochs
        if recipe.tuning != "gradual_unfreezing"
        else recipe.gradual_unfreezing.epochs * (recipe.gradual_unfreezing.groups + 1)
    )
