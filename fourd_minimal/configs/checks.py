"""What every preset checks of its values."""

from typing import Any


def at_least(config: Any, **least: float) -> None:
    """Values that must not be smaller.

    Raises:
        ValueError: one that is.
    """
    for name, value in least.items():
        if getattr(config, name) < value:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least {value}.")


def multiples(config: Any, **divisors: int) -> None:
    """Batches that divide into equal parts.

    Raises:
        ValueError: one that does not.
    """
    for name, divisor in divisors.items():
        if getattr(config, name) % divisor:
            raise ValueError(f"{name} is {getattr(config, name)}; expected a multiple of {divisor} for its parts.")
