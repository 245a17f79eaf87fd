"""Clocks and the machine: durations of contenders in turn, ratios within one run, facts about the machine.

Knows nothing of models.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "numpy")


def in_turn(contenders: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, list[float]]:
    """The seconds of each repetition of each contender, after a first one that is not counted.

    All contenders run in every repetition, in an order that is rotated by one each time, so that other work on the
    machine affects all of them equally.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(-1, repetitions):
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.perf_counter()
            contenders[name]()
            if repetition >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(seconds: Mapping[str, list[float]], of: str, to: str) -> float:
    """The median over the repetitions of the duration of ``of`` divided by that of ``to``."""
    return statistics.median(one / other for one, other in zip(seconds[of], seconds[to], strict=True))


def machine() -> dict[str, Any]:
    """Facts about the machine and its software."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
