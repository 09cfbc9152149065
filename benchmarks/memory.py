"""The memory of jobs at their peak, and what saving it costs in speed: mobilenet_v2 at 224 px, batches of 32.

A job trains a few steps and predicts, as a run does, in a process of its own, on panels of noise with random weights.
Compared are ways of training, each alone and with two jobs side by side:

- `now`: freed memory is kept (`keep_memory: true`), ReLU6 keeps no copy of its input, and 16 views are evaluated
  together;
- `before`: freed memory is kept, ReLU6 keeps a copy, and 128 views are evaluated together;
- `folded`: as `now`, with a recipe that keeps the statistics of batch norms, so that these are computed with the
  convolutions before them;
- `returned`: glibc's own way (`keep_memory: false`).

Printed are the largest resident memory of a process, the largest sum over the processes (pages that they share count
once), and CPU seconds a step, the least of all steps. The ways take turns; CPU seconds depend less on other load than
wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

BACKBONE, SIZE, BATCH, PREDICTED = "mobilenet_v2", 224, 32, 128
WAYS = ("now", "folded", "before", "returned")
INTERVAL = 0.5


def job(way: str, precision: str, steps: int) -> dict[str, Any]:
    """Train two epochs of so many steps, and predict; the peaks, and the CPU seconds of every step."""
    import numpy as np
    import torch

    from casewise.modalities import dataset
    from casewise.modalities.dataset import PanelData
    from casewise.models.backbones import build_network, keep_statistics
    from casewise.models.forward import predict
    from casewise.models.layers import ReLU6
    from casewise.models.outputs import Output
    from casewise.study.schema import Panels, Recipe
    from casewise.training.compute_plan import ComputePlan
    from casewise.training.cost import MB, PeakMemory, give_memory_back, keep_memory
    from casewise.training.loop import TrainingContext, fit, standardise

    if way != "returned":
        keep_memory()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = steps * BATCH + PREDICTED
    store = torch.from_numpy(rng.integers(0, 256, (images, 3, SIZE, SIZE), dtype=np.uint8))
    truth = torch.from_numpy(rng.random((images, 1), dtype=np.float32))
    panels = PanelData(store, [[i] for i in range(images)], truth, Panels(by="image"))
    train, held_out = panels.subset(range(steps * BATCH)), panels.subset(range(steps * BATCH, images))
    outputs = (Output("extent"),)
    network = build_network(BACKBONE, 1)
    if way == "before":
        dataset.EVALUATED_PIXELS = 2**60
        for name, module in list(network.named_modules()):
            if isinstance(module, ReLU6):
                outer, _, child = name.rpartition(".")
                setattr(network.get_submodule(outer), child, torch.nn.ReLU6(inplace=True))
    standardise(network, train.truth, outputs)
    recipe = Recipe(
        loss="mse",
        optimizer="sgd",
        lr=0.01,
        momentum=0.9,
        batch_size=BATCH,
        epochs=2,
        batch_norm="keep_statistics" if way == "folded" else "update",
    )
    plan = ComputePlan(precision=precision)
    ends: list[float] = []
    loss = network.forward

    def timed(panels_of_batch: Any) -> Any:
        if network.training:
            ends.append(time.process_time())
        return loss(panels_of_batch)

    network.forward = timed
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as memory:
        before = memory.peak_mb
        fit(network, recipe, train, panels.subset([0]), TrainingContext(outputs, Path(folder), 0, plan))
        trained = memory.peak_mb
        bf16 = precision == "bf16"
        if way != "before":
            give_memory_back()
        with PeakMemory() as of_prediction:
            predict(network, held_out, outputs, batch=BATCH, channels_last=True, bf16=bf16, flips=False)
        predicted = of_prediction.peak_mb
    kept: dict[int, int] = {}

    def count(tensor: Any) -> Any:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network.train()
    if recipe.keeps_statistics:
        keep_statistics(network)
    first = store[:BATCH].float().div_(255).to(memory_format=torch.channels_last)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        loss(first)
    seconds = [after - start for start, after in pairwise(ends)]
    # the step between the epochs contains the evaluation
    within = [s for number, s in enumerate(seconds, 1) if number % steps]
    return {
        "start": before,
        "training": trained,
        "prediction": predicted,
        "graph": sum(kept.values()) / MB,
        "seconds": min(within),
    }


def shared_once(process: int) -> float:
    """The memory of a process in MB, in which a page that n processes share counts one n-th."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def side_by_side(way: str, precision: str, steps: int, count: int) -> tuple[list[dict[str, Any]], float]:
    """The results of so many jobs at the same time, and the largest memory of all together."""
    command = [sys.executable, __file__, "--job", way, "--precision", precision, "--steps", str(steps)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    together = 0.0
    while any(process.poll() is None for process in processes):
        together = max(together, sum(shared_once(process.pid) for process in processes))
        time.sleep(INTERVAL)
    if any(process.returncode for process in processes):
        raise SystemExit(f"a job of {way} failed")
    outputs = [process.stdout.read() for process in processes if process.stdout]
    return [json.loads(output.splitlines()[-1]) for output in outputs], together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=WAYS)
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    if given.job:
        print(json.dumps(job(given.job, given.precision, given.steps)))
        return
    print(f"{BACKBONE}, {SIZE} px, batches of {BATCH}, one thread a job; MB of 2^20 bytes", flush=True)
    for precision in [given.precision] if given.precision else ["fp32", "bf16"]:
        for count in given.jobs:
            best: dict[str, dict[str, float]] = {}
            for _ in range(given.rounds):
                for way in given.ways:
                    results, together = side_by_side(way, precision, given.steps, count)
                    for result in results:
                        figures = ", ".join(f"{name} {value:.4g}" for name, value in result.items())
                        print(f"  {precision} {way}: {figures}", file=sys.stderr, flush=True)
                    row = best.setdefault(way, {"together": 0.0})
                    row["together"] = max(row["together"], together)
                    for result in results:
                        for name, value in result.items():
                            pick = min if name == "seconds" else max
                            row[name] = pick(row.get(name, value), value)
            print(f"\n{precision}, {count} job{'s' * (count > 1)} at a time")
            for way, row in best.items():
                speed = best["before"]["seconds"] / row["seconds"] if "before" in best else float("nan")
                print(
                    f"  {way:9} peak of a job {max(row['training'], row['prediction']):6.0f} (training "
                    f"{row['training']:6.0f}, prediction {row['prediction']:6.0f}, at first {row['start']:5.0f}; "
                    f"graph {row['graph']:5.0f}), together {row['together']:6.0f}; "
                    f"{row['seconds']:.3f} CPU s a step, {speed:.2f}× the speed of before",
                    flush=True,
                )


if __name__ == "__main__":
    main()
