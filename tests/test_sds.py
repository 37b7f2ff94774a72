"""Score distillation on data whose score is known in closed form: Gaussians and mixtures of two."""

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.ddpm import NoiseSchedule
from fourd_minimal.sds import draw_step, score_distillation

SCHEDULE = NoiseSchedule()
ABAR = SCHEDULE.abar.double()


def gaussian_noise(z, t, mean, variance):
    """What a perfect model of N(mean, variance) predicts: E[eps | z]."""
    abar = ABAR[t]
    return (1 - abar).sqrt() * (z - abar.sqrt() * mean) / (abar * variance + 1 - abar)


def knows(mean, variance, nothing=None):
    nothing = mean if nothing is None else nothing
    return lambda z, t: (gaussian_noise(z, t, mean, variance), gaussian_noise(z, t, nothing, variance))


def gradient(x, *args, **options):
    x = x.clone().requires_grad_()
    score_distillation(x, *args, **options).loss.backward()
    return x.grad


@pytest.mark.parametrize("t", [50, 500, 950])
def test_the_expected_gradient_of_a_gaussian(t):
    """E[e - eps] = sqrt(abar) sqrt(1 - abar) (x - mean) / (abar variance + 1 - abar); the noise averages out."""
    x = torch.tensor([0.8, -0.3, 0.1], dtype=torch.float64).expand(40_000, 3)[..., None, None]
    mean, step = torch.tensor([0.2, 0.5, 0.0], dtype=torch.float64)[:, None, None], torch.tensor(t)
    guess, generator = knows(mean, 0.3), torch.Generator().manual_seed(0)
    found = gradient(x, guess, ABAR, step, 1.0, 0.0, "eps", generator).mean(0) * len(x)
    abar = ABAR[t]
    expected = abar.sqrt() * (1 - abar).sqrt() * (x[0] - mean) / (abar * 0.3 + 1 - abar)
    assert_close(found, expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("t", [50, 500, 950])
def test_the_two_forms_differ_by_a_weight(t):
    x, step = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.tensor(t)
    guess = knows(0.3, 0.5, nothing=-0.1)
    grads = [gradient(x, guess, ABAR, step, 3.0, 0.0, form, torch.Generator().manual_seed(1)) for form in ("x0", "eps")]
    assert_close(grads[0], grads[1] * ((1 - ABAR[t]) / ABAR[t]).sqrt())


def test_the_gradient_reaches_what_rendered():
    """1/2 |x - sg[x - g]|^2 has gradient g at x, and J^T g at what x was made from."""
    theta = torch.randn(5, dtype=torch.float64, requires_grad=True)
    jacobian = torch.randn(12, 5, dtype=torch.float64)
    options = (knows(0.1, 1.0), ABAR, torch.tensor(400))
    x = (jacobian @ theta).view(1, 3, 2, 2)
    score_distillation(x, *options, generator=torch.Generator().manual_seed(2)).loss.backward()
    g = gradient(x.detach(), *options, generator=torch.Generator().manual_seed(2))
    assert_close(theta.grad, jacobian.T @ g.flatten())


def descend(x, guess, steps=400, rate=0.2, seed=0, highest=0.98, lowest=0.02, annealed=True, guidance=1.0):
    """Gradient descent in the epsilon form, over a range of noise levels that narrows, or does not."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        ends = (dict(lowest=(0.98, lowest)) if annealed else dict(lowest=(lowest, lowest))) | dict(
            highest=(highest, 0.05 if annealed else highest)
        )
        t = draw_step(step / steps, generator=generator, **ends)
        target = score_distillation(x, guess, ABAR, t, guidance, 0.0, "eps", generator).target
        x = x + rate * (target - x) * (1 - step / steps)
    return x


def test_it_goes_to_the_mode_not_to_a_sample():
    """In 300 dimensions, samples of N(m, 1) lie 17 away from m; score distillation ends much closer."""
    mean = torch.full((3, 10, 10), 0.4, dtype=torch.float64)
    x = descend(
        torch.randn(1, 3, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5)),
        knows(mean, 1.0),
        1500,
    )
    assert (x - mean).norm() < 5
    assert torch.randn(3, 10, 10, generator=torch.Generator().manual_seed(6)).norm() > 15


def test_guidance_moves_the_fixed_point_past_the_condition():
    """At w shown + (1 - w) nothing: over-saturated, exactly."""
    x = descend(torch.zeros(400, 1, 1, 1, dtype=torch.float64), knows(0.5, 0.2, nothing=0.1), guidance=4.0)
    assert_close(x.mean(), torch.tensor(4 * 0.5 - 3 * 0.1, dtype=torch.float64), atol=0.05, rtol=0)


def mixture(z, t, means=(-1.0, 1.0), shares=(0.3, 0.7), variance=0.01):
    abar = ABAR[t]
    spread = abar * variance + 1 - abar
    off = torch.stack([z - abar.sqrt() * m for m in means])
    weight = (torch.tensor(shares).log().view(2, *(1,) * z.ndim) - off.square() / (2 * spread)).softmax(0)
    e = (1 - abar).sqrt() * (weight * off).sum(0) / spread
    return e, e


@pytest.mark.parametrize(
    ("highest", "lowest", "annealed", "start", "expected"),
    [
        (0.10, 0.02, False, -0.4, -1.0),  # small noise: the nearest mode, though it is the lesser one
        (0.10, 0.02, False, 0.4, 1.0),
        (0.999, 0.97, False, -0.4, 0.4),  # only large noise: the mean of all data, where there is none
        (0.98, 0.02, True, -0.4, 1.0),  # large first, small last: the greater mode, wherever it began
    ],
)
def test_which_mode_of_two_depends_on_the_noise(highest, lowest, annealed, start, expected):
    x = torch.full((200, 1, 1, 1), start, dtype=torch.float64)
    found = descend(x, mixture, 600, 0.3, 0, highest, lowest, annealed)
    assert_close(found.median(), torch.tensor(expected, dtype=torch.float64), atol=0.15, rtol=0)


def test_subtracting_the_noise_steadies_large_steps_and_unsteadies_small_ones():
    """Variance of e - eps over that of e alone, for N(0, 1): (1 - s)^2 : s^2 with s = sqrt(1 - abar) of the noise."""
    x = torch.zeros(20_000, 1, 1, 1, dtype=torch.float64)
    for t, steadier in ((980, True), (30, False)):
        with_eps = gradient(x, knows(0.0, 1.0), ABAR, torch.tensor(t), 1.0, 0.0, "eps") * len(x)
        alone = gaussian_noise((1 - ABAR[t]).sqrt() * torch.randn_like(x), t, 0.0, 1.0)
        assert (with_eps.std() < alone.std()) == steadier


def test_rescaling_is_the_papers():
    x, t, seed = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.tensor(700), torch.Generator()

    def guess(z, t):  # with the condition a narrower spread than without: guidance changes the spread of x0
        return knows(0.3, 0.5)(z, t)[0], knows(-0.4, 2.0)(z, t)[0]

    looks = {
        options: score_distillation(x, guess, ABAR, t, *options, generator=seed.manual_seed(3)).target
        for options in ((5.0, 0.0), (1.0, 0.0), (5.0, 0.2))
    }
    x0, unguided = looks[5.0, 0.0], looks[1.0, 0.0]
    assert (unguided.std() / x0.std() - 1).abs() > 0.1
    assert_close(looks[5.0, 0.2], 0.2 * x0 * unguided.std() / x0.std() + 0.8 * x0)


@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 3, 8, 8), (8, 4, 3, 8, 8)])
def test_an_image_views_or_views_of_frames_are_one_call(shape):
    seen = []

    def guess(z, t):
        seen.append((z, t))
        return z, z

    x = torch.zeros(shape, dtype=torch.float64)
    loss, target = score_distillation(x, guess, ABAR, torch.tensor(300))
    ((z, t),) = seen
    assert z.shape == target.shape == x.shape and t.ndim == 0 and loss.ndim == 0
    if x.ndim > 3:
        assert (z[0] != z[1]).all()  # noise of its own


def test_steps_are_annealed_as_the_paper_says():
    generator = torch.Generator().manual_seed(0)
    for progress, low, high in ((0.0, 980, 980), (0.5, 500, 615), (1.0, 20, 250), (3.0, 20, 250)):
        drawn = [int(draw_step(progress, generator=generator)) for _ in range(500)]
        assert low <= min(drawn) <= low + 3 and high - 3 <= max(drawn) <= high


def test_bad_input_is_named():
    x, guess = torch.zeros(3, 2, 2), knows(0.0, 1.0)
    refused(lambda: score_distillation(x, guess, ABAR, torch.tensor(1000)), "t", 1000)
    refused(lambda: score_distillation(x, guess, ABAR, torch.tensor(10), form="v"), "form", "v")
