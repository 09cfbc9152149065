"""A shallow study: heads on frozen features of several backbones, compared with one pass through each of them.

    python benchmarks/shallow.py [--backbones 10] [--folds 5] [--epochs 100] [--images 200] [--size 224]

All jobs of the study are trained, one after another with one thread: for each backbone and fold the head is trained on
the features of the frozen network, without early stopping, and held-out cases are predicted. Features are computed once
for each backbone and shared between its folds (`casewise.training.feature_sharing`). The pass is that of `predict` over
the same images with the same networks, measured before and after. CPU seconds are compared, because other load on the
machine changes them less. The files of first weights hold random ones. `--no-sharing` measures without the store.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

BACKBONES = (
    *("mobilenet_v2", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v3_small", "mnasnet0_5"),
    *("shufflenet_v2_x1_0", "resnet34", "efficientnet_b0", "densenet121"),
)
AIM = 1.3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", type=int, default=len(BACKBONES), help=f"the first of {', '.join(BACKBONES)}")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--no-sharing", action="store_true", help="compute the features in every fold")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "CASEWISE_CACHE": f"{folder}/cache",
            "CASEWISE_FEATURE_CACHE": "0" if options.no_sharing else "4",
        }
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Train all jobs of the study, and print the CPU seconds of its steps beside those of the passes."""
    import torch
    from safetensors.torch import save_file

    from casewise.cohort.labels import label_table
    from casewise.console import Silent
    from casewise.jobs.fit_subjects import fit_preprocessing
    from casewise.jobs.job import run_job
    from casewise.jobs.plan import JobInputs, expand
    from casewise.modalities.base import StoreAddress
    from casewise.modalities.registry import modality_of
    from casewise.models.backbones import build_network
    from casewise.models.build_model import network_of
    from casewise.models.forward import predict
    from casewise.models.outputs import outputs_of
    from casewise.pipeline.prepare import prepare
    from casewise.pipeline.read import read
    from casewise.plugins.phantoms.chest import make_chest
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import split
    from casewise.study.loading import build_study
    from casewise.study.weight_files import file_name
    from casewise.training.compute_plan import ComputePlan

    size, batch = options.size, 32
    table = make_chest(folder / "films", subjects=options.images, size=(size, size), seed=1)
    values: dict[str, Any] = {
        "name": "shallow",
        "synthetic": True,
        "cohort": str(table),
        "images": {"size": size, "channels": "grey"},
        "panels": {"by": "image"},
        "targets": {"label": ["covid", "no_finding", "pneumonia"]},
        "backbones": list(BACKBONES[: options.backbones]),
        "weights_dir": str(folder / "weights"),
        "baselines": {"off": "a measurement of networks"},
        "split": {"test": 0, "folds": options.folds, "restarts": 20},
        "recipe": {
            "tuning": "head_only",
            "epochs": options.epochs,
            "lr": 0.001,
            "schedule": "one-cycle",
            "batch_size": batch,
            "early_stopping": {"monitor": "none"},
        },
        "evaluation": {"response": False},
    }
    study = build_study(values, source="benchmark", folder=folder)
    (folder / "weights").mkdir()
    for name in study.networks:  # with `weights: random` every fold has others
        state = {key: value.contiguous() for key, value in build_network(name, 3).body.state_dict().items()}
        save_file(state, folder / "weights" / f"{file_name(name)}.safetensors")
    run_folder = RunFolder(folder / "run")
    cohort = read(study, None, Silent())
    store = prepare(study, cohort, run_folder, Silent())
    splits = split(cohort, study)
    inputs = JobInputs(study, cohort, splits, StoreAddress(store.folder, store.address))
    plan = ComputePlan(channels_last=True)
    torch.set_num_threads(1)
    labels = label_table(cohort.panels, study)
    fitted = fit_preprocessing(study, inputs.store, list(range(len(cohort.panels))), model=study.networks[0])
    data = modality_of(study).dataset(inputs.store, study, cohort.panels, labels, fitted)

    def passes() -> dict[str, float]:
        seconds = {}
        for name in study.networks:
            network = network_of(study, name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            start = time.process_time()
            predict(network, data, outputs_of(study), batch=batch, channels_last=True, bf16=False, flips=False)
            seconds[name] = time.process_time() - start
        return seconds

    passes()  # the first pass of a process is slower
    before = passes()
    jobs, trained = expand(study, splits, run_folder, "benchmark"), dict.fromkeys(study.networks, 0.0)
    first = dict.fromkeys(study.networks, 0.0)
    for job in jobs:
        start = time.process_time()
        run_job(job, inputs, plan)
        trained[job.model] += time.process_time() - start
        if job.fold == 0:
            first[job.model] = trained[job.model]
    after = passes()
    pass_of = {name: (before[name] + after[name]) / 2 for name in study.networks}
    print(
        f"{len(jobs)} jobs: {options.backbones} backbones × {options.folds} folds × {options.epochs} epochs of heads, "
        f"{len(data):,} images of {size} px, 1 thread, features {'not ' if options.no_sharing else ''}shared"
    )
    print(f"  {'CPU seconds':<22}{'one pass':>10}{'all folds':>11}{'ratio':>8}{'first fold':>12}{'each later':>12}")
    for name in study.networks:
        later = (trained[name] - first[name]) / max(1, options.folds - 1)
        ratio = trained[name] / pass_of[name]
        print(
            f"  {name:<22}{pass_of[name]:>10.2f}{trained[name]:>11.2f}{ratio:>8.2f}{first[name]:>12.2f}{later:>12.2f}"
        )
    whole, one = sum(trained.values()), sum(pass_of.values())
    print(f"  {'together':<22}{one:>10.2f}{whole:>11.2f}{whole / one:>8.2f}   (aim: {AIM})")


if __name__ == "__main__":
    main()
