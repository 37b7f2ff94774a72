"""A training that is killed and gone on with."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.testing import assert_close


def last(steps: Iterator[Any]) -> Any:
    *_, step = steps
    return step


def killed_and_resumed(train: Callable[..., Iterator[Any]], folder: Any, at: int = 3, every: int = 2) -> Any:
    """It ends, bit for bit, as one that nobody interrupts does; returns the model.

    `train(folder)` trains without traces where the folder is None, and takes `checkpoint_every`.
    """
    whole = last(train(None))
    killed = train(folder, checkpoint_every=every)
    while next(killed).number < at:
        pass
    killed.close()
    rest = [*train(folder, checkpoint_every=every)]
    assert [step.number for step in rest] == [*range(at // every * every + 1, whole.number + 1)]
    assert_close(rest[-1].averaged().state_dict(), whole.averaged().state_dict(), rtol=0, atol=0)
    return whole.averaged()
