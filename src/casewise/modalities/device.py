"""The way of tensors to the device: the host does not wait for a GPU, and what fits there is copied once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# A tensor whose rows batches take may occupy an eighth of the memory that is free on a GPU.
SHARE = 8
# By tensor its copy on the GPU, as long as the tensor exists; None if it is too large.
_copies = WeakTensorKeyDictionary()


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """The values on `device`; a GPU copies them while the host continues, which needs memory that is not swapped."""
    if torch.device(device).type != "cuda" or values.device.type == "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def rows_on(device: torch.device | str, stored: Tensor, rows: Tensor) -> Tensor:
    """Rows (...) of a stored tensor, such as tiles, on `device`.

    A GPU takes them from its copy of the tensor, which is made once if it fits (`SHARE`); else the host selects them.
    """
    if torch.device(device).type != "cuda":
        return stored[rows].to(device)
    if stored not in _copies:
        # grey tiles are stored once for three channels
        distinct = stored[tuple(slice(1) if stride == 0 else slice(None) for stride in stored.stride())]
        fits = distinct.nbytes <= torch.cuda.mem_get_info()[0] // SHARE
        _copies[stored] = distinct.to(device).expand(stored.shape) if fits else None
    copy = _copies[stored]
    return to_device(stored[rows], device) if copy is None else copy[to_device(rows, device)]
