"""How casewise computes on a GPU: epochs beside fastai, time to the same accuracy, bits, and the networks of PASI.

    python benchmarks/gpu.py [epochs] [accuracy] [bits] [sweep] [--short] [--measured FILE] [--output FILE]

`epochs`: images a second of five networks in mixed precision, and the memory and the time that the card is busy.
`accuracy`: the seconds until a pretrained MobileNetV2 is as accurate on held-out subjects as fastai's, and vice versa.
`bits`: whether backbones of each family come to the same bits again and after a stop, and how far predictions on the
card are from those on the CPU. `sweep`: backbones of One-Step PASI on five folds, with photographs of 128 px; all 29,
or those that `--backbones` names.

Measurements are kept in `--measured` with the commit of their code, and are not repeated; the page can then be
written on a machine without a GPU. To repeat them, name another file. casewise and fastai have 16-bit activations,
and batches of 32; fastai has eight workers. The page follows, with its figures in braces.

# On a GPU

{card}

## Epochs of 224 px

All parameters of five networks are trained on radiographs, in mixed precision, in batches of {batch}. casewise, on two
threads, reads a store that it has built before; fastai, with {workers} workers, decodes the files in every epoch.
*Busy*: the share of time in which the card computes anything; *memory*: the most that PyTorch has allocated.

{epochs}

## Time to the same accuracy

MobileNetV2 with its ImageNet weights on {films} films of three classes (copies found later are among
them), {held_out} of them of subjects who are held out; all parameters for {rounds} epochs, one-cycle, a
learning rate of 0.001. Seconds begin before the files are read.

{accuracy}

## Bits, and the same predictions as on a CPU

Backbones of each family are trained for three epochs on synthetic panels, in bfloat16, then once again, and once with a
stop between epochs; the weights are compared bit by bit. Predictions are made in single precision on the card and on
the CPU.

{bits}

## The networks of One-Step PASI

{sweep}
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import training
import users
from pages import DATA, head_of, page_parser, publish, table
from users import BATCH, SEED, SIDE

from casewise.files import write_json
from casewise.version import __version__

ROOT = Path(__file__).resolve().parent.parent
WORKERS, SEEDS, ROUNDS = 8, (0, 1), 6
PANELS, TILE = 32, 128
# One or two of each family of the 29.
FAMILIES = ("alexnet", "vgg11", "vgg13_bn", "resnet34", "resnext50_32x4d", "squeezenet1_1", "densenet121", "googlenet")
FAMILIES += ("shufflenet_v2_x1_0", "mobilenet_v2", "mobilenet_v3_small", "mnasnet1_0")
SUBJECTS, JOBS = 24, 10
STUDY = """extends: {sweep}
name: gpu-sweep
cohort: {cohort}
images: {{size: 128}}
backbones: [{backbones}]
compute: {{device: cuda, precision: auto, jobs: {jobs}}}
evaluation: {{counterfactual_cases: 0}}
"""


class Watch:
    """What nvidia-smi reads ten times a second: the percentage of time the card is busy, and its memory in MB."""

    def __init__(self) -> None:
        query = [
            "nvidia-smi",
            "--query-gpu=utilization.gpu,memory.used",
            "--format=csv,noheader,nounits",
            "-lms",
            "100",
        ]
        self.process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
        self.readings: list[tuple[float, float, float]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            busy, memory = line.split(",")
            self.readings.append((time.perf_counter(), float(busy), float(memory)))

    def last(self, seconds: float) -> dict[str, float]:
        """The mean share of the last seconds, and the most memory in them; ends the readings."""
        begun = time.perf_counter() - seconds
        self.process.terminate()
        read = [(busy, memory) for when, busy, memory in self.readings if when >= begun] or [(float("nan"),) * 2]
        return {"busy": statistics.fmean(busy for busy, _ in read), "used_mb": max(memory for _, memory in read)}


def commit() -> str:
    """The commit of the code; refused if there are changes that no commit has, because nobody could repeat them."""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src"], cwd=ROOT, check=False).returncode
    if changed:
        sys.exit("src has changes that are not committed. A measurement states the commit of its code.")
    head = ["git", "rev-parse", "--short=8", "HEAD"]
    return subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def card() -> dict[str, str]:
    """What the measurements were made on."""
    driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {
        "gpu": torch.cuda.get_device_name(),
        "memory": f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GB",
        "driver": subprocess.run(driver, capture_output=True, text=True, check=True).stdout.strip(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
    }


# epochs


def epochs(options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of each network, of casewise and of fastai."""
    names, steps = (training.NETWORKS[1:2], 10) if options.short else (training.NETWORKS, 60)
    study = {**training.IMAGE_STUDY, "compute": {"device": "cuda"}}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        paths, labels = training.radiographs(options.data / "covid-cxr", Path(temporary), steps * BATCH)
        tiles = [[row % len(paths)] for row in range(steps * BATCH)]
        own = {"paths": paths, "tiles": tiles, "truth": [[float(labels[row])] for (row,) in tiles], "side": SIDE}
        other = {"paths": paths, "labels": labels, "steps": steps, "workers": WORKERS, "mixed": True}
        for name in names:
            sides = {
                "casewise": {**own, "program": "casewise", "study": {**study, "backbones": [name]}},
                "fastai": {**other, "program": "fastai", "network": name},
            }
            results[name] = {side: users.in_own_process(__file__, task) for side, task in sides.items()}
            print(name, results[name], flush=True)
    return results


def epoch_of_casewise(task: dict[str, Any]) -> dict[str, float]:
    """Images a second of an epoch, the share of it in which the card is busy, and the memory."""
    watch = Watch()
    seconds = training.with_casewise(task)["epoch"]
    return _speed(len(task["tiles"]) / seconds, seconds, watch)


def epoch_of_fastai(task: dict[str, Any]) -> dict[str, float]:
    """The same of fastai."""
    watch = Watch()
    rate = users.fastai_speed(task)["rate"]
    return _speed(rate, task["steps"] * BATCH / rate, watch)


def _speed(rate: float, seconds: float, watch: Watch) -> dict[str, float]:
    return {"rate": rate, **watch.last(seconds), "memory_mb": torch.cuda.max_memory_allocated() / 2**20}


def lines_of_epochs(results: dict[str, Any]) -> str:
    """The table of epochs."""
    rows, ratios = [], []
    for name, sides in results.items():
        ratios.append(sides["casewise"]["rate"] / sides["fastai"]["rate"])
        rows.append([name, *(f"{side['rate']:,.0f}" for side in sides.values()), f"{ratios[-1]:.2f}"])
        rows[-1] += [f"{side['busy']:.0f} %" for side in sides.values()]
        rows[-1] += [f"{side['memory_mb']:,.0f} MB" for side in sides.values()]
    heads = ["network", "casewise, images/s", "fastai, images/s", "ratio", "busy, casewise", "busy, fastai"]
    mean = f"\nGeometric mean of the ratios: {statistics.geometric_mean(ratios):.2f}."
    return "\n".join([*table([*heads, "memory, casewise", "memory, fastai"], rows), mean])


# accuracy


def accuracy(options: argparse.Namespace) -> dict[str, Any]:
    """After each epoch the seconds and the accuracy on held-out subjects, of casewise and of fastai."""
    pack = options.data / "covid-cxr"
    rows = pd.read_csv(pack / "cases.csv", dtype=str, keep_default_na=False)
    rows = rows[rows["duplicate_of"] == ""].reset_index(drop=True)
    held_out = [int(sha256(subject.encode()).hexdigest(), 16) % 4 == 0 for subject in rows["subject"]]
    task = {
        "paths": [str((pack / path).resolve()) for path in rows["path"]],
        "labels": rows["label"].tolist(),
        "subjects": rows["subject"].tolist(),
        "held_out": held_out,
        "weights": str(options.weights.resolve()),
        "epochs": 2 if options.short else ROUNDS,
    }
    curves: dict[str, Any] = {"casewise": [], "fastai": []}
    for seed in SEEDS[:1] if options.short else SEEDS:
        for side, found in curves.items():
            found.append(users.in_own_process(__file__, {**task, "program": f"{side} curve", "seed": seed}))
            print(side, found[-1], flush=True)
    return {"curves": curves, "films": len(rows), "held_out": sum(held_out)}


def curve_of_casewise(task: dict[str, Any]) -> dict[str, list[float]]:
    """After each epoch the seconds and the accuracy."""
    from casewise.modalities.dataset import PanelData, open_tiles
    from casewise.modalities.store.preparation import Preparation
    from casewise.modalities.store.store_builder import prepare
    from casewise.models.backbones import build_network
    from casewise.models.outputs import Output
    from casewise.models.weights import load_weights
    from casewise.study.schema import Panels, Recipe
    from casewise.training.compute_plan import ComputePlan
    from casewise.training.loop import TrainingContext, standardise
    from casewise.training.stages import learn

    outputs, rows = (Output("label", "classification", len(training.CLASSES), main=True),), range(len(task["paths"]))
    recipe = Recipe(
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.01,
        batch_size=BATCH,
        epochs=task["epochs"],
        schedule="one-cycle",
        early_stopping={"monitor": "inner"},
    )
    seconds: list[float] = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        built = prepare([Path(path) for path in task["paths"]], Preparation(size=SIDE), folder / "tiles")
        truth = torch.tensor([[float(training.CLASSES.index(label))] for label in task["labels"]])
        panels = Panels(by="image", augmentation="fastai-default", flip="horizontal")
        data = PanelData(open_tiles(folder / "tiles", built.address), [[row] for row in rows], truth, panels)
        train = data.subset([row for row in rows if not task["held_out"][row]])
        held_out = data.subset([row for row in rows if task["held_out"][row]])
        torch.manual_seed(task["seed"])
        network = build_network("mobilenet_v2", len(training.CLASSES))
        load_weights(network, "pretrained", folder=Path(task["weights"]))
        standardise(network, train.truth, outputs)
        context = TrainingContext(
            outputs,
            folder,
            task["seed"],
            ComputePlan("cuda", "bf16"),
            tell=lambda *_: seconds.append(time.perf_counter() - start),
            keep="last",
        )
        learned = learn(network, recipe, train, held_out, [], context)
    return {"seconds": seconds, "accuracy": [entry["stop_accuracy"] for entry in learned.history]}


def curve_of_fastai(task: dict[str, Any]) -> dict[str, list[float]]:
    """After each epoch the seconds and the accuracy."""
    from fastai.vision.all import Callback, set_seed
    from fastai.vision.all import accuracy as accuracy_of

    seconds: list[float] = []

    class Ends(Callback):
        """Notes when an epoch ends."""

        order = 90

        def after_epoch(self) -> None:
            seconds.append(time.perf_counter() - start)

    set_seed(task["seed"])
    start = time.perf_counter()
    rows = pd.DataFrame({"path": task["paths"], "label": task["labels"], "is_valid": task["held_out"]})
    weights = f"{task['weights']}/mobilenet_v2.safetensors"
    learner = users.fastai_learner(rows, "/", "mobilenet_v2", weights, workers=WORKERS).to_fp16()
    learner.metrics = [accuracy_of]
    learner.unfreeze()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(task["epochs"], 1e-3, cbs=Ends())
    return {"seconds": seconds, "accuracy": [float(values[2]) for values in learner.recorder.values]}


def lines_of_accuracy(results: dict[str, Any]) -> str:
    """When each side is as accurate as the less accurate one is at the end, on average."""
    curves = results["curves"]
    last = {side: statistics.fmean(curve["accuracy"][-1] for curve in found) for side, found in curves.items()}
    aim = min(last.values())
    rows = []
    for side, found in curves.items():
        for number, curve in enumerate(found):
            pairs = zip(curve["seconds"], curve["accuracy"], strict=True)
            when = next((f"{second:.0f} s" for second, share in pairs if share >= aim), "not reached")
            shares = ", ".join(f"{share:.1%}" for share in curve["accuracy"])
            rows.append([side, number, f"{curve['seconds'][0]:.0f}, {curve['seconds'][-1]:.0f} s", shares, when])
    heads = ["side", "seed", "end of the first and the last epoch", "accuracy after each epoch", f"{aim:.1%} reached"]
    means = ", ".join(f"{side} {share:.1%}" for side, share in last.items())
    said = f"\nAccuracy after the last epoch, on average over the seeds: {means}."
    return "\n".join([*table(heads, rows), said])


# bits


def bits(options: argparse.Namespace) -> dict[str, Any]:
    """Of each backbone whether its bits are the same, and the largest difference of a probability from a CPU's."""
    from casewise.modalities.dataset import PanelData
    from casewise.models.backbones import build_network
    from casewise.models.outputs import Output
    from casewise.models.shared_parts import predict_together
    from casewise.study.schema import Panels, Recipe
    from casewise.training.compute_plan import ComputePlan
    from casewise.training.loop import TrainingContext, fit, standardise

    outputs, generator = (Output("label", "classification", 3),), torch.Generator().manual_seed(SEED)
    truth = torch.arange(PANELS).remainder(3).float().unsqueeze(1)
    coarse = torch.rand(4 * PANELS, 3, 8, 8, generator=generator)
    for row in range(PANELS):
        coarse[4 * row : 4 * row + 4, row % 3] += 0.3
    store = torch.nn.functional.interpolate(coarse.clamp(0, 1) * 255, size=TILE, mode="bilinear").to(torch.uint8)
    settings = Panels(by="region", grid="2x2", shuffle=True, rotate=180, brightness=0.2, contrast=0.2)
    data = PanelData(store, [list(range(4 * row, 4 * row + 4)) for row in range(PANELS)], truth, settings)
    recipe = Recipe(optimizer="sgd", lr=0.003, momentum=0.9, batch_size=16, epochs=3)
    results: dict[str, Any] = {}
    for name in FAMILIES[-2:] if options.short else FAMILIES:
        torch.manual_seed(SEED)
        first = build_network(name, 3)
        standardise(first, truth, outputs)
        with tempfile.TemporaryDirectory() as temporary:

            def trained(folder: str, until: int | None = None, first: Any = first, parent: str = temporary) -> Any:
                plan, path = ComputePlan("cuda", "bf16"), Path(parent) / folder
                path.mkdir(exist_ok=True)
                save_every = 0 if until else 3600
                context = TrainingContext(outputs, path, SEED, plan, save_every=save_every, keep="last", until=until)
                return fit(deepcopy(first), recipe, data, data, context).network

            whole, again, _, continued = (trained(*each) for each in (("a",), ("b",), ("c", 1), ("c",)))
        values = []
        for device in ("cuda", "cpu"):
            network = whole.to(device)
            values.append(predict_together([network], data, outputs, batch=4, channels_last=True, flips=False)[0][0])
        results[name] = {
            "again": same_bits(whole, again),
            "continued": same_bits(whole, continued),
            "difference": float((values[0] - values[1]).abs().max()),
            "range": float(values[1].max() - values[1].min()),
        }
        print(name, results[name], flush=True)
    return results


def same_bits(network: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks have the same weights."""
    states = [{name: values.cpu() for name, values in each.state_dict().items()} for each in (network, other)]
    return all(torch.equal(values, states[1][name]) for name, values in states[0].items())


def lines_of_bits(results: dict[str, Any]) -> str:
    """How many backbones have the same bits, and the table."""
    counts = [sum(result[key] for result in results.values()) for key in ("again", "continued")]
    worst = max(results, key=lambda name: results[name]["difference"])
    said = (
        f"Of {len(results)} backbones {counts[0]} have the same bits when they are trained again, and {counts[1]} "
        f"after a stop. The largest difference of a probability between card and CPU is "
        f"{results[worst]['difference']:.1e} ({worst}).\n"
    )
    words = {True: "same bits", False: "other bits"}
    rows = [
        [name, words[result["again"]], words[result["continued"]], f"{result['difference']:.1e}"]
        for name, result in results.items()
    ]
    heads = ["backbone", "trained again", "after a stop", "largest difference of a probability from a CPU's"]
    return "\n".join([said, *table(heads, rows)])


# sweep


def sweep(options: argparse.Namespace) -> dict[str, Any]:
    """The 29 backbones on five folds as one study."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-sweep-"))
    command = [sys.executable, "-m", "casewise.cli.main"]
    size = ["--subjects", str(SUBJECTS), "--visits", "2", "--size", "320x212", "--seed", str(SEED)]
    subprocess.run([*command, "phantom", str(folder / "cohort"), *size], check=True)
    backbones = options.backbones
    places = {"sweep": ROOT / "studies" / "sweep.yaml", "cohort": folder / "cohort" / "visits.csv"}
    (folder / "study.yaml").write_text(STUDY.format(**places, backbones=backbones, jobs=JOBS))
    watch, start, trained, finished = Watch(), time.monotonic(), 0.0, 0
    words = ["run", str(folder / "study.yaml"), "--output", str(folder / "run")]
    process = subprocess.Popen([*command, *words], start_new_session=True)
    while process.poll() is None and (seconds := time.monotonic() - start) < options.limit:
        if (now := sum(1 for _ in (folder / "run" / "jobs").rglob("job.json"))) > finished:
            finished, trained = now, seconds
        time.sleep(1)
    ended = process.poll()
    if ended is None:
        os.killpg(process.pid, signal.SIGKILL)
    seconds = time.monotonic() - start
    records = [json.loads(file.read_text()) for file in sorted((folder / "run" / "jobs").rglob("job.json"))]
    records = [record for record in records if record.get("history")]
    return {
        "code": ended,
        "seconds": seconds,
        "trained": trained,
        "backbones": backbones.split(","),
        "networks": len(records),
        "job_seconds": sum(record["seconds"] for record in records),
        "epochs": sum(len(record["history"]) for record in records),
        "precisions": sorted({record["precision"] for record in records}),
        **watch.last(seconds),
    }


def lines_of_sweep(result: dict[str, Any]) -> str:
    """What it took, in a sentence."""
    from casewise.console import duration

    ends = {0: f"the report was made after {duration(result['seconds'])}", None: "the report was not waited for"}
    every = result["backbones"] == ["all29"]
    listed = "all 29 backbones" if every else " and ".join(result["backbones"])
    end = ends.get(result["code"], f"the run ended with code {result['code']}")
    return (
        f"{result['networks']} networks ({listed} on five folds), {JOBS} at a time, with the recipe of the preset for "
        f"12 epochs, on synthetic photographs of {2 * SUBJECTS} visits in panels of four of {TILE} px, from "
        f"random weights: they were trained after {duration(result['trained'])}, and {end}. "
        f"On average a network took {result['job_seconds'] / max(1, result['networks']):.0f} s beside the others. The "
        f"card was busy for {result['busy']:.0f} % of the time, and {result['used_mb'] / 1024:.0f} GB were "
        "in use at most. The photographs say nothing about patients."
        f"{'' if every else ' The other backbones were not trained as a study on a GPU.'}"
    )


MEASURE: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "epochs": epochs,
    "accuracy": accuracy,
    "bits": bits,
    "sweep": sweep,
}
PROGRAMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "casewise": epoch_of_casewise,
    "fastai": epoch_of_fastai,
    "casewise curve": curve_of_casewise,
    "fastai curve": curve_of_fastai,
}


def page(measured: dict[str, Any]) -> str:
    """The page of what was measured."""
    machine = measured["card"]
    text = (
        f"Measured on one {machine['gpu']} ({machine['memory']}, driver {machine['driver']}) with {machine['cores']} "
        f"cores, Python {machine['python']} and PyTorch {machine['torch']}, by casewise {measured['version']} (commit "
        f"{measured['commit']})."
    )
    return head_of(
        __doc__,
        card=text,
        batch=BATCH,
        workers=WORKERS,
        rounds=ROUNDS,
        films=f"{measured['accuracy']['films']:,}",
        held_out=measured["accuracy"]["held_out"],
        epochs=lines_of_epochs(measured["epochs"]),
        accuracy=lines_of_accuracy(measured["accuracy"]),
        bits=lines_of_bits(measured["bits"]),
        sweep=lines_of_sweep(measured["sweep"]),
    )


def main() -> None:
    """Measure what is not measured yet, and write the page if nothing is missing."""
    parser = page_parser(__doc__, data=True)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(MEASURE)}; by default all")
    parser.add_argument("--short", action="store_true", help="a try: few networks, steps and epochs")
    parser.add_argument("--weights", type=Path, default=DATA.parent / "weights", help="the folder of first weights")
    parser.add_argument("--measured", type=Path, default=ROOT / "benchmarks" / "gpu.json", help="what was measured")
    parser.add_argument("--backbones", default="all29", help="of the sweep, separated by commas")
    parser.add_argument("--limit", type=float, default=86_400, help="seconds after which the sweep is stopped")
    parser.add_argument("--task", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        task = json.load(sys.stdin)
        print(json.dumps(PROGRAMS[task["program"]](task)))
        return
    if unknown := set(options.parts) - set(MEASURE):
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(MEASURE)}.")
    measured = json.loads(options.measured.read_text()) if options.measured.exists() else {}
    missing = [part for part in options.parts or MEASURE if part not in measured]
    if missing and not torch.cuda.is_available():
        sys.exit(f"This machine has no GPU, and {options.measured} lacks {', '.join(missing)}.")
    options.measured.parent.mkdir(parents=True, exist_ok=True)
    for part in missing:
        begun = time.perf_counter()
        measured |= {"commit": commit(), "version": __version__, "card": card(), part: MEASURE[part](options)}
        write_json(options.measured, measured)
        print(f"{part}: {time.perf_counter() - begun:.0f} s", flush=True)
    if set(MEASURE) <= set(measured):
        publish(page(measured), options.output)


if __name__ == "__main__":
    main()
