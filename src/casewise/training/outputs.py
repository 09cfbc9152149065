"""What a network's raw outputs mean: numbers, classes by softmax, grades by a chain of conditional probabilities.

Grades follow CORN (Shi, Cao, Raschka, "Deep neural networks for rank-consistent ordinal regression based on
conditional probabilities", 2023): output k is the probability of passing grade k, given that all below are passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from casewise.study.schema import Study


@dataclass(frozen=True)
class Output:
    """One target of a network: its kind, how many classes it has unless it is a number, whether it is the main one."""

    name: str
    kind: str = "regression"
    classes: int = 0
    main: bool = False

    @property
    def width(self) -> int:
        """How many raw outputs it takes."""
        return {"regression": 1, "classification": self.classes, "ordinal": self.classes - 1}[self.kind]


def outputs_of(study: Study) -> tuple[Output, ...]:
    """What the networks of a study predict, in order."""
    return tuple(
        Output(name, study.kind_of(name), len(study.classes_of(name)), name == study.primary_outcome)
        for name in study.outputs
    )


def width_of(outputs: Sequence[Output]) -> int:
    """The number of raw outputs of a network.

    >>> width_of([Output("extent"), Output("label", "classification", 3), Output("grade", "ordinal", 5)])
    8
    """
    return sum(output.width for output in outputs)


def raw_parts(raw: Tensor, outputs: Sequence[Output]) -> list[Tensor]:
    """Each target's own raw outputs: (B, width) cut by columns."""
    return list(raw.split([output.width for output in outputs], dim=1))


def values_of(raw: Tensor, outputs: Sequence[Output]) -> Tensor:
    """Raw outputs (B, W) as what is predicted (B, V): a number as it is, classes and grades as their probabilities.

    >>> values_of(torch.zeros(1, 2), [Output("grade", "ordinal", 3)]).tolist()
    [[0.5, 0.25, 0.25]]
    """
    found = []
    for part, output in zip(raw_parts(raw, outputs), outputs, strict=True):
        if output.kind == "classification":
            part = functional.softmax(part.float(), dim=1)
        elif output.kind == "ordinal":
            passed = functional.sigmoid(part.float()).cumprod(dim=1)
            padded = functional.pad(functional.pad(passed, (1, 0), value=1.0), (0, 1), value=0.0)
            part = (padded[:, :-1] - padded[:, 1:]).clamp(min=0)
        found.append(part)
    return torch.cat(found, dim=1)


def value_columns(outputs: Sequence[Output]) -> list[slice]:
    """Where each target stands among the columns of `values_of`."""
    places, start = [], 0
    for output in outputs:
        stop = start + max(output.classes, 1)
        places.append(slice(start, stop))
        start = stop
    return places


def hits(raw: Tensor, truth: Tensor, outputs: Sequence[Output]) -> Tensor | None:
    """In how many rows the main target is decided as recorded, and in how many it is known: (2,) `int64`.

    None where the main target is a number. Nothing waits for the device.

    Args:
        raw: (B, W) raw outputs.
        truth: (B, T) numbers of classes, NaN where not scored.

    >>> label = Output("label", "classification", 2, True)
    >>> hits(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([[0.0], [1.0]]), [label])
    tensor([1, 2])
    """
    place = next((i for i, output in enumerate(outputs) if output.main and output.classes), None)
    if place is None:
        return None
    part, recorded = raw_parts(raw, outputs)[place].float(), truth[:, place]
    if outputs[place].kind == "ordinal":
        # the median grade: how many grades are passed with more than even odds
        said = (functional.sigmoid(part).cumprod(dim=1) > 0.5).sum(dim=1)
    else:
        said = part.argmax(dim=1)
    return torch.stack([(said == recorded).sum(), (~recorded.isnan()).sum()])
