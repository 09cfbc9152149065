"""Trained learners as one ONNX or TorchScript graph each, which gives the predictions of casewise without it."""

from __future__ import annotations

from casewise.plugin import Plugin


class _Export(Plugin):
    name = extra = "export"
    command = ("export", "Write trained learners as ONNX or TorchScript graphs.")


plugin = _Export()
