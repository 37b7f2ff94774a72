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


def model_of(mean, variance, unconditional=None):
    """Conditional and unconditional predictions; the two differ where another mean is given."""
    means = mean, mean if unconditional is None else unconditional
    return lambda z, t: tuple(gaussian_noise(z, t, m, variance) for m in means)


def gradient(x, *args, **options):
    x = x.clone().requires_grad_()
    score_distillation(x, *args, **options).loss.backward()
    return x.grad


@pytest.mark.parametrize("t", [50, 500, 950])
def test_the_expected_gradient_of_a_gaussian(t):
    """E[e - eps] = sqrt(abar) sqrt(1 - abar) (x - mean) / (abar variance + 1 - abar); the noise averages out."""
    x = torch.tensor([0.8, -0.3, 0.1], dtype=torch.float64).expand(40_000, 3)[..., None, None]
    mean, step = torch.tensor([0.2, 0.5, 0.0], dtype=torch.float64)[:, None, None], torch.tensor(t)
    found = gradient(x, model_of(mean, 0.3), ABAR, step, 1.0, 0.0, "eps").mean(0) * len(x)
    abar = ABAR[t]
    expected = abar.sqrt() * (1 - abar).sqrt() * (x[0] - mean) / (abar * 0.3 + 1 - abar)
    assert_close(found, expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("t", [50, 500, 950])
def test_the_two_forms_differ_by_a_weight(t):
    x, step = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.tensor(t)
    model = model_of(0.3, 0.5, unconditional=-0.1)
    grads = [gradient(x, model, ABAR, step, 3.0, 0.0, form, torch.Generator().manual_seed(1)) for form in ("x0", "eps")]
    assert_close(grads[0], grads[1] * ((1 - ABAR[t]) / ABAR[t]).sqrt())


def test_the_gradient_reaches_what_rendered():
    """1/2 |x - sg[x - g]|^2 has gradient g at x, and J^T g at what x was made from."""
    theta = torch.randn(5, dtype=torch.float64, requires_grad=True)
    jacobian = torch.randn(12, 5, dtype=torch.float64)
    options = (model_of(0.1, 1.0), ABAR, torch.tensor(400))
    x = (jacobian @ theta).view(1, 3, 2, 2)
    score_distillation(x, *options, generator=torch.Generator().manual_seed(2)).loss.backward()
    g = gradient(x.detach(), *options, generator=torch.Generator().manual_seed(2))
    assert_close(theta.grad, jacobian.T @ g.flatten())


def descend(x, model, steps=400, rate=0.2, highest=(0.98, 0.05), lowest=(0.98, 0.02), guidance=1.0):
    """Gradient descent in the epsilon form, over a range of noise levels that narrows, or does not."""
    for step in range(steps):
        t = draw_step(step / steps, highest=highest, lowest=lowest)
        target = score_distillation(x, model, ABAR, t, guidance, 0.0, "eps").target
        x = x + rate * (target - x) * (1 - step / steps)
    return x


def test_it_goes_to_the_mode_not_to_a_sample():
    """In 300 dimensions, samples of N(m, 1) lie 17 away from m; score distillation ends much closer."""
    mean = torch.full((3, 10, 10), 0.4, dtype=torch.float64)
    x = descend(torch.randn(1, 3, 10, 10, dtype=torch.float64), model_of(mean, 1.0), 1500)
    assert (x - mean).norm() < 5 < 15 < torch.randn(3, 10, 10).norm()


def test_guidance_moves_the_fixed_point_past_the_condition():
    """At w conditional + (1 - w) unconditional: over-saturated, exactly."""
    x = descend(torch.zeros(400, 1, 1, 1, dtype=torch.float64), model_of(0.5, 0.2, unconditional=0.1), guidance=4.0)
    assert_close(x.mean(), torch.tensor(4 * 0.5 - 3 * 0.1, dtype=torch.float64), atol=0.05, rtol=0)


def mixture(z, t, means=(-1.0, 1.0), shares=(0.3, 0.7), variance=0.01):
    abar = ABAR[t]
    spread = abar * variance + 1 - abar
    off = torch.stack([z - abar.sqrt() * m for m in means])
    weight = (torch.tensor(shares).log().view(2, *(1,) * z.ndim) - off.square() / (2 * spread)).softmax(0)
    e = (1 - abar).sqrt() * (weight * off).sum(0) / spread
    return e, e


@pytest.mark.parametrize(
    ("highest", "lowest", "start", "expected"),
    [
        ((0.10, 0.10), (0.02, 0.02), -0.4, -1.0),  # small noise: the nearest mode, though it is the lesser one
        ((0.10, 0.10), (0.02, 0.02), 0.4, 1.0),
        ((0.999, 0.999), (0.97, 0.97), -0.4, 0.4),  # only large noise: the mean of all data, where there is none
        ((0.98, 0.05), (0.98, 0.02), -0.4, 1.0),  # large first, small last: the greater mode, wherever it began
    ],
)
def test_which_mode_of_two_depends_on_the_noise(highest, lowest, start, expected):
    found = descend(torch.full((200, 1, 1, 1), start, dtype=torch.float64), mixture, 600, 0.3, highest, lowest)
    assert_close(found.median(), torch.tensor(expected, dtype=torch.float64), atol=0.15, rtol=0)


def test_rescaling_is_the_papers():
    x, t, seed = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.tensor(700), torch.Generator()

    def model(z, t):  # with the condition a narrower spread than without: guidance changes the spread of x0
        return model_of(0.3, 0.5)(z, t)[0], model_of(-0.4, 2.0)(z, t)[0]

    targets = {
        options: score_distillation(x, model, ABAR, t, *options, generator=seed.manual_seed(3)).target
        for options in ((5.0, 0.0), (1.0, 0.0), (5.0, 0.2))
    }
    x0, unguided = targets[5.0, 0.0], targets[1.0, 0.0]
    assert (unguided.std() / x0.std() - 1).abs() > 0.1
    assert_close(targets[5.0, 0.2], 0.2 * x0 * unguided.std() / x0.std() + 0.8 * x0)


@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 3, 8, 8), (8, 4, 3, 8, 8)])
def test_an_image_views_or_views_of_frames_are_one_call(shape):
    seen = []

    def model(z, t):
        seen.append((z, t))
        return z, z

    x = torch.zeros(shape, dtype=torch.float64)
    loss, target = score_distillation(x, model, ABAR, torch.tensor(300))
    ((z, t),) = seen
    assert z.shape == target.shape == x.shape and t.ndim == 0 and loss.ndim == 0
    if x.ndim > 3:
        assert (z[0] != z[1]).all()  # noise of its own


def test_steps_are_annealed_as_the_paper_says():
    for progress, low, high in ((0.0, 980, 980), (0.5, 500, 615), (1.0, 20, 250), (3.0, 20, 250)):
        drawn = [int(draw_step(progress)) for _ in range(500)]
        assert low <= min(drawn) <= low + 3 and high - 3 <= max(drawn) <= high


@pytest.mark.parametrize(("t", "form", "said"), [(1000, "x0", ("t", 1000)), (10, "v", ("form", "v"))])
def test_bad_input_is_named(t, form, said):
    x, model = torch.zeros(3, 2, 2), model_of(0.0, 1.0)
    refused(lambda: score_distillation(x, model, ABAR, torch.tensor(t), form=form), *said)
