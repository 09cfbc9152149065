"""The way of tensors to the device: the host does not wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """The values on `device`; a GPU copies them while the host continues, which needs memory that is not swapped."""
    if torch.device(device).type != "cuda" or values.device.type == "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
