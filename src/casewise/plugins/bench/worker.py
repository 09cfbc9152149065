"""A measuring process of `casewise bench`: it answers tasks, one line of JSON each, until its input ends.

Settings that a process cannot undo (the allocator) and parallel jobs need separate processes. Imports that only some
tasks need are made by the task.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from casewise.errors import CasewiseError, TrainingError
from casewise.models.backbones import Network, build_network
from casewise.models.outputs import Output, width_of
from casewise.study.recipe import Compute, Phase, Recipe
from casewise.study.schema import Panels
from casewise.training.compute_plan import ComputePlan, choose, has_bf16, step_seconds
from casewise.training.cost import keep_memory

if TYPE_CHECKING:
    from casewise.modalities.dataset import PanelData

# What the processes send each other, as JSON: a task and its options, or the answer.
Answer: TypeAlias = dict[str, Any]

OUTPUTS = (Output("label", "classification", 2, True),)
BLOCKS = 11


class Worker:
    """One network, one tile store, one thread unless a task specifies more."""

    def __init__(self, *, backbone: str, size: int, batch: int, images: str, keep: bool) -> None:
        torch.set_num_threads(1)
        if keep:
            keep_memory()
        self.backbone, self.size, self.batch = backbone, size, batch
        self.images = Path(images)
        self.paths = sorted(self.images.glob("*.jpg"))
        self.network = self._fresh()
        try:
            with torch.inference_mode():
                self.network.eval().features(torch.zeros(1, 3, size, size))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise CasewiseError(
                f"--size: {backbone} does not accept images of {size} px: {str(error).splitlines()[0]}. Choose "
                "another size."
            ) from error

    def _fresh(self) -> Network:
        torch.manual_seed(0)
        return build_network(self.backbone, width_of(OUTPUTS))

    def answer(self, task: str, options: Answer) -> Answer:
        """Do one task."""
        tasks: dict[str, Callable[..., Answer]] = {
            "steps": self.steps,
            "inference": self.inference,
            "store": self.store,
            "read": self.read,
            "decode": self.decode,
            "phase": self.phase,
            "choose": self.choose,
        }
        return tasks[task](**options)

    def steps(self, *, options: Sequence[Sequence[Any]], rounds: int) -> Answer:
        """Seconds of training steps, one list per option."""
        possible = [(str(o[0]), bool(o[1]), int(o[2])) for o in options if o[0] == "fp32" or has_bf16()]
        seconds = step_seconds(self.network, possible, side=self.size, batch=self.batch, least_rounds=rounds)
        return {"seconds": [seconds.get((str(o[0]), bool(o[1]), int(o[2])), []) for o in options]}

    def inference(self, *, rounds: int) -> Answer:
        """Seconds of predicting a batch in fp32 and in bfloat16, in turns."""
        panels = torch.rand(self.batch, 3, self.size, self.size).to(memory_format=torch.channels_last)
        network = self.network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        times: dict[bool, list[float]] = {False: [], True: []}
        with torch.inference_mode():
            for _ in range(1 + rounds):
                for bf16 in times if has_bf16() else (False,):
                    start = time.perf_counter()
                    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                        network(panels)
                    times[bf16].append(time.perf_counter() - start)
        return {"seconds": [times[False][1:], times[True][1:]]}

    def store(self) -> Answer:
        """Seconds of preparing the tile store, in one thread."""
        from casewise.modalities.store.preparation import Preparation
        from casewise.modalities.store.store_builder import prepare

        start = time.perf_counter()
        prepare(self.paths, Preparation(size=self.size), self.images / "tiles", processes=1)
        return {"seconds": time.perf_counter() - start}

    def _data(self, count: int | None = None) -> PanelData:
        from casewise.modalities.dataset import PanelData, open_tiles
        from casewise.modalities.store.store import open_store

        folder = self.images / "tiles"
        store = open_tiles(folder, open_store(folder).address)[: count or len(self.paths)]
        truth = torch.arange(len(store)).remainder(2).float().unsqueeze(1)
        names = [str(row) for row in range(len(store))]
        return PanelData(store, [[row] for row in range(len(store))], truth, Panels(by="image"), names)

    def read(self) -> Answer:
        """Seconds of reading every image once from the store, in batches as in training."""
        from casewise.modalities.dataset import epoch_batches

        data, generator = self._data(), torch.Generator().manual_seed(0)
        start = time.perf_counter()
        for rows in epoch_batches(len(data), self.batch, 0, 1):
            data.training_batch(rows, generator, torch.device("cpu"))
        return {"seconds": time.perf_counter() - start}

    def decode(self) -> Answer:
        """Seconds of decoding and resizing every image once, with the reader that fills the store."""
        from casewise.modalities.store.preparation import Preparation
        from casewise.modalities.store.readers import fit, read_image

        start = time.perf_counter()
        for path in self.paths:
            torch.from_numpy(fit(read_image(path, size=self.size), Preparation(self.size))).float().div_(255)
        return {"seconds": time.perf_counter() - start}

    def phase(self, *, frozen: str, once: bool, epochs: int) -> Answer:
        """Seconds of a training phase up to the end of its first epoch, of a later epoch, and the strategy.

        As in a job of a run, on images without augmentation; `frozen` is `all`, or `some` blocks.
        """
        from casewise.training.loop import TrainingContext
        from casewise.training.stages import learn

        network, data = self._fresh(), self._data()
        at = "all" if frozen == "all" else f"{min(BLOCKS, max(1, 3 * len(network.blocks) // 5))} blocks"
        recipe = Recipe.model_validate(
            {
                "batch_size": self.batch,
                "schedule": "constant",
                "lr": 0.001,
                "early_stopping": {"monitor": "none"},
                "phases": [Phase(epochs=epochs, freeze=at)],
            }
        )
        ends: list[float] = []

        def record(_: int, __: float) -> None:
            ends.append(time.perf_counter())

        with TemporaryDirectory(dir=self.images) as folder:
            plan = ComputePlan("cpu", "fp32", True, 1)
            context = TrainingContext(OUTPUTS, Path(folder), 0, plan, 1e9, "last", record, once)
            start = time.perf_counter()
            try:
                facts = learn(network, recipe, data, self._data(1), [], context).phases[0]
            except TrainingError as error:
                raise CasewiseError(f"{self.backbone}: {error}.") from None
        later = statistics.median(b - a for a, b in pairwise(ends))
        return {"first": ends[0] - start, "later": later, "at": at, "once": "once" in facts["way"], "way": facts["way"]}

    def choose(self, *, threads: int) -> Answer:
        """The options that a run would choose for networks with this number of threads."""
        compute = Compute(device="cpu")
        plan = choose(self._fresh(), compute, side=self.size, batch=self.batch, threads=threads, memo=None)
        return {"precision": plan.precision, "channels_last": plan.channels_last, "threads": plan.threads}


def main() -> None:
    """Answer tasks; output of libraries goes to stderr, so that the answers stay readable."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker: Worker | None = None
    for line in sys.stdin:
        options = json.loads(line)
        try:
            if worker is None:
                worker, answer = Worker(**options), {"torch": torch.__version__, "bf16": has_bf16()}
            else:
                answer = worker.answer(options.pop("task"), options)
        except CasewiseError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
