"""The least that a pass must cost: its floating-point operations, at the rate of matrix products on this machine.

The floor of a pass is the time that its operations take at the rate of plain matrix products of the model's own shapes
in the same run. The rest of a pass (normalization, copies, Python) is not included: it is what could be gained.

Operations are counted by ``torch.utils.flop_counter`` while they run; a multiplication and an addition count as two.
Knows torch; knows nothing of spans.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products and attention while ``work`` runs."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def products(
    rows: int,
    width: int,
    inner: int,
    count: int,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Callable[[], float]:
    """A function that computes ``count`` products of [rows, width] with [width, inner] and returns their FLOP/s."""
    left, right = (torch.randn(shape, device=device, dtype=dtype) for shape in ((rows, width), (width, inner)))
    out = torch.empty(rows, inner, device=device, dtype=dtype)

    def work() -> float:
        began = time.perf_counter()
        for _ in range(count):
            torch.mm(left, right, out=out)
        if out.is_cuda:
            torch.cuda.synchronize(out.device)
        return 2 * rows * width * inner * count / (time.perf_counter() - began)

    return work


def copies(megabytes: int, count: int) -> Callable[[], float]:
    """A function that makes ``count`` copies of memory and returns the bytes read and written per second."""
    source = torch.ones(megabytes * 250_000)
    target = torch.empty_like(source)

    def work() -> float:
        began = time.perf_counter()
        for _ in range(count):
            target.copy_(source)
        return 2 * megabytes * 1e6 * count / (time.perf_counter() - began)

    return work
