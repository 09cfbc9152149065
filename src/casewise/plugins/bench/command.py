"""The command that measures this machine."""

from __future__ import annotations

from typing import Annotated

import typer

bench = typer.Typer(no_args_is_help=True, help="Measure this machine.")


@bench.callback()
def _bench() -> None:
    pass


@bench.command("cpu", short_help="Measure the speed-up of each fast path on this CPU.")
def bench_cpu(
    backbone: Annotated[str, typer.Option(help="The network to train, with random weights.")] = "mobilenet_v2",
    size: Annotated[int, typer.Option(help="Side of an image in pixels, 32 or more.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Images in a training step.")] = 32,
    images: Annotated[int, typer.Option(help="Number of synthetic images to train on, a batch or more.")] = 192,
) -> None:
    """Measure the speed-up of each fast path of training on this CPU, and print the key that disables it."""
    from casewise.console import Terminal
    from casewise.plugins.bench.cpu import bench_cpu as measure

    print(measure(backbone=backbone, size=size, batch=batch_size, images=images, show=Terminal()))
