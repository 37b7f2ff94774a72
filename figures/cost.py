"""What a training run asks of each device: memory in its kinds, and seconds.

One training step is run on tensors without storage (`tally.py`), and each of its operations timed by the roofline of a
device (`hardware.py`). On each device there are

    weights      all of the model's, fp32
    gradients    of what is trained
    optimiser    AdamW's two moments
    average      of what is trained, where there is one
    activations  the most that is alive beside these at any moment of a micro-batch, temporaries too
    exchange     between devices: gradients once more; with sharding, the two largest blocks, at work and on their way

Sharding divides the first four by the number of devices. Time is of products and of memory traffic alone: no data, no
launching of kernels, nothing between devices.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from figures.hardware import Device
from figures.stages import Stage
from figures.tally import Operation, Tally
from fourd_minimal.training.devices import blocks, recompute

Precision = Literal["fp32", "bf16"]
UPDATE = dict(clipping=12, adamw=28, average=12)
"""Bytes read and written for each trained parameter, after the backward pass."""


@dataclass(frozen=True)
class Cost:
    """What a run asks of each device: memory in bytes, `flops` and `seconds` of a step, `hours` of all steps."""

    parameters: int
    trained: int
    weights: float
    gradients: float
    optimiser: float
    average: float
    activations: float
    exchange: float
    flops: float
    seconds: float
    memory_bound: float
    """Share of the seconds that go to operations which wait for memory."""
    hours: float
    micro_batch: int
    times: int
    """How many micro-batches a device works off in a step."""

    @property
    def memory(self) -> float:
        """Of all kinds."""
        return self.weights + self.gradients + self.optimiser + self.average + self.activations + self.exchange


class Traced(NamedTuple):
    """A stage on empty tensors."""

    parameters: int
    trained: int
    weights: int
    """Bytes, of buffers too."""
    largest: int
    """Bytes of the two largest blocks."""
    tallies: list[Tally]
    """Of each case: one micro-batch, forward and backward."""


def trace(stage: Stage, n: int, precision: Precision = "fp32", again: bool = False, accumulate: bool = False) -> Traced:
    """Run one micro-batch of n of each case without storage.

    bf16 is autocast's; `again`: blocks are recomputed in the backward pass; `accumulate`: gradients are there before.
    """
    tallies = []
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
        model = stage.model().requires_grad_(False)
        part = stage.part(model).requires_grad_(True)
        trained = [*part.parameters()]
        largest = sorted(map(_bytes, blocks(model)))[-2:]
        sizes = [sum(p.numel() for p in group) for group in (model.parameters(), trained)]
        if again:
            recompute(model)
        for case in stage.cases:
            with Tally() as tally:
                for weight in trained if accumulate else ():
                    weight.grad = torch.empty_like(weight)
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                    loss = case.loss(model, n, tally)
                loss.backward()
            del loss
            for weight in model.parameters():
                weight.grad = None
            tallies.append(tally)
    return Traced(*sizes, _bytes(model), sum(largest), tallies)


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def cost(
    stage: Stage,
    device: Device,
    devices: int = 1,
    precision: Precision = "fp32",
    again: bool = False,
    shard: bool = False,
    parts: int | None = None,
) -> Cost:
    """What a stage costs on `devices` of a kind.

    `again`: activations are recomputed; `shard`: weights, gradients, moments and averages are shared out; `parts`: of a
    batch, the preset's when left out.

    Raises:
        ValueError: parts that the devices or the batch cannot share evenly, or a precision the device does not have.
    """
    parts = stage.parts if parts is None else parts
    if devices < 1:
        raise ValueError(f"devices is {devices}; expected at least 1.")
    if parts < 1 or parts % devices:
        raise ValueError(f"parts is {parts}; expected a multiple of the {devices} devices.")
    if stage.batch % parts:
        raise ValueError(f"parts is {parts}; it must divide the batch of {stage.batch}.")
    if precision == "bf16" and device.bf16 is None:
        raise ValueError(f"{device.name} has no bf16; expected precision fp32.")
    n, times = stage.batch // parts, parts // devices
    if n % stage.least:
        raise ValueError(f"parts is {parts}, which leaves {n} for each; expected a multiple of {stage.least}.")
    traced, holders = trace(stage, n, precision, again, accumulate=times > 1), devices if shard else 1
    each = 4 * traced.trained / holders
    exchange = traced.largest if shard else each
    moved = sum(UPDATE.values()) - (0 if stage.averaged else UPDATE["average"])
    flops, waiting = 0.0, device.move(Operation(0, moved * each / 4, 0, torch.float32))
    seconds = waiting
    for case, tally in zip(stage.cases, traced.tallies, strict=True):
        flops += case.share * times * tally.flops
        for operation in tally.operations:
            taken = case.share * times * device.seconds(operation)
            seconds += taken
            waiting += taken * (device.move(operation) > device.compute(operation))
    return Cost(
        traced.parameters,
        traced.trained,
        weights=traced.weights / holders,
        gradients=each,
        optimiser=2 * each,
        average=each if stage.averaged else 0.0,
        activations=max(0.0, max(t.peak for t in traced.tallies) - 4 * traced.trained),
        exchange=exchange if devices > 1 else 0.0,
        flops=flops,
        seconds=seconds,
        memory_bound=waiting / seconds,
        hours=stage.steps * seconds / 3600,
        micro_batch=n,
        times=times,
    )


def cure(stage: Stage, device: Device, given: dict[str, Any]) -> tuple[str, Cost] | None:
    """The first change that makes a run fit: recompute; smaller parts, too; sharding, too; or less of a step.

    `given` are the other arguments of `cost`. Returns the flags to add and the cost with them, or None: nothing helps.
    """
    devices, parts = given["devices"], given["parts"] or stage.parts
    most = max(p for p in range(parts, stage.batch + 1, devices) if stage.batch % (p * stage.least) == 0)
    tries: dict[str, tuple[Callable[[], Stage], dict[str, Any]]] = {}
    for change in (dict(), dict(parts=most), dict(parts=most, shard=devices > 1)) if not stage.otherwise else ():
        options = given | dict(parts=parts, again=True) | change
        words = ["--recompute"] * (not given["again"]) + [f"--parts {options['parts']}"] * (options["parts"] != parts)
        words += ["--shard"] * (options["shard"] and not given["shard"])
        tries.setdefault(" ".join(words), (lambda: stage, options))
    tries |= {words: (make, given) for words, make in stage.otherwise}
    tries.pop("", None)
    for words, (make, options) in tries.items():
        found = cost(make(), device, **options)
        if found.memory <= device.memory:
            return words, found
    return None
