"""One process of `casewise bench`: it answers tasks, a line of JSON each, until its input ends.

What cannot be undone in a process (the allocator) or what is about several of them has processes of its own. What
only some of them need is imported by the task.
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
from typing import TYPE_CHECKING, Any

import torch

from casewise.errors import CasewiseError, TrainingError
from casewise.models.backbones import Network, build_network
from casewise.models.outputs import Output, width_of
from casewise.study.schema import Compute, Panels, Phase, Recipe
from casewise.training.compute_plan import ComputePlan, choose, has_bf16, keep_memory, step_seconds

if TYPE_CHECKING:
    from casewise.modalities.dataset import PanelData

OUTPUTS = (Output("label", "classification", 2, True),)
BLOCKS = 11


class Worker:
    """One network, one tile store, one thread unless a task says otherwise."""

    def __init__(self, *, backbone: str, size: int, batch: int, images: str, kept: bool) -> None:
        torch.set_num_threads(1)
        if kept:
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
                f"--size: {backbone} cannot take images of {size} px: {str(error).splitlines()[0]}. Give another size."
            ) from error

    def _fresh(self) -> Network:
        torch.manual_seed(0)
        return build_network(self.backbone, width_of(OUTPUTS))

    def answer(self, task: str, given: dict[str, Any]) -> dict[str, Any]:
        """Do one task."""
        tasks: dict[str, Callable[..., dict[str, Any]]] = {
            "steps": self.steps,
            "inference": self.inference,
            "store": self.store,
            "read": self.read,
            "decode": self.decode,
            "phase": self.phase,
            "choose": self.choose,
        }
        return tasks[task](**given)

    def steps(self, *, options: Sequence[Sequence[Any]], rounds: int) -> dict[str, Any]:
        """Seconds of training steps, for each option a list."""
        tried = [(str(o[0]), bool(o[1]), int(o[2])) for o in options if o[0] == "fp32" or has_bf16()]
        found = step_seconds(self.network, tried, side=self.size, batch=self.batch, least_rounds=rounds)
        return {"seconds": [found.get((str(o[0]), bool(o[1]), int(o[2])), []) for o in options]}

    def inference(self, *, rounds: int) -> dict[str, Any]:
        """Seconds of predicting a batch in fp32 and in bfloat16, in turns."""
        panels = torch.rand(self.batch, 3, self.size, self.size).to(memory_format=torch.channels_last)
        network = self.network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        times: dict[bool, list[float]] = {False: [], True: []}
        with torch.inference_mode():
            for _ in range(1 + rounds):
                for bf16 in times if has_bf16() else (False,):
                    begun = time.perf_counter()
                    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                        network(panels)
                    times[bf16].append(time.perf_counter() - begun)
        return {"seconds": [times[False][1:], times[True][1:]]}

    def store(self) -> dict[str, Any]:
        """Seconds of making the tile store, in one thread."""
        from casewise.modalities.store.preparation import Preparation
        from casewise.modalities.store.store_builder import prepare

        begun = time.perf_counter()
        prepare(self.paths, Preparation(size=self.size), self.images / "tiles", processes=1)
        return {"seconds": time.perf_counter() - begun}

    def _data(self, count: int | None = None) -> PanelData:
        from casewise.modalities.dataset import PanelData, open_tiles
        from casewise.modalities.store.store import open_store

        folder = self.images / "tiles"
        store = open_tiles(folder, open_store(folder).address)[: count or len(self.paths)]
        truth = torch.arange(len(store)).remainder(2).float().unsqueeze(1)
        names = [str(row) for row in range(len(store))]
        return PanelData(store, [[row] for row in range(len(store))], truth, Panels(by="image"), names)

    def read(self) -> dict[str, Any]:
        """Seconds of taking every image once from the store, in batches as training does."""
        from casewise.modalities.dataset import batches

        data, generator = self._data(), torch.Generator().manual_seed(0)
        begun = time.perf_counter()
        for rows in batches(len(data), self.batch, generator):
            data.training_batch(rows, generator, torch.device("cpu"))
        return {"seconds": time.perf_counter() - begun}

    def decode(self) -> dict[str, Any]:
        """Seconds of decoding and reducing every image once, by the reader that fills the store."""
        from casewise.modalities.store.readers import fit, read_image

        begun = time.perf_counter()
        for path in self.paths:
            torch.from_numpy(fit(read_image(path, size=self.size), self.size)).float().div_(255)
        return {"seconds": time.perf_counter() - begun}

    def phase(self, *, frozen: str, once: bool, epochs: int) -> dict[str, Any]:
        """Seconds of a phase of training before the end of its first epoch, of an epoch after it, and how it was done.

        As a job of a run does it, on images that do not vary; `frozen` is `all`, or `some` blocks.
        """
        from casewise.training.phases import in_phases
        from casewise.training.strategies import TrainingContext

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

        def tell(_: int) -> None:
            ends.append(time.perf_counter())

        with TemporaryDirectory(dir=self.images) as folder:
            choice = ComputePlan("cpu", "fp32", True, 1)
            course = TrainingContext(OUTPUTS, Path(folder), 0, choice, 1e9, "last", tell, once)
            begun = time.perf_counter()
            try:
                told = in_phases(network, recipe, data, self._data(1), course)[3][0]
            except TrainingError as error:
                raise CasewiseError(f"{self.backbone}: {error}.") from None
        later = statistics.median(b - a for a, b in pairwise(ends))
        return {"first": ends[0] - begun, "later": later, "at": at, "once": "once" in told["way"], "way": told["way"]}

    def choose(self, *, threads: int) -> dict[str, Any]:
        """What a run would choose for networks that may have so many threads."""
        compute = Compute(device="cpu")
        choice = choose(self._fresh(), compute, side=self.size, batch=self.batch, threads=threads, memo=None)
        return {"precision": choice.precision, "channels_last": choice.channels_last, "threads": choice.threads}


def main() -> None:
    """Answer tasks; what libraries print goes to the errors, so that the answers stay readable."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker: Worker | None = None
    for line in sys.stdin:
        given = json.loads(line)
        try:
            if worker is None:
                worker, told = Worker(**given), {"torch": torch.__version__, "bf16": has_bf16()}
            else:
                told = worker.answer(given.pop("task"), given)
        except CasewiseError as error:
            told = {"error": str(error)}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
