"""A node of a hospital network: it follows Orthanc, decides which images a model reads, answers, and is watched."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.plugin import Command, Plugin


class _Node(Plugin):
    name = extra = "node"

    def commands(self) -> Sequence[Command]:
        from casewise.plugins.node import command

        return [
            Command("node", command.node, "Answer the studies that Orthanc receives, or those of mercure."),
            Command("monitor", command.monitor, "Whether the studies and predictions of a node have changed."),
        ]


plugin = _Node()
