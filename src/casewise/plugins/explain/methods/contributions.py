"""Contributions: what each place of an image adds to the output of a model on fixed features, exactly and with sign.

The output of a linear model is a sum over its features. A mean over a map, a cell of a grid, a product of centred
channels and, by its share of the variance, a standard deviation are sums over positions, so what they add to the output
has a place. Maxima and statistics of the whole image have no place; what they add is stated. Contributions are centred
at the mean features of the training images: they state how the output differs from the average training image's output.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from casewise.models.feature_maps import gridded
from casewise.models.linear import FeatureBank, FeatureSpec, RadialHead
from casewise.targets import by_form

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.plugins.explain.methods.target import ExplainTarget

# The name of the buffer with the features at which contributions are centred; it is not part of the weights.
REFERENCE = "reference_features"
# A channel with a smaller deviation is uniform, and no position of it differs from another.
UNIFORM = 1e-12


@dataclass(frozen=True, eq=False)
class Contributions:
    """The contributions of panels: `output` is the sum of `average`, of `maps` and of `unplaced`.

    Attributes:
        maps: (B, C, H, W) `float64`, of each pixel and channel; what several channels contribute together, as the
            features of a colour image do, is divided equally among them.
        average: (B,) the output for the mean features of the training images.
        unplaced: (B,) the contributions of features that have no place.
    """

    maps: Tensor
    average: Tensor
    unplaced: Tensor

    @property
    def output(self) -> Tensor:
        """The explained output: a number in its units, the log odds of a class, or the sum of the steps of a grade."""
        return self.average + self.maps.sum(dim=(1, 2, 3)) + self.unplaced


def reads_features(network: Network) -> bool:
    """Whether a network is a model on a bank of features: linear, or linear on the line from their centre."""
    return isinstance(network.body, FeatureBank)


def centre_at(network: Network, features: Tensor | None) -> None:
    """Set the features (W,) at which the contributions of such a model are centred; None for zeros."""
    network.register_buffer(REFERENCE, features, persistent=False)


def contributions(
    network: Network, panels: Tensor, target: ExplainTarget, *, at: Tensor | None = None
) -> Contributions:
    """The contributions to the output that `directions` states, for panels (B, C, H, W) in 0–1.

    With a radial kernel, the weight of a feature is its mean slope on the line from the centre to the features of the
    panel, so that the contributions still add up to the output.

    Args:
        at: (W,) the features at the end of this line, if the output comes from the mean features of several views;
            by default each panel's own features. The outputs of linear models do not depend on it.
    """
    bank: Any = network.body
    head: Any = network.head[-1]
    std, mean = network.target_std.double(), network.target_mean.double()
    reference: Tensor | None = getattr(network, REFERENCE, None)
    centre = std.new_zeros(bank.width) if reference is None else reference.double()
    with torch.no_grad():
        toward = directions(network, panels, target)
        if isinstance(head, RadialHead):
            values = bank(panels) if at is None else at.expand(len(panels), -1)
            rows = _mean_slopes(head, toward * std, values, centre)  # (B, W)
            of_centre = head.double()(centre[None])[0]
        else:
            rows = toward @ (head.weight.double() * std[:, None])
            of_centre = head.weight.double() @ centre + head.bias.double()
        average = toward @ (of_centre * std + mean)
        maps = torch.zeros(panels.shape, dtype=torch.float64, device=panels.device)
        unplaced = torch.zeros_like(average)
        ends = dict(zip(bank.specs, accumulate(bank.widths), strict=True))
        widths = dict(zip(bank.specs, bank.widths, strict=True))
        for spec, chosen, spec_maps in bank.read(panels):
            columns = slice(ends[spec] - widths[spec], ends[spec])
            placed, rest = _spec_contributions(spec, chosen, spec_maps, rows[:, columns], centre[columns])
            unplaced = unplaced + rest
            if placed is not None:
                channels = list(spec.channels) or list(range(panels.shape[1]))
                maps[:, channels] += placed
    return Contributions(maps, average, unplaced)


def directions(network: Network, panels: Tensor, target: ExplainTarget) -> Tensor:
    """The weights (B, O) of the raw outputs whose weighted sum is explained.

    A number: itself. A class: its logit minus the mean of the others. Grades: the sum of all steps, which rises with
    the grade.
    """
    output, start = target.output, target.start
    counts = {"number": _all_outputs, "classes": _against_others, "ordinal": _all_outputs}
    if output.classes and target.class_index is None:
        decided = target.decide(network(panels))
    else:
        decided = torch.full((len(panels),), target.class_index or 0, dtype=torch.int64, device=panels.device)
    weights = torch.zeros(len(panels), network.target_mean.numel(), dtype=torch.float64, device=panels.device)
    weights[:, start : start + output.width] = by_form(output.kind, counts)(decided, output.width)
    return weights


def _all_outputs(decided: Tensor, width: int) -> Tensor:
    return torch.ones(len(decided), width, dtype=torch.float64, device=decided.device)


def _against_others(decided: Tensor, width: int) -> Tensor:
    weights = torch.full((len(decided), width), -1 / (width - 1), dtype=torch.float64, device=decided.device)
    return weights.scatter(1, decided[:, None], 1.0)


def _spec_contributions(
    spec: FeatureSpec, panels: Tensor, maps: dict[str, Tensor], weight: Tensor, centre: Tensor
) -> tuple[Tensor | None, Tensor]:
    """The contributions of one candidate: (B, C, H, W) of the channels that it reads, and (B,) without a place.

    `weight` is (B, W), `centre` (W,).
    """
    size = (int(panels.shape[2]), int(panels.shape[3]))
    if spec.source == "statistics":
        differences = spec.vector(panels, maps).double() - centre
        return None, (weight * differences).sum(1)
    if spec.source == "pixels":
        # a cell is shown as a whole, because the model reads nothing but its mean
        by_cell, expected = _by_cell(spec, panels.shape[1], weight, centre)
        means = gridded(panels.double(), spec.cells).view_as(by_cell)
        return spread(by_cell * means - expected, size), weight.new_zeros(len(weight))
    total, unplaced, start = weight.new_zeros(len(weight), *size), weight.new_zeros(len(weight)), 0
    for name in spec.modules:
        values = maps[name].double()
        width = spec.width(values.shape[1])
        columns = slice(start, start + width)
        placed, rest = _map_contributions(spec, values, weight[:, columns], centre[columns])
        total, unplaced, start = total + spread(placed[:, None], size)[:, 0], unplaced + rest, start + width
    return total[:, None].expand(-1, panels.shape[1], -1, -1) / panels.shape[1], unplaced


def _map_contributions(spec: FeatureSpec, values: Tensor, weight: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """The contributions of the positions of a map (B, C, h, w): (B, h, w), and (B,) without a place."""
    if spec.summary == "moments":
        return _moment_contributions(values, weight, centre)
    if spec.summary == "covariance":
        return _covariance_contributions(values, weight, centre)
    size = (int(values.shape[2]), int(values.shape[3]))
    by_cell, expected = _by_cell(spec, values.shape[1], weight, centre)
    placed = (spread(by_cell, size) * values).sum(1) - spread(expected.sum(1, keepdim=True), size)[:, 0]
    return placed, weight.new_zeros(len(weight))


def _by_cell(spec: FeatureSpec, channels: int, weight: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Of every cell the weight of its mean, and its contribution at `centre`: both (B, channels, cells, cells).

    In a difference between mirrored cells, one cell has the weight and the other its negative, and each has half of the
    centre's contribution.
    """
    columns = spec.cells // 2 if spec.summary == "asymmetry" else spec.cells
    by_cell = weight.unflatten(1, (channels, spec.cells, columns))
    expected = by_cell * centre.view(channels, spec.cells, columns)
    if spec.summary == "asymmetry":
        middle = by_cell.new_zeros(*by_cell.shape[:3], spec.cells % 2)
        by_cell = torch.cat([by_cell, middle, -by_cell.flip(3)], dim=3)
        expected = torch.cat([expected / 2, middle, expected.flip(3) / 2], dim=3)
    return by_cell, expected


def _moment_contributions(values: Tensor, weight: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Means and, by their share of the variance, standard deviations; maxima have no place of their own."""
    positions = values.shape[2] * values.shape[3]
    of_mean, of_std, of_max = weight.chunk(3, dim=1)
    squares = (values - values.mean((2, 3), keepdim=True)).square()
    deviation = squares.mean((2, 3)).sqrt()
    share = torch.where(deviation > UNIFORM, of_std / deviation.clamp(min=UNIFORM), 0.0)
    expected = (weight * centre)[:, : 2 * values.shape[1]].sum(1)
    placed = (of_mean[:, :, None, None] * values + share[:, :, None, None] * squares).sum(1)
    unplaced = (of_max * (values.amax((2, 3)) - centre.chunk(3)[2])).sum(1)
    return (placed - expected[:, None, None]) / positions, unplaced


def _covariance_contributions(values: Tensor, weight: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Means, and products of centred channels."""
    channels, positions = values.shape[1], values.shape[2] * values.shape[3]
    centred = (values - values.mean((2, 3), keepdim=True)).flatten(2)
    row, column = torch.triu_indices(channels, channels, device=values.device)
    products = weight.new_zeros(len(weight), channels, channels)
    products[:, row, column] = weight[:, channels:]
    placed = ((products @ centred) * centred).sum(1) + (weight[:, :channels, None] * values.flatten(2)).sum(1)
    placed = (placed - (weight * centre).sum(1)[:, None]) / positions
    return placed.unflatten(1, values.shape[2:]), weight.new_zeros(len(weight))


def spread(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Values (B, C, n, m) of cells, spread evenly over their pixels (B, C, h, w); the sums stay.

    The cells are as in `adaptive_avg_pool2d`.

    >>> spread(torch.tensor([[[[2.0, 4.0]]]]), (1, 4)).tolist()
    [[[[1.0, 1.0, 2.0, 2.0]]]]
    """
    rows, columns = (_windows(count, length, values) for count, length in zip(values.shape[2:], size, strict=True))
    return rows.T @ values @ columns


def _windows(cells: int, length: int, like: Tensor) -> Tensor:
    """The weight of each pixel in the mean of each cell, (cells, length); rows sum to 1."""
    cell = torch.arange(cells, device=like.device)
    first, last = cell * length // cells, -(-(cell + 1) * length // cells)
    pixel = torch.arange(length, device=like.device)
    inside = (pixel >= first[:, None]) & (pixel < last[:, None])
    return inside.to(like) / (last - first)[:, None]


def _mean_slopes(head: RadialHead, toward: Tensor, values: Tensor, centre: Tensor) -> Tensor:
    """(B, W) the mean slopes of the outputs, weighted by `toward` (B, O), on the line from `centre` to `values`.

    Their product with `values − centre` is exactly the difference of the weighted outputs: along the line every
    angle changes evenly, so the mean slope of its cosine is the difference quotient.
    """
    slopes = toward.new_zeros(len(values), sum(head.widths))
    if head.plain is not None:
        slopes += toward @ head.plain.weight.double()
    blocks: Any = head.blocks
    for number, block in enumerate(blocks):
        columns = head.columns(number)
        count = block.frequencies.shape[1]
        weight = head.linear.weight[:, 2 * count * number : 2 * count * (number + 1)].double() / count**0.5
        back, frequencies = block.back.double(), block.frequencies.double()
        ends = (values[:, columns], centre[columns])
        last, first = ((end - block.centre).double() @ back.T @ frequencies for end in ends)
        step, middle = (last - first) / 2, (last + first) / 2
        # the difference quotients of cosine and sine: −sin(middle)·sinc and cos(middle)·sinc
        damping = torch.sinc(step / torch.pi)
        by_angle = toward @ weight[:, :count] * -middle.sin() * damping
        by_angle = by_angle + toward @ weight[:, count:] * middle.cos() * damping
        slopes[:, columns] += by_angle @ frequencies.T @ back
    return slopes
