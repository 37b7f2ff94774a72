"""What holds for every test of a concept."""

import jaxtyping
import pytest
import torch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch):
    """Without the shape checker, which would speak before a concept's own errors."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
