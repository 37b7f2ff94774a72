"""The training loop: one generator for everything that is trained here, so the caller owns the `for`.

    for step in fit(recipe, "run_checkpoint.safetensors"):  print(step.number, step.loss)

Everything random in a step (scenes, masks, noise levels, noise) is a function of the recipe and of the numbers of the
step and its part. So an interrupted run resumes from its checkpoint exactly, also on other devices (`devices.py`).
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fourd_minimal.systems.weights import fingerprint, load_weights, save_weights
from fourd_minimal.training.devices import PLAIN, Devices, Scale, shared_as, whole

Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Recipe(Generic[Model, Batch]):
    """One training run: what is trained, on what, how long."""

    model: Model
    part: Callable[[Model], nn.Module]
    """What of the model is trained; the rest is frozen."""
    steps: int
    batch: Callable[[int, int], Batch]
    """The data of (step, part), a function of these numbers; made on another thread."""
    loss: Callable[[Model, Batch], Tensor]
    rate: Callable[[int], float]
    """The learning rate of step n."""
    decay: float
    """Of the averaged weights (EMA), which are the result."""
    config: Any
    """A dataclass, written into the checkpoint."""
    settings: Callable[[Any], dict]
    """What of `config` the result depends on: a checkpoint resumes only where all of it is equal."""
    origin: str = ""
    """Identifies the first weights; by default their fingerprint does."""
    data: str = ""
    """Identifies the data, where `config` does not: a checkpoint resumes only with the same."""
    parts: int = 1
    """A step's loss is the mean over so many batches, computed on several devices or one after the other."""


@dataclass(frozen=True)
class Step(Generic[Model]):
    """What the caller sees after each step."""

    number: int
    loss: float
    seconds: float
    """Of the whole run, before interruptions, too."""
    averaged: Callable[[], Model]
    """Makes the model with the averaged weights, the result so far; with several processes all of them must call it."""


def seeded(run: int, number: int, part: int = 0, of: str = "") -> torch.Generator:
    """The source of what is random in one part of a step; `of` names draws that are independent of the run's own.

    torch's generator reads 32 bits of a seed, too few for run, step and part side by side: all but the first part hash.
    """
    seed = run * 10_000_000 + number
    if part or of:
        seed = int.from_bytes(blake2b(f"{of} {run} {number} {part}".encode(), digest_size=4).digest(), "big")
    return torch.Generator().manual_seed(seed)


def fresh(make: Callable[[], Model], seed: int) -> Model:
    """A model with random weights that the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def prefetched(make: Callable[[int], Batch], numbers: range) -> Iterator[tuple[int, Batch]]:
    """The batch of every step, rendered while the step before it trains."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(make, numbers.start) if numbers else None
        for number in numbers:
            batch = coming.result()
            if number + 1 in numbers:
                coming = worker.submit(make, number + 1)
            yield number, batch


def warm_cosine(peak: float, number: int, steps: int, warmup: int, cut: int = 0) -> float:
    """Linear warm-up, of at most a fifth of all steps, then a half cosine down to 0; with `cut` once before that step,
    and once again from it on."""
    number, steps = (number, min(cut, steps)) if number < cut else (number - cut, steps - cut)
    warmup = max(1, min(warmup, steps // 5))
    progress = max(0, number - warmup) / max(1, steps - warmup)
    return peak * min(1.0, (number + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def averaging(decay: float, n: int) -> float:
    """The decay of an average that forgets its start: at step n at most (1 + n) / (10 + n); at step 0 none."""
    return min(decay, (1 + n) / (10 + n)) if n else 0.0


class Objective(nn.Module):
    """A model whose forward pass is its loss: what several devices share."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.model, self.loss = recipe.model, recipe.loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(self.model, batch)


def fit(
    recipe: Recipe[Model, Batch],
    path: str | Path | None = None,
    checkpoint_every: int = 100,
    scale: Scale = PLAIN,
) -> Iterator[Step[Model]]:
    """Train, yielding after every step; the last step's `averaged()` is the result.

    Args:
        recipe: everything a run depends on.
        path: the checkpoint; if it is there, training resumes from it.
        checkpoint_every: steps between checkpoints; one is also written at the end.
        scale: how steps are computed; a checkpoint resumes under any.

    Raises:
        ValueError: a checkpoint of other settings, first weights or data; parts that the processes cannot share; a
            `scale` that is unavailable here.
    """
    # the model on its devices, its averaged weights, its optimiser; out of the checkpoint where there is one
    devices, model = Devices(scale), recipe.model.requires_grad_(False)
    mine = devices.mine(recipe.parts)
    origin = dict(began_with=recipe.origin or fingerprint(model), data=recipe.data)
    part = recipe.part(model).requires_grad_(True)
    device = next(part.parameters()).device
    plain = model if scale == PLAIN else copy.deepcopy(model).cpu()
    objective = devices.spread(Objective(recipe))
    weights = dict(part.named_parameters())
    averaged = {name: weight.detach().clone() for name, weight in weights.items()}
    optimiser = torch.optim.AdamW(weights.values(), betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    path = None if path is None else Path(path)
    start, seconds = 0, 0.0
    if path is not None and path.exists():
        start, seconds = _resume(path, recipe, origin, weights, averaged, optimiser)

    def snapshot() -> Model:
        result = copy.deepcopy(plain).requires_grad_(False)
        recipe.part(result).load_state_dict({name: whole(value) for name, value in averaged.items()})
        return result

    if start == recipe.steps:
        yield Step(start, math.nan, seconds, snapshot)
    began = time.perf_counter() - seconds
    batches_of = lambda number: [recipe.batch(number, n) for n in mine]  # noqa: E731
    for number, batches in prefetched(batches_of, range(start, recipe.steps)):
        # the gradient of the mean over all parts
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(number)
        optimiser.zero_grad()
        total = torch.zeros((), device=device)
        for left, batch in zip(reversed(range(len(mine))), batches, strict=True):
            with devices.gathering(objective, last=not left):
                with devices.precise(device):
                    loss = objective(batch) / len(mine)
                loss.backward()
            total += loss.detach()
        # the step, and the averages
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimiser.step()
        with torch.no_grad():
            now = 1 - averaging(recipe.decay, number)
            torch._foreach_lerp_([*averaged.values()], [*weights.values()], now)
        done, seconds = number + 1, time.perf_counter() - began
        if path is not None and (done % checkpoint_every == 0 or done == recipe.steps):
            state = _state(weights, averaged, optimiser, keep=devices.rank == 0)
            if devices.rank == 0:
                save_weights(path, state, recipe.config, step=done, seconds=seconds, **origin)
        yield Step(done, devices.mean(total), seconds, snapshot)


def _state(
    weights: dict[str, Tensor], averaged: dict[str, Tensor], optimiser: torch.optim.Optimizer, keep: bool
) -> dict[str, Tensor | None]:
    """Everything a run needs to resume, as flat named tensors, none of them sharded; only one process keeps them."""
    state = {f"part.{name}": weight for name, weight in weights.items()}
    state |= {f"averaged.{name}": weight for name, weight in averaged.items()}
    for name, weight in weights.items():
        state |= {f"optimiser.{name}.{key}": value for key, value in optimiser.state.get(weight, {}).items()}
    return {name: whole(tensor, keep) for name, tensor in state.items()}


def _resume(path: Path, recipe: Recipe, origin: dict[str, str], weights, averaged, optimiser) -> tuple[int, float]:
    """Load a checkpoint into the three, and say after which step and how many seconds it was written."""
    tensors, saved, notes = load_weights(path, type(recipe.config))
    expected = recipe.settings(recipe.config)
    changed = [k for k, v in recipe.settings(saved).items() if v != expected[k]]
    if changed:
        raise ValueError(f"{path} belongs to another preset ({', '.join(changed)} differ); use another folder.")
    if notes.get("began_with") != origin["began_with"]:
        raise ValueError(f"{path} belongs to a run that began with other weights; use another folder.")
    if notes.get("data", "") != origin["data"]:
        raise ValueError(f"{path} belongs to a run on other data; use another folder.")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(shared_as(tensors[f"part.{name}"], weight))
            averaged[name].copy_(shared_as(tensors[f"averaged.{name}"], weight))
            slot = {key: tensors.get(f"optimiser.{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if slot["step"] is not None:  # what no loss has reached has none
                moments = {key: shared_as(slot[key], weight) for key in ("exp_avg", "exp_avg_sq")}
                optimiser.state[weight] = dict(step=slot["step"].to(weight.device), **moments)
    return notes["step"], notes["seconds"]
