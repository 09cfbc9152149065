"""Trained learners as one ONNX or TorchScript graph each, which gives the predictions of casewise without it."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.plugin import Command, Plugin


class _Export(Plugin):
    name = "export"
    extra = "export"

    def commands(self) -> Sequence[Command]:
        from casewise.plugins.export.command import export

        return [Command("export", export, "Write trained learners as ONNX or TorchScript graphs.")]


plugin = _Export()
