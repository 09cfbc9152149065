"""A node of a hospital network: it receives studies, decides which images a model reads, answers, and is watched."""

from __future__ import annotations

from casewise.plugin import Plugin


class _Node(Plugin):
    name = extra = "node"


plugin = _Node()
