"""Errors, told by what they name: an argument and its value, whatever the sentence around them."""

import re
from collections.abc import Callable
from typing import Any

import pytest


def says(*parts: object) -> str:
    """A pattern for a text that holds these in this order, each as a word: names, and values as `str` writes them.

    >>> bool(re.search(says("views", 0), "views is 0; expected at least 1"))
    True
    >>> bool(re.search(says("views", 0), "views is 0.5")) or bool(re.search(says("views", 0), "n_views is 0"))
    False
    """
    return "(?s)" + ".*?".join(rf"(?<!\w){re.escape(str(part))}(?:\.0)?(?!\w|\.\d)" for part in parts)


def refused(call: Callable[[], Any], *parts: object, error: type[Exception] = ValueError) -> None:
    """The call ends in this error, which `says` the parts: an argument's name, then its value."""
    with pytest.raises(error, match=says(*parts)):
        call()
