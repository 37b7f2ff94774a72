"""Parity: flow_matching, whose time is 1 - sigma (so its velocity has the opposite sign), and diffusers' scheduler."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from flow_matching.path import CondOTProbPath
from flow_matching.solver import ODESolver
from parity import assert_same
from refused import refused
from torch.testing import assert_close

from fourd_minimal.rectified_flow import add_noise, euler, sample_sigma, shift_sigma, sigma_steps, velocity

every_schedule = pytest.mark.parametrize(("n_steps", "shift"), [(1, 1.0), (2, 3.0), (5, 0.5), (8, 1.0), (40, 7.0)])


@pytest.fixture
def field(seed):
    """A velocity that varies over its path: it depends on x, on sigma, and on weights."""
    weight = (torch.randn(3, 3) / 3).requires_grad_()
    return lambda x, sigma: torch.tanh(x @ weight) + sigma * x, weight


def pair(*shape):
    return torch.randn(2, *shape, requires_grad=True).unbind()


def scheduler_of_diffusers(n_steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / n_steps, n_steps))  # its own choice would be shifted twice
    return scheduler


def test_noise_and_velocity_are_those_of_flow_matching():
    (x, eps), sigma = pair(6, 3, 2), torch.linspace(0, 1, 6)
    theirs = CondOTProbPath().sample(x_0=eps, x_1=x, t=1 - sigma)
    ours = add_noise(x, eps, sigma), velocity(x, eps)
    assert_same(ours, (theirs.x_t, -theirs.dx_t), [x, eps])


@every_schedule
def test_euler_is_that_of_diffusers_and_of_flow_matching(field, n_steps, shift):
    (v, weight), x = field, torch.randn(4, 3, requires_grad=True)
    scheduler = scheduler_of_diffusers(n_steps, shift)
    assert_close(sigma_steps(n_steps, shift), scheduler.sigmas)
    states = [x]
    for timestep in scheduler.timesteps:
        sigma = timestep / scheduler.config.num_train_timesteps
        states.append(scheduler.step(v(states[-1], sigma), timestep, states[-1], return_dict=False)[0])
    solver = ODESolver(lambda x, t: -v(x, 1 - t))
    grid = 1 - sigma_steps(n_steps, shift)
    solved = solver.sample(x, None, time_grid=grid, return_intermediates=True, enable_grad=True)
    for theirs in (torch.stack(states), solved):
        assert_same(torch.stack(list(euler(v, x, n_steps, shift))), theirs, [x, weight])


def test_a_level_for_each_sample_and_frame():
    (x, eps), sigma = pair(2, 3, 4, 5), torch.rand(2, 3)
    one_by_one = [[add_noise(x[i, j], eps[i, j], sigma[i, j].item()) for j in range(3)] for i in range(2)]
    assert_close(add_noise(x, eps, sigma), torch.stack([torch.stack(row) for row in one_by_one]))
    assert torch.equal(add_noise(x, eps, 0), x) and torch.equal(add_noise(x, eps, 1), eps)


@every_schedule
def test_straight_paths_are_integrated_exactly(n_steps, shift):
    x, eps = torch.randn(2, 5, 3)
    states = list(euler(lambda _, sigma: velocity(x, eps), eps, n_steps, shift))
    levels = sigma_steps(n_steps, shift)
    assert_close(torch.stack(states), add_noise(x.expand(n_steps + 1, 5, 3), eps.expand(n_steps + 1, 5, 3), levels))
    *_, sample = euler(lambda x, sigma: (x - 5.0) / sigma, eps, n_steps, shift)
    assert_close(sample, torch.full_like(eps, 5.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.4])
@pytest.mark.parametrize("distribution", ["logit_normal", "uniform"])
def test_levels_follow_their_distribution(shift, distribution):
    """Kolmogorov-Smirnov against the closed form: shifting adds log(shift) to the logit."""
    n = 100_000
    sigma = sample_sigma(n, shift, distribution, torch.Generator().manual_seed(0)).sort().values.double()
    if distribution == "logit_normal":
        cdf = torch.special.ndtr(sigma.logit() - np.log(shift))
    else:
        cdf = sigma / (shift - (shift - 1) * sigma)
    assert (cdf - (torch.arange(n) + 0.5) / n).abs().max() < 1.63 / n**0.5  # the 1% point


def test_the_caller_owns_the_loop():
    calls = []
    walk = euler(lambda x, sigma: calls.append(sigma) or x, torch.ones(2), 4)
    assert torch.equal(next(walk), torch.ones(2)) and calls == []
    next(walk), next(walk)
    assert calls == [1.0, 0.75]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: add_noise(torch.ones(2, 3), torch.ones(3), 0.5), ("eps", (3,))),
        (lambda: add_noise(torch.ones(2, 3), torch.ones(2, 3), torch.ones(3)), ("sigma", (3,))),
        (lambda: velocity(torch.ones(2, 3), torch.ones(3)), ("eps", (3,))),
        (lambda: shift_sigma(torch.ones(1), 0.0), ("shift", 0)),
        (lambda: sample_sigma(1, distribution="cosine"), ("distribution", "cosine")),
        (lambda: next(euler(lambda x, sigma: x, torch.ones(1), 0)), ("n_steps", 0)),
    ],
)
def test_bad_input_is_named(call, said):
    refused(call, *said)
