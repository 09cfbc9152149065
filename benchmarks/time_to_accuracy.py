"""Time and accuracy of whole recipes: casewise, fastai and Lightning on the same images and folds.

    python benchmarks/time_to_accuracy.py [--packs covid-cxr hpylori] [--networks mobilenet_v2] [--seeds 5]
        [--images 224] [--held-out 128] [--short] [--log FILE] [--output docs/results/time-to-accuracy.md]

Every program trains its whole recipe, which was fixed beforehand, from image files to held-out predictions: none stops
at a lucky epoch. fastai: `vision_learner`, `fine_tune(5)`, `aug_transforms`, two workers. Lightning: the same network
of torchvision, six epochs of AdamW in one cycle, two workers. casewise: `recipe_of` below, a linear head on features
that are computed once (`head`), and the same followed by epochs of the upper blocks on cached activations (`upper`).
All start from the same weights and train on the same images.

Subjects are divided once in five folds. Folds 4 and 5 only ever train: casewise's recipes were chosen on them alone, by
training on some of their subjects and predicting others, as `--tuning` does. A seed holds out fold 1, 2 or 3 in turn,
draws the training images from all other folds, and seeds the programs. Accuracy and AUROC are of the pooled held-out
images; the intervals of differences from fastai are from resamples of subjects, all seeds of a subject together. A
recipe is called not less accurate only where the lower end of this interval lies above minus `MARGIN`.

Times are those of whole processes, with imports: the seconds of the clock, and the CPU seconds of the process and its
workers, which depend less on other load. The compute plan of casewise is measured by the first of its processes and
remembered, as a machine remembers it. Results are kept in `--out`, and finished ones are not measured again while
settings, table, weights, libraries and source code are the same (`address`). Figures are printed, never asserted.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import platform
import resource
import subprocess
import sys
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastai_user

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SHARED = Path(__file__).resolve().parents[2] / "shared"
FOLDS, TUNING_FOLDS, EPOCHS, RESAMPLES = 5, (4, 5), 5, 2000
# The accuracy that a recipe may lose against fastai and still be called not less accurate.
MARGIN = 0.02
# What decides the predictions or the seconds: libraries, parts of casewise, and files beside this one.
LIBRARIES = ("casewise", "torch", "torchvision", "fastai", "lightning", "numpy", "pandas", "scikit-learn", "Pillow")
SOURCES = ("modalities", "models", "study", "training")
USERS = ("casewise_user.py", "fastai_user.py", "lightning_user.py")
# The folder of the images, rows that are copies of others, and whether images have no upright position.
PACKS: dict[str, dict[str, Any]] = {
    "covid-cxr": {"folder": "covid-cxr", "flip_vert": False, "without": {"duplicate_of": None}},
    "hpylori": {
        "folder": "histology-hpylori",
        "flip_vert": True,
        "without": {"subject": ["B22-141", "B22-124"]},
    },
}
USUAL = ("fastai", "lightning", "casewise head", "casewise upper")
# For the choice of a recipe with --tuning: all layers.
PROGRAMS = (*USUAL, "casewise full")
COMMON = {
    "optimizer": "adamw",
    "lr": 3e-4,
    "weight_decay": 0.01,
    "schedule": "one-cycle",
    "batch_size": 32,
    "batch_norm": "keep_statistics",
    "early_stopping": {"monitor": "none"},
}
HEAD = {"epochs": 20, "freeze": "all", "lr": 2e-3}
# Freeze points below the upper blocks, by network.
UPPER = {"mobilenet_v2": "14 blocks", "squeezenet1_1": "features.10"}


def recipe_of(program: str, network: str) -> dict[str, Any]:
    """The recipe of a study file by which casewise trains, fixed before anything is measured."""
    phases: dict[str, list[dict[str, Any]]] = {
        "casewise head": [HEAD],
        "casewise upper": [HEAD, {"epochs": 6, "freeze": UPPER[network]}],
        "casewise full": [HEAD, {"epochs": 6}],
    }
    return {**COMMON, "phases": phases[program]}


# Seconds of one training of mobilenet_v2 with `SIZE` training and `HELD_OUT` held-out images on two idle cores:
# estimates from the images a second of fastai_speed.py, and from CPU seconds of casewise; in proportion for other sizes
EXPECTED: dict[str, float] = {"fastai": 90.0, "lightning": 70.0, "casewise head": 10.0, "casewise upper": 24.0}
EXPECTED |= {"casewise full": 45.0}
# Of whole batches, because fastai and Lightning leave out an incomplete one.
SIZE, HELD_OUT = 224, 128


def table_file(data: Path, pack: str) -> Path:
    """The table of a pack."""
    return data / str(PACKS[pack]["folder"]) / "cases.csv"


def rows_of(pack: str, data: Path) -> pd.DataFrame:
    """Images with path, subject, label and fold (from 1); the folds are the same for all seeds."""
    import numpy as np
    import pandas as pd
    from sklearn.model_selection import StratifiedGroupKFold

    table = pd.read_csv(table_file(data, pack), dtype=str, keep_default_na=False)
    for column, values in PACKS[pack]["without"].items():
        table = table[table[column] == ""] if values is None else table[~table[column].isin(values)]
    table = table[["path", "subject", "label"]].sort_values("path", ignore_index=True)
    folds = np.zeros(len(table), dtype=int)
    divided = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(table, table["label"], table["subject"])
    for fold, (_, held_out) in enumerate(divided, 1):
        folds[held_out] = fold
    return table.assign(fold=folds)


def sides_of(
    table: pd.DataFrame, seed: int, images: int, held_out: int, *, tuning: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training and held-out images of a seed; no subject is on both sides, and every class is on the first.

    With `tuning` all are of the tuning folds, and one of these is held out.
    """
    evaluated = [fold for fold in range(1, FOLDS + 1) if (fold in TUNING_FOLDS) == tuning]
    table = table[table["fold"].isin(TUNING_FOLDS)] if tuning else table
    fold = evaluated[seed % len(evaluated)]
    others, own = table[table["fold"] != fold], table[table["fold"] == fold]
    train = others.sample(min(images, len(others)), random_state=seed).sort_index()
    watched = own.sample(min(held_out, len(own)), random_state=seed).sort_index()
    if set(train["subject"]) & set(watched["subject"]) or set(train["label"]) != set(table["label"]):
        raise SystemExit(f"seed {seed}: the sides share a subject, or no image of a class is trained on.")
    return train.reset_index(drop=True), watched.reset_index(drop=True)


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """One training by one program, in this process; writes the held-out predictions."""
    import pandas as pd
    import torch

    from casewise.files import parquet_bytes, write_atomic

    table = rows_of(task["pack"], Path(task["root"]))
    tuning = bool(task.get("tuning"))
    train, held_out = sides_of(table, task["seed"], task["images"], task["held_out"], tuning=tuning)
    classes = sorted(set(train["label"]))
    facts: dict[str, Any] = {}
    torch.set_num_threads(task["threads"])
    if task["program"] == "fastai":
        values = with_fastai(task, train, held_out, classes)
    elif task["program"] == "lightning":
        import lightning_user

        values = lightning_user.train({**task, "epochs": task["epochs"] + 1}, train, held_out, classes)
    else:
        import casewise_user

        recipe = recipe_of(task["program"], task["network"])
        side = {"recipe": recipe, "panels": {}, "side": fastai_user.SIDE}
        values, facts = casewise_user.train(task | side, train, held_out, classes)
    predictions = held_out.join(pd.DataFrame(values, columns=[f"p_{name}" for name in classes]))
    write_atomic(Path(task["predictions"]), parquet_bytes(predictions))
    return facts


def with_fastai(task: dict[str, Any], train: pd.DataFrame, held_out: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """The probabilities (P, K) of a fastai user's network for the held-out images."""
    import pandas as pd
    from fastai.vision.all import set_seed

    set_seed(task["seed"])
    rows = pd.concat([train.assign(is_valid=False), held_out.assign(is_valid=True)], ignore_index=True)
    learner = fastai_user.make_learner(
        rows,
        task["data"],
        task["network"],
        task["weights"],
        flip_vert=task["flip_vert"],
        workers=fastai_user.WORKERS,
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task["epochs"])
        values, _ = learner.get_preds(ds_idx=1)
    order = [list(learner.dls.vocab).index(name) for name in classes]
    result: np.ndarray = values.numpy()[:, order]
    return result


def measured(task: dict[str, Any]) -> dict[str, Any]:
    """One training in a separate process, with its seconds and the CPU seconds of the process and its workers."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-W", "ignore::FutureWarning", __file__, "--task", json.dumps(task)]
    completed = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if completed.returncode:
        raise SystemExit(f"{task['program']} failed on {task['pack']}; see above.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    facts = json.loads(completed.stdout.splitlines()[-1])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**facts, "seconds": time.perf_counter() - start, "cpu_seconds": cpu, "load": os.getloadavg()[0]}


def tasks_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every training that is asked for; the programs of a seed are beside each other, so that load is shared."""
    from casewise.files import checksum

    tasks = []
    for pack in options.packs:
        table = checksum(table_file(options.data, pack))
        for network in options.networks:
            for seed in range(options.seeds):
                for program in options.programs:
                    name = f"{pack}-{network}-{seed}-{program.replace(' ', '-')}{'-tuning' * options.tuning}"
                    task = {
                        "program": program,
                        "pack": pack,
                        "network": network,
                        "seed": seed,
                        "images": options.images,
                        "held_out": options.held_out,
                        "epochs": options.epochs,
                        "threads": options.threads,
                        "tuning": options.tuning,
                        "table_sha256": table,
                        "root": str(options.data),
                        "data": str(options.data / PACKS[pack]["folder"]),
                        "weights": str(options.weights / f"{network}.safetensors"),
                        "flip_vert": PACKS[pack]["flip_vert"],
                        "predictions": str(options.out / f"{name}.parquet"),
                        "memo": str(options.out / "speed.json"),
                    }
                    task |= {"recipe": recipe_of(program, network)} if program.startswith("casewise") else {}
                    tasks.append(task)
    return tasks


def finished(task: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a training with the same settings; None if there is none."""
    file = Path(task["predictions"]).with_suffix(".json")
    record = json.loads(file.read_text()) if file.is_file() else {}
    return record if record.get("settings") == address(task) else None


def address(task: dict[str, Any]) -> str:
    """A hash of everything that decides a training, but not where files are.

    It contains the settings, the checksums of the table and of the weights, the versions of the libraries, and the
    source. The measurements of all programs are repeated after a change, since their seconds are compared.
    """
    deciding = {name: task[name] for name in task if name not in ("root", "data", "weights", "predictions", "memo")}
    weights = hashlib.sha256(Path(task["weights"]).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps([deciding, weights, versions(), source()], sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The versions of Python and of the libraries; "absent" for one that is not installed."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "absent"
    return found


@lru_cache(maxsize=1)
def source() -> str:
    """A hash of the code that trains and predicts: of casewise, of the peers, and of this file without its page."""
    import casewise

    digest = hashlib.sha256()
    package, here = Path(casewise.__file__).parent, Path(__file__).parent
    files = [path for folder in SOURCES for path in sorted((package / folder).rglob("*.py"))]
    for path in [*files, *(here / name for name in USERS)]:
        digest.update(path.read_bytes())
    for function in (rows_of, sides_of, answer, with_fastai, measured):
        digest.update(inspect.getsource(function).encode())
    digest.update(json.dumps([PACKS, FOLDS, TUNING_FOLDS]).encode())
    return digest.hexdigest()


def expected(tasks: list[dict[str, Any]]) -> float:
    """Seconds that these trainings are expected to take on two idle cores."""
    seconds = 0.0
    for task in tasks:
        share = task["images"] / SIZE
        if not task["program"].startswith("casewise"):
            share *= (task["epochs"] + 1) / (EPOCHS + 1)
        seconds += EXPECTED[task["program"]] * share
    return seconds


def figures(truth: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Accuracy, and AUROC (of several classes the mean over one against the rest)."""
    from sklearn.metrics import roc_auc_score

    accuracy = float((values.argmax(axis=1) == truth).mean())
    if len(set(truth.tolist())) < values.shape[1]:
        return accuracy, float("nan")
    areas = [roc_auc_score(truth == k, values[:, k]) for k in range(values.shape[1])]
    return accuracy, sum(areas) / len(areas)


def judged(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each pack, network and program whose seeds are finished together with fastai's."""
    import numpy as np
    import pandas as pd

    lines = []
    groups = dict.fromkeys((task["pack"], task["network"]) for task in tasks)
    for pack, network in groups:
        of_group = [task for task in tasks if (task["pack"], task["network"]) == (pack, network)]
        records = {(task["program"], task["seed"]): finished(task) for task in of_group}
        files = {(task["program"], task["seed"]): task["predictions"] for task in of_group}
        programs = list(dict.fromkeys(task["program"] for task in of_group))
        seeds = [seed for seed in {task["seed"] for task in of_group} if all(records[p, seed] for p in programs)]
        if not seeds:
            continue
        predictions = {p: pd.concat([pd.read_parquet(files[p, s]) for s in seeds], ignore_index=True) for p in programs}
        first = predictions[programs[0]]
        classes = [name for name in first.columns if name.startswith("p_")]
        truth = first["label"].map([name.removeprefix("p_") for name in classes].index).to_numpy()
        right = {p: rows[classes].to_numpy().argmax(axis=1) == truth for p, rows in predictions.items()}
        subjects, member = np.unique(first["subject"].to_numpy(dtype=str), return_inverse=True)
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(len(subjects), np.full(len(subjects), 1 / len(subjects)), size=RESAMPLES)[:, member]
        for program in programs:
            accuracy, auroc = figures(truth, predictions[program][classes].to_numpy())
            of_program: list[dict[str, Any]] = [records[program, seed] or {} for seed in seeds]
            line = {"pack": pack, "network": network, "program": program, "seeds": len(seeds), "images": len(first)}
            line |= {"accuracy": accuracy, "auroc": auroc}
            line |= {name: sum(r[name] for r in of_program) for name in ("seconds", "cpu_seconds")}
            if "fastai" in programs and program != "fastai":
                gain = right[program].astype(float) - right["fastai"]
                resampled = (drawn * gain).sum(axis=1) / drawn.sum(axis=1)
                low, high = np.percentile(resampled, [2.5, 97.5])
                line["gain"], line["low"], line["high"] = float(gain.mean()), float(low), float(high)
                of_fastai: list[dict[str, Any]] = [records["fastai", seed] or {} for seed in seeds]
                for name in ("seconds", "cpu_seconds"):
                    line[f"fastai_{name}"] = sum(r[name] for r in of_fastai) / line[name]
            lines.append(line)
    return lines


COLUMNS = ("pack", "network", "program", "accuracy", "minus fastai", "AUROC", "s", "CPU s", "times faster", "CPU")


def cells(line: dict[str, Any]) -> list[str]:
    """A line as texts: seconds are those of one training."""
    seeds, gain = line["seeds"], line.get("gain")
    texts = [line["pack"], line["network"], line["program"], f"{line['accuracy']:.3f}"]
    texts += ["–" if gain is None else f"{gain:+.3f} [{line['low']:+.3f}, {line['high']:+.3f}]"]
    texts += [f"{line['auroc']:.3f}", f"{line['seconds'] / seeds:.0f}", f"{line['cpu_seconds'] / seeds:.0f}"]
    return [*texts, *(f"{line[f'fastai_{n}']:.1f}" if gain is not None else "–" for n in ("seconds", "cpu_seconds"))]


def page_of(lines: list[dict[str, Any]], options: argparse.Namespace, load: float) -> str:
    """The Markdown page with what was measured, good or bad."""
    missed = []
    compared = [line for line in lines if line["program"].startswith("casewise") and "gain" in line]
    for line in compared:
        faster = line["fastai_seconds"]
        reasons = [f"{faster:.1f} times as fast as fastai"] * (faster < options.aim)
        if line["high"] < 0:
            reasons.append("less accurate than fastai")
        elif not line["low"] > -MARGIN:  # also where the interval is not a number
            reasons.append(f"not shown to lose at most {MARGIN:g} accuracy")
        if reasons:
            missed.append(f"- {line['pack']}, {line['network']}, {line['program']}: {' and '.join(reasons)}.")
    if not compared:
        verdict = ["Nothing was compared: no line of casewise has one of fastai beside it."]
    elif missed:
        verdict = ["The aim is not reached, or not shown to be reached:", "", *missed]
    else:
        verdict = ["Every line of casewise reaches the aim."]
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(cells(line) for line in lines)]
    means = ", ".join(f"{n} seeds" if n != 1 else "one seed" for n in sorted({line["seeds"] for line in lines}))
    head = [
        "# Time and accuracy of whole recipes",
        "",
        f"The time of a whole training, from image files to held-out predictions, on {fastai_user.CORES} cores. "
        f"fastai: `fine_tune({options.epochs})`, two workers. Lightning and torchvision: {options.epochs + 1} epochs, "
        "two workers. casewise: a recipe that was fixed beforehand, on subjects that are never held out here. Every "
        "program ends its whole recipe; the time until an accuracy is reached for the first time is not measured. "
        f"All train on the same {options.images} images of {fastai_user.SIDE} px with the same first weights, and "
        "predict the same held-out ones.",
        "",
        "`head`: a linear head on features that are computed once. `upper`: the same, then the upper blocks on cached "
        f"activations. The aim: {options.aim:g} times as fast as fastai, and not less accurate: the lower end of the "
        f"95 % interval of the difference lies above {-MARGIN:g}. Where it does not, "
        "this is not shown.",
        "",
        "fastai and Lightning update the statistics of batch norms. Those of these weights were rebuilt from few "
        "photographs, which their users would not know and casewise's recipe avoids. The peers may be better with a "
        "library's own weights.",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        f"Seconds are means over {means or 'seeds'}, with imports; times faster: fastai's seconds by those of the "
        "line, and the same of CPU seconds. Accuracy and AUROC are of the held-out images of all seeds together. In "
        "brackets 95 % intervals from resamples of subjects. In covid-cxr the class is almost "
        "identical to the source, so the figures compare programs and say nothing about the disease.",
        "",
        *verdict,
        "",
        *ahead(lines),
        *([f"Other processes were running (load {load:.1f}): seconds are unreliable.", ""] if load > LOADED else []),
        "Made by `python benchmarks/time_to_accuracy.py --output docs/results/time-to-accuracy.md`.",
    ]
    return "\n".join(head) + "\n"


def ahead(lines: list[dict[str, Any]]) -> list[str]:
    """Where a peer has a higher accuracy or AUROC than a line of casewise, which the aim does not ask for."""
    said = []
    for peer in lines:
        for figure, title in (("accuracy", "accuracy"), ("auroc", "AUROC")):
            behind = [
                line["program"]
                for line in lines
                if line["program"].startswith("casewise")
                and not peer["program"].startswith("casewise")
                and (line["pack"], line["network"]) == (peer["pack"], peer["network"])
                and line[figure] < peer[figure]
            ]
            if behind:
                said.append(
                    f"- {peer['pack']}, {peer['network']}: {peer['program']} has a higher {title} than "
                    f"{' and '.join(behind)}."
                )
    return ["Higher values of the peers, which are no part of the aim:", "", *said, ""] if said else []


# A mean load above what one program with its workers causes.
LOADED = 4.5


def parsed() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", nargs="+", choices=PACKS, default=list(PACKS))
    parser.add_argument("--networks", nargs="+", choices=UPPER, default=["mobilenet_v2"])
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(USUAL))
    parser.add_argument("--tuning", action="store_true", help="compare recipes on the tuning folds alone")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=SIZE, help="training images")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="most held-out images of a seed")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of fine_tune, after the one of the head alone")
    parser.add_argument(
        "--threads",
        type=int,
        default=fastai_user.CORES,
        help="threads of each program; on a busy machine 1, since threads that wait for each other burn time",
    )
    parser.add_argument("--aim", type=float, default=4.0, help="fastai's seconds divided by casewise's")
    parser.add_argument("--short", action="store_true", help="one pack, one seed, two epochs of fastai, few images")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights")
    parser.add_argument("--out", type=Path, default=Path("runs/time-to-accuracy"), help="where results are kept")
    parser.add_argument("--log", type=Path, help="a file for the progress (default: log.txt in --out)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page to write (Markdown)")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.short:
        options.packs, options.seeds, options.images, options.held_out, options.epochs = ["hpylori"], 1, 96, 64, 2
        options.out = options.out / "short"
    return options


def main() -> None:
    """Measure what is missing, print and write the page."""
    options = parsed()
    if options.task:
        print(json.dumps(answer(options.task)))
        return
    from casewise.files import write_atomic, write_json

    if not fastai_user.ready():
        return
    needed = [table_file(options.data, pack) for pack in options.packs]
    needed += [options.weights / f"{network}.safetensors" for network in options.networks]
    absent = [path for path in needed if not path.is_file()]
    if absent:
        print(f"{absent[0]} does not exist. Nothing was measured.")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.log or options.out / "log.txt"

    def tell(text: str) -> None:
        print(text, flush=True)
        with log.open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    tasks = tasks_of(options)
    missing = [task for task in tasks if not finished(task)]
    tell(
        f"{len(missing)} of {len(tasks)} trainings are to be done; on two idle cores they take about "
        f"{expected(missing) / 60:.0f} minutes. Interrupt and run again as you like; log: {log}"
    )
    for number, task in enumerate(missing, 1):
        record = measured(task)
        write_json(Path(task["predictions"]).with_suffix(".json"), {"settings": address(task), **record})
        tell(
            f"{number}/{len(missing)} {task['pack']} {task['network']} seed {task['seed']} {task['program']}: "
            f"{record['seconds']:.0f} s, {record['cpu_seconds']:.0f} CPU s, load {record['load']:.1f}"
        )
    records = [finished(task) or {} for task in tasks]
    load = sum(record.get("load", 0.0) for record in records) / max(1, len(records))
    page = page_of(judged(tasks), options, load)
    tell(page)
    if options.output:
        write_atomic(options.output, page)
        tell(f"page: {options.output}")


if __name__ == "__main__":
    main()
