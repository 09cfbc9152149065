"""The cost of training only the head: 50 epochs on cached features, compared with passes over the images.

Prints the seconds of one pass of inference, of `tuning: head_only` for 50 epochs (features included), and of 50 epochs
of a frozen network with a forward pass in every epoch (extrapolated from two epochs).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

BACKBONE, IMAGES, SIZE, EPOCHS, BATCH = "mobilenet_v2", 600, 224, 50, 32


def main() -> None:
    import numpy as np
    import torch
    from joblib import cpu_count
    from torch.nn import functional

    from casewise.modalities.dataset import PanelData
    from casewise.models.backbones import build_network
    from casewise.models.forward import predict
    from casewise.models.outputs import Output
    from casewise.study.schema import Panels, Recipe
    from casewise.training.compute_plan import ComputePlan
    from casewise.training.cost import keep_memory
    from casewise.training.loop import standardise
    from casewise.training.stages import TrainingContext, learn

    keep_memory()
    torch.set_num_threads(cpu_count())
    rng = np.random.default_rng(0)
    store = torch.from_numpy(rng.integers(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 3, (IMAGES, 1)).astype(np.float32))
    data = PanelData(store, [[i] for i in range(IMAGES)], labels, Panels(by="image"))
    outputs = (Output("label", "classification", 3),)
    network = build_network(BACKBONE, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan = ComputePlan(threads=cpu_count())

    def one_pass() -> float:
        start = time.perf_counter()
        predict(network, data, outputs, batch=BATCH, channels_last=True, bf16=False, flips=False)
        return time.perf_counter() - start

    one_pass()
    inference = min(one_pass() for _ in range(2))

    recipe = Recipe(
        tuning="head_only",
        epochs=EPOCHS,
        batch_size=BATCH,
        optimizer="adamw",
        lr=0.001,
        schedule="one-cycle",
        early_stopping={"monitor": "none"},  # type: ignore[arg-type]
    )
    standardise(network, labels, outputs)
    few = PanelData(store, data.tiles[:1], labels[:1], data.settings)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        learn(network, recipe, data, few, [], TrainingContext(outputs, Path(folder), 0, plan, keep="last"))
        head_only = time.perf_counter() - start

    for parameter in network.body.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW(network.head.parameters(), lr=0.001)
    start = time.perf_counter()
    for _ in range(2):
        for rows in torch.randperm(IMAGES).split(BATCH):
            panels = store[rows].float().div_(255).to(memory_format=torch.channels_last)
            loss = functional.cross_entropy(network(panels), labels[rows, 0].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    usual = (time.perf_counter() - start) / 2 * EPOCHS

    print(f"head only, {BACKBONE}, {IMAGES} images of {SIZE} px, {EPOCHS} epochs, {cpu_count()} cores")
    print(f"  one pass of inference            {inference:7.1f} s")
    print(
        f"  tuning: head_only                  {head_only:7.1f} s   {head_only / inference:5.2f} passes (aim: below 2)"
    )
    print(f"  a forward pass in every epoch    {usual:7.1f} s   {usual / head_only:5.0f}× as long")


if __name__ == "__main__":
    main()
