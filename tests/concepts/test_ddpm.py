"""The schedule and DDIM against diffusers, and against data whose noise is known."""

import pytest
import torch
from diffusers import DDIMScheduler
from refused import refused
from torch.testing import assert_close

from fourd_minimal.ddpm import NoiseSchedule, ddim


def theirs(**options):
    betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return DDIMScheduler(1000, **betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **options)


def test_the_schedule_is_stable_diffusions():
    ours, scheduler = NoiseSchedule(), theirs()
    assert_close(ours.abar, scheduler.alphas_cumprod, atol=1e-6, rtol=1e-5)
    x, eps, t = torch.randn(5, 3, 4), torch.randn(5, 3, 4), torch.tensor([0, 10, 500, 900, 999])
    assert_close(ours.add_noise(x, eps, t), scheduler.add_noise(x, eps, t))
    assert_close(ours.velocity(x, eps, t), scheduler.get_velocity(x, eps, t))
    assert_close(NoiseSchedule(1, 0.1, 0.1).abar, torch.tensor([0.9]))


def test_each_prediction_determines_the_others():
    schedule, t = NoiseSchedule(), torch.tensor([3, 400, 990])
    x, eps = torch.randn(3, 2, 5, dtype=torch.float64), torch.randn(3, 2, 5, dtype=torch.float64)
    z, v = schedule.add_noise(x, eps, t), schedule.velocity(x, eps, t)
    for found, expected in (
        (schedule.x0_from_eps(z, eps, t), x),
        (schedule.eps_from_x0(z, x, t), eps),
        (schedule.x0_from_velocity(z, v, t), x),
        (schedule.eps_from_velocity(z, v, t), eps),
    ):
        assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert_close(schedule.add_noise(x[0], eps[0], t[0]), z[0])  # one step for all


@pytest.mark.parametrize(
    ("n_steps", "kind", "eta"),
    [(1, "epsilon", 0.0), (7, "v_prediction", 0.0), (50, "epsilon", 0.0), (10, "epsilon", 0.7)],
)
def test_ddim_is_diffusers(n_steps, kind, eta):
    scheduler = theirs(prediction_type=kind)
    scheduler.set_timesteps(n_steps)
    schedule, z = NoiseSchedule(), torch.randn(2, 3, 4)
    ours, others = (torch.Generator().manual_seed(3) for _ in range(2))

    def predict(z, t):
        return (1.3 * z).tanh() + t / 1000

    def eps_fn(z, t):
        return predict(z, t) if kind == "epsilon" else schedule.eps_from_velocity(z, predict(z, t), t)

    assert schedule.visited(n_steps) == scheduler.timesteps.tolist()
    for t, state in zip(scheduler.timesteps, ddim(eps_fn, z, schedule, n_steps, eta, ours), strict=True):
        z = scheduler.step(predict(z, t), t, z, eta=eta, generator=others).prev_sample
        assert_close(state, z, atol=1e-4, rtol=1e-4)


def test_the_end_can_be_clean():
    schedule, point = NoiseSchedule(), torch.tensor([2.0])
    exact = lambda z, t: schedule.eps_from_x0(z, point, t)  # noqa: E731
    *_, rough = ddim(exact, torch.ones(1), schedule, 5)
    *_, clean = ddim(exact, torch.ones(1), schedule, 5, to_clean=True)
    assert_close(clean, point)
    assert abs(rough - schedule.abar[0].sqrt() * 2) < 0.1 and abs(rough - clean) > 1e-3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: NoiseSchedule(0), ("n_steps", 0)),
        (lambda: NoiseSchedule(10, 0.5, 0.1), ("beta_start", 0.5)),
        (lambda: NoiseSchedule().visited(0), ("n_steps", 0)),
        (lambda: NoiseSchedule().add_noise(torch.ones(1), torch.ones(1), torch.tensor([1000])), ("t", 1000)),
    ],
)
def test_bad_input_is_named(call, said):
    refused(call, *said)
