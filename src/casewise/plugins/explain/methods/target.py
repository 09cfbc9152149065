"""Which output of a network is explained: a target and its class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from casewise.errors import CasewiseError, nearest
from casewise.models.outputs import Output, outputs_of, split_raw, width_of
from casewise.study.schema import Study


@dataclass(frozen=True)
class ExplainTarget:
    """One target of a network and the class to explain.

    Attributes:
        outputs: all outputs of the network, in order.
        target: the name of one output.
        class_index: the class or grade; None for the predicted one, which may differ between panels.

    Raises:
        CasewiseError: there is no such target.
    """

    outputs: tuple[Output, ...]
    target: str
    class_index: int | None = None

    def __post_init__(self) -> None:
        names = [output.name for output in self.outputs]
        if self.target not in names:
            hint = nearest(self.target, names)
            raise CasewiseError(f"target: the networks predict {', '.join(names)}, not {self.target!r}.{hint}")

    @classmethod
    def of_outcome(cls, study: Study, name: str = "") -> Self:
        """The target of this name; by default the primary outcome if the networks predict it, else their first output.

        Raises:
            CasewiseError: the networks do not predict it.
        """
        outputs = outputs_of(study)
        return cls(outputs, name or next((output.name for output in outputs if output.main), outputs[0].name))

    @property
    def output(self) -> Output:
        """The explained output."""
        return self.outputs[self._position]

    def decide(self, raw: Tensor) -> Tensor:
        """The explained class or grade of each panel: (B, W) raw outputs → (B,) `int64`; 0 for numbers."""
        logits = self._logits(raw)
        if self.class_index is not None:
            return torch.full((len(raw),), self.class_index, dtype=torch.int64, device=raw.device)
        return self.output.network_kind.decided(logits)

    def score(self, raw: Tensor) -> Tensor:
        """The scalar that is differentiated for each panel: (B, W) raw outputs → (B,).

        A number: itself. A class: its raw output before softmax (Selvaraju et al. 2017, section 3). A grade of CORN:
        the logarithm of its probability.

        >>> grade = ExplainTarget((Output("grade", "ordinal", 3),), "grade", class_index=1)
        >>> round(float(grade.score(torch.zeros(1, 2)).exp()), 3)
        0.25
        """
        return self.output.network_kind.score(self._logits(raw), self.decide(raw))

    @property
    def start(self) -> int:
        """The number of the first raw output of the target."""
        return width_of(self.outputs[: self._position])

    def _logits(self, raw: Tensor) -> Tensor:
        """The raw outputs of the explained target."""
        return split_raw(raw, self.outputs)[self._position].float()

    @property
    def _position(self) -> int:
        return next(i for i, output in enumerate(self.outputs) if output.name == self.target)
