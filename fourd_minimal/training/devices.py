"""Where a training step is computed: on one device or on many, in which precision, and what memory is traded for time.

    torchrun --standalone --nproc_per_node 8 -m fourd_minimal train --preset full --scale.precision bf16 --scale.shard

Nothing here changes what is computed, beyond rounding. A step's loss is the mean over `parts` batches, each a function
of the step's number and its own; one process works through all of them, two through half each, to the same result.

Processes find each other by Accelerate, which also averages gradients. Weights are sharded by torch's `fully_shard`,
since Accelerate 1.15 silently copies the whole model to each process on CPUs. It is slow to import, so it is imported
where it is needed.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Scale:
    """How a step is computed."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """The precision of products and attention; weights, averages and the optimiser's moments stay in fp32."""
    shard: bool = False
    """Every device holds a share of weights, gradients and moments (FSDP); by default all of them hold all."""
    recompute: bool = False
    """Only each block's inputs are kept, and it runs again for its gradients: a third more work, far less memory."""
    compile: bool = False
    """Each block's operations are fused by torch.compile; the first step takes a minute or more."""


PLAIN = Scale()


def world() -> tuple[int, int]:
    """This process's number and how many there are, from torchrun's environment; else (0, 1)."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def leave() -> None:
    """End the group of processes, where there is one, once all of them are done with it."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def wait() -> None:
    """Wait for the other processes, where there are some, to come here too."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The units of sharding, recomputing and compiling: the entries of lists and dictionaries of modules.

    >>> stack = nn.ModuleList([nn.Linear(2, 2), nn.ModuleList([nn.GELU(), nn.Identity()])])
    >>> [*blocks(nn.ModuleDict(dict(stack=stack, again=stack)))]
    [Linear(in_features=2, out_features=2, bias=True), GELU(approximate='none')]
    """
    seen: set[nn.Module] = set()

    def inside(module: nn.Module, listed: bool) -> Iterator[nn.Module]:
        container = isinstance(module, (nn.ModuleList, nn.ModuleDict))
        if module in seen or isinstance(module, nn.Identity):
            return
        seen.add(module)
        if listed and not container:
            yield module
        else:
            for child in module.children():
                yield from inside(child, container)

    yield from inside(model, False)


def recompute(model: nn.Module) -> None:
    """Keep only the inputs of each block for the backward pass, which runs it once more."""
    for block in blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


class Devices:
    """The processes of one run, and this one's share of the work.

    Raises:
        ValueError: sharding without several processes, or several without Accelerate.
    """

    def __init__(self, scale: Scale = PLAIN):
        self.scale, (self.rank, self.count) = scale, world()
        if scale.shard and self.count == 1:
            raise ValueError("shard needs several processes and there is one; expected a start by torchrun.")
        self.accelerator = None
        if self.count > 1:
            try:
                from accelerate import Accelerator, DistributedDataParallelKwargs
            except ImportError:
                raise ValueError('several processes need Accelerate: pip install "fourd-minimal[scale]".') from None
            unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # text layers, where there is no text
            atexit.register(leave)
            self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])

    def mine(self, parts: int) -> range:
        """The numbers of this process's parts of a step.

        Raises:
            ValueError: parts that processes cannot share evenly.
        """
        if parts % self.count:
            raise ValueError(f"parts is {parts}; expected a multiple of the {self.count} processes.")
        return range(self.rank, parts, self.count)

    def spread(self, objective: nn.Module) -> nn.Module:
        """The module at this scale: changed in place, or wrapped."""
        if self.scale.recompute:
            recompute(objective)
        if self.scale.compile:
            for block in blocks(objective):
                block.compile()
        if self.scale.shard:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.accelerator.device.type, (self.count,))
            for module in (*blocks(objective), objective):
                fully_shard(module, mesh=mesh)
            return objective
        return self.accelerator.prepare_model(objective) if self.accelerator else objective

    def precise(self, device: torch.device) -> AbstractContextManager:
        """A context with the scale's precision."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.scale.precision == "bf16")

    def gathering(self, spread: nn.Module, last: bool) -> AbstractContextManager:
        """A context in which the gradients of all processes are averaged after the last part only."""
        if self.scale.shard:
            spread.set_requires_gradient_sync(last)
            return nullcontext()
        return self.accelerator.no_sync(spread) if self.accelerator and not last else nullcontext()

    def mean(self, value: Tensor) -> float:
        """Over all processes."""
        return (self.accelerator.reduce(value, "mean") if self.accelerator else value).item()


def whole(tensor: Tensor, keep: bool = True) -> Tensor | None:
    """A copy on the CPU of a tensor that may be sharded; every process must call it, even without keeping it."""
    if hasattr(tensor, "full_tensor"):  # a DTensor
        tensor = tensor.full_tensor()
    return tensor.detach().cpu().clone() if keep else None


def shared_as(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor that every process has, on the device and in the shards of `other`."""
    tensor = tensor.to(other.device)
    if not hasattr(other, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)
