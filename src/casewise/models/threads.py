"""Threads of a computation, which never follow from the environment: sums over another number differ in last bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from joblib import cpu_count
from threadpoolctl import threadpool_limits


@contextmanager
def on_threads(count: int = 0) -> Iterator[None]:
    """Compute with `count` threads in PyTorch and BLAS, by default one for each core, whatever OMP_NUM_THREADS is."""
    before = torch.get_num_threads()
    count = count or cpu_count()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
