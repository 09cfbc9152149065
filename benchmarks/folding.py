"""Batch norms that keep their statistics, folded into the convolution before them and computed by themselves.

    python benchmarks/folding.py [--networks mobilenet_v2 ...] [--steps 4]

A step (forward, backward, AdamW) of the whole network on 32 panels of noise of 224 px, with random weights, one thread
and the memory treated as in a run. Both ways take turns in one process. Printed are CPU seconds a step, the least of
all steps, and the memory of what is kept for the backward pass, in MB of 2^20 bytes.
"""

from __future__ import annotations

import argparse
import time
from collections import OrderedDict

import torch
from torch import Tensor, nn

from casewise.models.backbones import build_network, keep_statistics
from casewise.models.layers import FoldingSequential
from casewise.training.cost import keep_memory

NETWORKS = ("mobilenet_v2", "shufflenet_v2_x0_5", "efficientnet_b0", "densenet121", "resnet34")
BATCH, SIDE = 32, 224


def made(name: str, *, folded: bool) -> nn.Module:
    """A network in training with its statistics kept."""
    torch.manual_seed(0)
    network = build_network(name, 2).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    for name, module in [] if folded else list(network.named_modules()):
        if isinstance(module, FoldingSequential):
            outer, _, child = name.rpartition(".")
            setattr(network.get_submodule(outer), child, nn.Sequential(OrderedDict(module.named_children())))
    keep_statistics(network)
    return network  # type: ignore[no-any-return]


def step(network: nn.Module, optimizer: torch.optim.Optimizer, panels: Tensor) -> tuple[float, float]:
    """CPU seconds of a step, and the MB that are kept for its backward pass."""
    kept: dict[int, int] = {}

    def note(values: Tensor) -> Tensor:
        kept[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
        return values

    start = time.process_time()
    optimizer.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda values: values):
        loss = network(panels).square().mean()
    loss.backward()
    optimizer.step()
    return time.process_time() - start, sum(kept.values()) / 2**20


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    panels = torch.rand(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    print(f"CPU seconds and MB of a step of {BATCH} panels of {SIDE} px, statistics of batch norms kept")
    print(f"{'':20}{'by itself':>18}{'folded':>18}{'time':>8}{'memory':>8}")
    for name in options.networks:
        networks = [made(name, folded=folded) for folded in (False, True)]
        optimizers = [torch.optim.AdamW(network.parameters(), 1e-4) for network in networks]
        costs: list[list[tuple[float, float]]] = [[], []]
        for _ in range(options.steps + 1):
            for way in (0, 1):
                costs[way].append(step(networks[way], optimizers[way], panels))
        (apart, apart_mb), (together, together_mb) = (map(min, zip(*way[1:], strict=True)) for way in costs)
        print(
            f"{name:20}{apart:9.3f} s{apart_mb:5.0f} MB{together:9.3f} s{together_mb:5.0f} MB{together / apart:7.2f}×"
            f"{together_mb / apart_mb:7.2f}×",
            flush=True,
        )


if __name__ == "__main__":
    main()
