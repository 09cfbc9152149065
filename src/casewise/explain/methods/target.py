"""What is asked of a network when its prediction is explained: which target, which of its classes, which direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from casewise.errors import CasewiseError, nearest
from casewise.models.outputs import Output, outputs_of, raw_parts, width_of

if TYPE_CHECKING:
    from casewise.study.schema import Study


@dataclass(frozen=True)
class ExplainTarget:
    """One target among a network's outputs, and what about it is asked.

    `outputs`: all that the network predicts, in order. `target`: the name of one of them. `of`: the number of a class
    or grade; None for the one that is predicted, each panel its own. `lowers`: ask for what speaks against it instead
    of what speaks for it; of a number, what lowers it instead of what raises it.

    Raises:
        CasewiseError: there is no such target or class.
    """

    outputs: tuple[Output, ...]
    target: str
    of: int | None = None
    lowers: bool = False

    def __post_init__(self) -> None:
        names = [output.name for output in self.outputs]
        if self.target not in names:
            hint = nearest(self.target, names)
            raise CasewiseError(f"explain: the network predicts {', '.join(names)}, not {self.target!r}.{hint}")
        if self.of is not None and not 0 <= self.of < self.output.classes:
            kind = f"has {self.output.classes} classes" if self.output.classes else "is a number and has no classes"
            raise CasewiseError(f"explain: {self.target} {kind}; number {self.of} was asked for (the first is 0).")

    @classmethod
    def about(cls, study: Study, target: str | None = None, *, of: str | None = None, lowers: bool = False) -> Self:
        """What a study's networks are asked by names; by default about the main outcome, or else the first output.

        Raises:
            CasewiseError: there is no such target or class.
        """
        outputs = outputs_of(study)
        name = target or next((output.name for output in outputs if output.main), outputs[0].name)
        if of is None:
            return cls(outputs, name, lowers=lowers)
        classes = study.classes_of(name)
        if of not in classes:
            allowed = f"one of {', '.join(classes)}" if classes else "left out, for it is a number"
            raise CasewiseError(f"explain: the class of {name} must be {allowed}, not {of!r}.{nearest(of, classes)}")
        return cls(outputs, name, classes.index(of), lowers)

    @property
    def output(self) -> Output:
        """The target that is asked about."""
        return next(output for output in self.outputs if output.name == self.target)

    @property
    def sentence(self) -> str:
        """What a high value of the map means, for a caption.

        >>> Asked((Output("extent"),), "extent").sentence
        'what raises extent'
        """
        if not self.output.classes:
            return f"what {'lowers' if self.lowers else 'raises'} {self.target}"
        which = "the predicted class" if self.of is None else f"class {self.of}"
        return f"what speaks {'against' if self.lowers else 'for'} {which} of {self.target}"

    def decided(self, raw: Tensor) -> Tensor:
        """The class or grade asked about, panel by panel: (B, W) raw outputs → (B,) `int64`; 0 for numbers."""
        part = self._part(raw)
        if self.of is not None:
            return torch.full((len(raw),), self.of, dtype=torch.int64, device=raw.device)
        return self.output.network_kind.decided(part)

    def score(self, raw: Tensor) -> Tensor:
        """What is differentiated, panel by panel: (B, W) raw outputs → (B,), higher where the answer is more so.

        A number: itself. A class: its raw output before softmax (Selvaraju et al. 2017, section 3). A grade of CORN:
        the logarithm of its probability, passed all below and not passed itself.

        >>> grade = Asked((Output("grade", "ordinal", 3),), "grade", of=1)
        >>> round(float(grade.score(torch.zeros(1, 2)).exp()), 3)
        0.25
        """
        part, chosen = self._part(raw), self.decided(raw)
        score = self.output.network_kind.score(part, chosen)
        return -score if self.lowers else score

    def _part(self, raw: Tensor) -> Tensor:
        if raw.shape[1] != width_of(self.outputs):
            wanted = width_of(self.outputs)
            raise CasewiseError(f"explain: the network gives {raw.shape[1]} outputs; the targets named take {wanted}.")
        return raw_parts(raw, self.outputs)[self._place].float()

    @property
    def _place(self) -> int:
        return next(i for i, output in enumerate(self.outputs) if output.name == self.target)
