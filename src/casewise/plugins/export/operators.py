"""Operators that a format lacks or limits, written with ones that it has.

While a graph is recorded, calls of these operators are replaced, also those in the code of timm and torchvision.
Resizing and adaptive pooling are linear along each axis: a product with a fixed matrix for rows and one for columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class PortableOperators(TorchFunctionMode):
    """Replace operators in `PORTABLE` by equal computations while it is active."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The value of a call, computed by the replacement where there is one."""
        replacement = PORTABLE.get(func)
        return (replacement or func)(*args, **(kwargs or {}))


def _cumprod(values: Tensor, dim: int) -> Tensor:
    columns = list(values.unbind(dim))
    for number in range(1, len(columns)):
        columns[number] = columns[number - 1] * columns[number]
    return torch.stack(columns, dim=dim)


def _quantile(values: Tensor, levels: Tensor, dim: int) -> Tensor:
    """Linear between the two nearest values; the levels come first, as in `torch.quantile`."""
    last = values.shape[dim] - 1
    positions = levels * last
    below = positions.floor().clamp(max=max(last - 1, 0)).long()
    ascending = values.sort(dim=dim).values
    lower, upper = ascending.index_select(dim, below), ascending.index_select(dim, (below + 1).clamp(max=last))
    weights = (positions - below).view([-1 if axis == dim else 1 for axis in range(values.ndim)])
    return (lower + (upper - lower) * weights).movedim(dim, 0)


def _adaptive_avg_pool2d(maps: Tensor, output_size: Any) -> Tensor:
    sides = tuple(maps.shape[-2:])
    cells = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    cells = tuple(side if count is None else int(count) for side, count in zip(sides, cells, strict=True))
    if cells == (1, 1):
        return maps.mean(dim=(2, 3), keepdim=True)
    rows, columns = (_matrix(functional.adaptive_avg_pool2d, n, side) for n, side in zip(cells, sides, strict=True))
    return torch.matmul(torch.matmul(rows.to(maps), maps), columns.to(maps).T)


def _interpolate(maps: Tensor, size: Any = None, *args: Any, **options: Any) -> Tensor:
    mode = options.get("mode", "nearest")
    if args or size is None or mode not in ("bilinear", "bicubic") or maps.ndim != 4:
        return functional.interpolate(maps, size, *args, **options)
    sizes = (size, size) if isinstance(size, int) else tuple(size)

    def resized(square: Tensor, wanted: Any) -> Tensor:
        return functional.interpolate(square, size=wanted, **options)

    rows, columns = (_matrix(resized, int(n), int(side)) for n, side in zip(sizes, maps.shape[-2:], strict=True))
    return torch.matmul(torch.matmul(rows.to(maps), maps), columns.to(maps).T)


def _matrix(operator: Callable[[Tensor, Any], Tensor], count: int, side: int) -> Tensor:
    """The matrix (count, side) of an operator that is linear along each axis, from what it makes of unit vectors."""
    identity = torch.eye(side).view(1, 1, side, side)
    return operator(identity, (count, side))[0, 0]


PORTABLE: dict[Any, Callable[..., Tensor]] = {
    torch.Tensor.cumprod: _cumprod,
    torch.cumprod: _cumprod,
    torch.quantile: _quantile,
    functional.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    functional.interpolate: _interpolate,
}
