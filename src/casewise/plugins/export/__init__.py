"""Trained learners as one ONNX or TorchScript graph each, which gives the predictions of casewise without it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from casewise.plugin import Plugin


class _Export(Plugin):
    name = extra = "export"
    command = ("export", "Write trained learners as ONNX or TorchScript graphs.")


plugin = _Export()


def check_names(names: Sequence[str], trained: Collection[str]) -> None:
    """Check that each name belongs to a trained learner.

    Raises:
        CasewiseError: there is no such learner, or it combines others.
    """
    from casewise.errors import CasewiseError, none_of
    from casewise.predictions.stacking import META_LEARNERS

    for name in names:
        if name in META_LEARNERS and name not in trained:
            raise CasewiseError(
                f"--learner: {name} combines the predictions of other learners, which may see different panels, and is "
                f"no graph of its own. Export its members ({', '.join(trained)}); preprocessing.json has the "
                "coefficients by which their outputs are combined."
            )
        if name not in trained:
            raise CasewiseError(f"--learner: {none_of(name, trained)}")
