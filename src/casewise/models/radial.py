"""A layer that is linear in random Fourier features of its input, which stand for a radial kernel.

Inner products of the features approximate exp(−γ·d²) of the distance d of two inputs (Rahimi and Recht, "Random
features for large-scale kernel machines", NeurIPS 2007; orthogonal frequencies: Yu et al., "Orthogonal random
features", NeurIPS 2016). A kernel machine keeps its training rows; this layer keeps none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# γ for inputs whose mean squared distance from their centre is 1.
GAMMA = 0.5
# Frequencies of each block; each gives a cosine and a sine.
FREQUENCIES = 1000


def random_frequencies(inputs: int, count: int, seed: int) -> NDArray[np.float64]:
    """(inputs, count) frequencies, orthogonal in groups of `inputs`, each with a length as that of a Gaussian vector.

    >>> random_frequencies(3, 7, 0).shape
    (3, 7)
    """
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(-(-count // inputs)):
        directions, _ = np.linalg.qr(rng.normal(size=(inputs, inputs)))
        groups.append(directions * np.sqrt(rng.chisquare(inputs, size=inputs)))
    return np.asarray(np.concatenate(groups, axis=1)[:, :count] * np.sqrt(2 * GAMMA))


class RadialBlock(nn.Module):
    """Random Fourier features of standardised directions of one block: (B, W) → (B, 2·F)."""

    centre: Tensor
    back: Tensor
    frequencies: Tensor

    def __init__(self, width: int, directions: int, frequencies: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("back", torch.zeros(directions, width))
        self.register_buffer("frequencies", torch.zeros(directions, frequencies))

    def fill(self, centre: NDArray[np.float64], back: NDArray[np.float64], seed: int) -> None:
        """Set the centre (W,) and the directions (R, W) of the training rows, and draw the frequencies."""
        self.centre.copy_(torch.from_numpy(centre))
        self.back.copy_(torch.from_numpy(back))
        self.frequencies.copy_(
            torch.from_numpy(random_frequencies(len(self.frequencies), self.frequencies.shape[1], seed))
        )

    def angles(self, values: Tensor) -> Tensor:
        """(B, W) → (B, F)."""
        return (values - self.centre) @ self.back.T @ self.frequencies

    def forward(self, values: Tensor) -> Tensor:
        angles = self.angles(values)
        return torch.cat([angles.cos(), angles.sin()], dim=1) / self.frequencies.shape[1] ** 0.5


class RadialHead(nn.Module):
    """A linear layer on the Fourier features of blocks side by side: (B, sum of widths) → (B, outputs)."""

    def __init__(self, widths: Sequence[int], directions: Sequence[int], frequencies: int, outputs: int) -> None:
        super().__init__()
        self.widths = list(widths)
        self.blocks = nn.ModuleList(
            RadialBlock(width, count, frequencies) for width, count in zip(widths, directions, strict=True)
        )
        self.linear = nn.Linear(2 * frequencies * len(self.widths), outputs)

    def forward(self, values: Tensor) -> Tensor:
        by_block = zip(self.blocks, values.split(self.widths, dim=1), strict=True)
        return self.linear(torch.cat([block(features) for block, features in by_block], dim=1))

    @property
    def facts(self) -> dict[str, Any]:
        """What `RadialHead` needs besides the widths and the outputs, as JSON."""
        blocks: Any = self.blocks
        return {
            "directions": [int(block.back.shape[0]) for block in blocks],
            "frequencies": int(blocks[0].frequencies.shape[1]),
        }

    def mean_slopes(self, toward: Tensor, values: Tensor, centre: Tensor) -> Tensor:
        """(B, W) the mean slopes of the outputs, weighted by `toward` (B, O), on the line from `centre` to `values`.

        Their product with `values − centre` is exactly the difference of the weighted outputs: along the line every
        angle changes evenly, so the mean slope of its cosine is the difference quotient.
        """
        slopes, start = [], 0
        blocks: Any = self.blocks
        for block, features, of_centre in zip(
            blocks, values.split(self.widths, dim=1), centre.split(self.widths), strict=True
        ):
            count = block.frequencies.shape[1]
            weight = self.linear.weight[:, start : start + 2 * count].double() / count**0.5
            last = (features - block.centre).double() @ block.back.T.double() @ block.frequencies.double()
            first = (of_centre - block.centre).double() @ block.back.T.double() @ block.frequencies.double()
            step, middle = (last - first) / 2, (last + first) / 2
            # the difference quotients of cosine and sine: −sin(middle)·sinc and cos(middle)·sinc
            damping = torch.sinc(step / torch.pi)
            by_angle = toward @ weight[:, :count] * -middle.sin() * damping
            by_angle = by_angle + toward @ weight[:, count:] * middle.cos() * damping
            slopes.append(by_angle @ block.frequencies.T.double() @ block.back.double())
            start += 2 * count
        return torch.cat(slopes, dim=1)
