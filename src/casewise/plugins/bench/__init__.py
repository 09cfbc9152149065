"""The speed-up of the fast paths of training, measured on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.plugin import Command, Plugin


class _Bench(Plugin):
    name = "bench"

    def commands(self) -> Sequence[Command]:
        from casewise.plugins.bench.command import bench

        return [Command("bench", bench, "Measure the speed-up of the fast paths on this machine.")]


plugin = _Bench()
