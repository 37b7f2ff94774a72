"""The training loop: one generator for everything that is trained here, so the caller owns the `for`.

    for step in fit(recipe, "run_checkpoint.safetensors"):  print(step.number, step.loss)

Everything random in a step (its scenes, masks, noise levels, noise) is a function of the recipe and the step's number
alone. So a run that was interrupted goes on from its checkpoint exactly as if nothing had happened.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fourd_minimal.systems.weights import fingerprint, load_weights, save_weights

Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Recipe(Generic[Model, Batch]):
    """One training run: what is trained, on what, how long."""

    model: Model
    part: Callable[[Model], nn.Module]
    """What of the model is trained; the rest stays as it is."""
    steps: int
    batch: Callable[[int], Batch]
    """The data of step n, a function of n alone; made on another thread."""
    loss: Callable[[Model, Batch], Tensor]
    rate: Callable[[int], float]
    """The learning rate of step n."""
    decay: float
    """Of the averaged weights, which are the result."""
    config: Any
    """A dataclass, written into the checkpoint."""
    settings: Callable[[Any], dict]
    """What of `config` the result depends on: a checkpoint goes on only where all of it is equal."""


@dataclass(frozen=True)
class Step(Generic[Model]):
    """What the caller sees after each step."""

    number: int
    loss: float
    seconds: float
    """Spent on this run, also before an interruption."""
    averaged: Callable[[], Model]
    """Makes the model with the averaged weights: the result so far."""


def prefetched(make: Callable[[int], Batch], numbers: range) -> Iterator[tuple[int, Batch]]:
    """The batch of every step, rendered while the step before it trains."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(make, numbers.start) if numbers else None
        for number in numbers:
            batch = coming.result()
            if number + 1 in numbers:
                coming = worker.submit(make, number + 1)
            yield number, batch


def warm_cosine(peak: float, number: int, steps: int, warmup: int) -> float:
    """Linear warm-up, of at most a fifth of all steps, then a half cosine down to 0."""
    warmup = max(1, min(warmup, steps // 5))
    progress = max(0, number - warmup) / max(1, steps - warmup)
    return peak * min(1.0, (number + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def averaging(decay: float) -> Callable:
    """An exponential average that forgets its start: at step n the decay is at most (1 + n) / (10 + n)."""

    def update(averaged: list[Tensor], current: list[Tensor], n: Tensor) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n.item()) / (10 + n.item())))

    return torch.no_grad()(update)


def fit(
    recipe: Recipe[Model, Batch], path: str | Path | None = None, checkpoint_every: int = 100
) -> Iterator[Step[Model]]:
    """Train, yielding after every step; the last step's `averaged()` is the result.

    Args:
        recipe: everything a run depends on.
        path: the checkpoint; if it is there, training goes on from it.
        checkpoint_every: steps between checkpoints; one is also written at the end.

    Raises:
        ValueError: a checkpoint of other settings, or of a run that began with other weights.
    """
    model = recipe.model.requires_grad_(False)
    began_with = fingerprint(model)
    part = recipe.part(model).requires_grad_(True)
    averaged = AveragedModel(part, multi_avg_fn=averaging(recipe.decay))
    optimiser = torch.optim.AdamW(part.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    path = None if path is None else Path(path)
    start, seconds = 0, 0.0
    if path is not None and path.exists():
        start, seconds = _resume(path, recipe, began_with, part, averaged, optimiser)

    def snapshot() -> Model:
        result = copy.deepcopy(model).requires_grad_(False)
        recipe.part(result).load_state_dict(averaged.module.state_dict())
        return result

    if start == recipe.steps:
        yield Step(start, math.nan, seconds, snapshot)
    began = time.perf_counter() - seconds
    for number, batch in prefetched(recipe.batch, range(start, recipe.steps)):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(number)
        loss = recipe.loss(model, batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        optimiser.step()
        averaged.update_parameters(part)
        done, seconds = number + 1, time.perf_counter() - began
        if path is not None and (done % checkpoint_every == 0 or done == recipe.steps):
            notes = dict(step=done, seconds=seconds, began_with=began_with)
            save_weights(path, _state(part, averaged, optimiser), recipe.config, **notes)
        yield Step(done, loss.item(), seconds, snapshot)


def _state(part, averaged, optimiser) -> dict[str, Tensor]:
    """Everything a run needs to go on, as flat named tensors."""
    names = [name for name, _ in part.named_parameters()]
    state = {f"part.{k}": v for k, v in part.state_dict().items()}
    state |= {f"averaged.{k}": v for k, v in averaged.state_dict().items()}
    for index, slot in optimiser.state_dict()["state"].items():
        state |= {f"optimiser.{names[index]}.{key}": value for key, value in slot.items()}
    return {k: v.clone() for k, v in state.items()}


def _resume(path: Path, recipe: Recipe, began_with: str, part, averaged, optimiser) -> tuple[int, float]:
    """Load a checkpoint into the three, and say after which step and how many seconds it was written."""
    tensors, saved, notes = load_weights(path, type(recipe.config))
    wanted = recipe.settings(recipe.config)
    changed = [k for k, v in recipe.settings(saved).items() if v != wanted[k]]
    if changed:
        raise ValueError(f"{path} belongs to another preset ({', '.join(changed)} differ); use another folder.")
    if notes.get("began_with") != began_with:
        raise ValueError(f"{path} belongs to a run that began with other weights; use another folder.")
    cut = {p: {k[len(p) + 1 :]: v for k, v in tensors.items() if k.startswith(p + ".")} for p in ("part", "averaged")}
    part.load_state_dict(cut["part"])
    averaged.load_state_dict(cut["averaged"])
    slots = {
        index: {key: tensors[f"optimiser.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        for index, (name, _) in enumerate(part.named_parameters())
    }
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return notes["step"], notes["seconds"]
