"""Operators that every graph format has, in place of those that some lack."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from casewise.plugins.export.formats import PORTABLE


def operator_calls() -> list[tuple[Callable[..., torch.Tensor], tuple[Any, ...], dict[str, Any]]]:
    maps = torch.rand(2, 3, 13, 10, generator=torch.Generator().manual_seed(0))
    functional, resize = torch.nn.functional, {"mode": "bilinear", "antialias": True}
    return [
        (torch.Tensor.cumprod, (maps[:, :, 0, 0],), {"dim": 1}),
        (torch.quantile, (maps.flatten(2), torch.linspace(0.01, 0.99, 9)), {"dim": 2}),
        (torch.quantile, (maps.flatten(2), torch.tensor([0.0, 1.0])), {"dim": 2}),
        *[(functional.adaptive_avg_pool2d, (maps, size), {}) for size in (1, 4, (3, 20), (None, 5))],
        (functional.interpolate, (maps,), {"size": (7, 21), **resize}),
        (functional.interpolate, (maps,), {"size": 24, "mode": "bilinear"}),
        (functional.interpolate, (maps,), {"scale_factor": 2}),
    ]


@pytest.mark.parametrize("number", range(len(operator_calls())))
def test_portable_operators_give_the_values_of_those_that_they_replace(number: int) -> None:
    operator, arguments, options = operator_calls()[number]
    replaced, own = PORTABLE[operator](*arguments, **options), operator(*arguments, **options)
    assert replaced.shape == own.shape
    assert torch.allclose(replaced, own, atol=1e-6)
