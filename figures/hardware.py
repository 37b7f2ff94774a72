"""Which devices there are, and how fast: from their datasheets, or measured.

An operation takes as long as its products do, or as long as its bytes need to come and go, whichever is more: the
roofline of `tally.py`. Datasheets give both rates as peaks. ASSUMED: kernels reach 0.7 of either, `EFFICIENCY`. What
else costs time, between kernels and between devices, is not in it.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from figures.tally import Operation

EFFICIENCY = 0.7
"""Assumed, of a datasheet's peaks, for all kinds and all kernels."""
KindName = Literal["T4", "A10G", "L4", "A100-40GB", "A100-80GB", "H100", "H200", "this"]
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Device:
    """One device: rates that operations are taken to reach."""

    name: str
    fp32: float
    """Floating-point operations a second."""
    bf16: float | None
    """The same; None where it has none."""
    bandwidth: float
    """Bytes a second, of reading and writing."""
    memory: float
    """Bytes."""
    new: float = 0.0
    """Seconds for every byte that was not the process's before: on a CPU the system hands out empty pages."""

    def compute(self, operation: Operation) -> float:
        """Seconds for its products."""
        rate = self.bf16 if operation.dtype in HALF else self.fp32
        return operation.flops / rate if operation.flops else 0.0

    def move(self, operation: Operation) -> float:
        """Seconds for its bytes."""
        return operation.moved / self.bandwidth + operation.made * self.new

    def seconds(self, operation: Operation) -> float:
        """The roofline; pages are handed out before anything else can happen.

        >>> toy = Device("toy", fp32=1e9, bf16=None, bandwidth=1e6, memory=1e9)
        >>> [toy.seconds(Operation(flops, moved, 0, torch.float32)) for flops, moved in ((4e9, 1e6), (0, 3e6))]
        [4.0, 3.0]
        """
        return max(self.compute(operation), operation.moved / self.bandwidth) + operation.made * self.new


def _datasheet(name: str, memory_gb: float, bandwidth_gb: float, fp32_tera: float, bf16_tera: float | None) -> Device:
    half = bf16_tera and bf16_tera * 1e12 * EFFICIENCY
    return Device(name, fp32_tera * 1e12 * EFFICIENCY, half, bandwidth_gb * 1e9 * EFFICIENCY, memory_gb * 1e9)


KINDS = {
    kind.name: kind
    for kind in (
        _datasheet("T4", 16, 320, 8.1, None),  # its tensor cores know fp16 only, 65
        _datasheet("A10G", 24, 600, 35, 70),
        _datasheet("L4", 24, 300, 30.3, 121),
        _datasheet("A100-40GB", 40, 1555, 19.5, 312),
        _datasheet("A100-80GB", 80, 2039, 19.5, 312),  # SXM, as the next two
        _datasheet("H100", 80, 3350, 67, 989),
        _datasheet("H200", 141, 4800, 67, 989),
    )
}
"""NVIDIA's datasheets: memory in GB, GB/s, dense teraflops of fp32 (no tensor cores, torch's default) and of bf16.

A gigabyte is 10^9 bytes here, which leaves 7% of a card's 2^30s for CUDA itself and for what its allocator loses.
"""


def find_device(kind: str) -> Device:
    """A kind of device by its name; "this" is measured, in a few seconds.

    Raises:
        ValueError: a kind that is not there.
    """
    if kind == "this":
        return measured()
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join((*KINDS, 'this'))}.")
    return KINDS[kind]


def kind_here() -> KindName:
    """What this machine has, where it is in the table; else "this"."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    memory = torch.cuda.get_device_properties(0).total_memory if name else 0
    found = [kind for kind in KINDS.values() if kind.name.split("-")[0] in name.replace("-", " ").split()]
    return min(found, key=lambda kind: abs(kind.memory - memory)).name if found else "this"


def measured(repeats: int = 7) -> Device:
    """This machine, by plain operations: products of 1024 x 1024 matrices, and copies of 16 MiB; larger on a GPU.

    On one thread of a CPU, seconds are those the process was given, so that others on the machine do not count.
    """
    cuda = torch.cuda.is_available()
    where = torch.device("cuda" if cuda else "cpu")
    side, copied = (8192, 2**28) if cuda else (1024, 2**24)

    def best(call: Callable[[], object]) -> float:
        clock = time.process_time if not cuda and torch.get_num_threads() == 1 else time.perf_counter
        taken = []
        for _ in range(repeats + 1):
            if cuda:
                torch.cuda.synchronize()
            began = clock()
            for _ in range(4):
                call()
            if cuda:
                torch.cuda.synchronize()
            taken.append((clock() - began) / 4)
        return sorted(taken[1:])[repeats // 2]

    def rate(dtype: torch.dtype) -> float:
        a, b = torch.randn(2, side, side, device=where).to(dtype)
        return 2 * side**3 / best(lambda: a @ b)

    source = torch.randn(copied // 4, device=where)
    target = torch.empty_like(source)
    bandwidth = 2 * copied / best(lambda: target.copy_(source))
    new = 0.0 if cuda else max(0.0, best(source.clone) - 2 * copied / bandwidth) / copied
    if cuda:
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(where).total_memory
    elif hasattr(os, "sysconf"):
        name, memory = "this CPU", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:  # Windows
        raise ValueError("kind is 'this', and this system does not tell its memory; expected the name of a device.")
    return Device(name, rate(torch.float32), rate(torch.bfloat16), bandwidth, memory, new)
