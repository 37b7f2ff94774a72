"""What the benchmarks share: how to time, and on what it was. Nothing in this folder is a timed test."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence

import torch


def seconds(
    *calls: Callable[[], object],
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
    summary: Callable[[Sequence[float]], float] = statistics.median,
) -> list[float]:
    """Of each call. They take turns, so that a busy machine slows all alike; a first round does not count."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for found, call in zip(taken, calls, strict=True):
            synchronise()
            began = clock()
            call()
            synchronise()
            found.append(clock() - began)
    return [summary(found[1:]) for found in taken]


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def trained(call: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Forward and backward."""
    return lambda: call().square().mean().backward()


def machine() -> str:
    kind = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return f"torch {torch.__version__}, {kind}, {torch.get_num_threads()} threads"
