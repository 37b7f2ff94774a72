"""The upsampler: bicubic before training, neighbours on both axes are heard, and bad input gets one sentence."""

import copy

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.systems.upsampler import DETAIL, Upsampler, UpsamplerConfig, bicubic, shrink
from fourd_minimal.video_dit import CONTEXTS, VideoDiT, VideoDiTConfig

CONFIG = UpsamplerConfig(VideoDiTConfig((16, 16), 4, 24, 2, 2))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Upsampler(CONFIG)


def wake(model: Upsampler) -> Upsampler:
    """Zero-initialised layers would make most of these tests vacuous."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


def some(*shape: int, seed: int = 0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def keys(x, a=-0.75):
    """Cubic convolution, Keys 1981."""
    x = x.abs()
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def test_one_bright_pixel_is_enlarged_to_the_cubic_kernel():
    spot = torch.zeros(1, 9, 9)
    spot[0, 4, 4] = 1
    along = keys((torch.arange(18.0) + 0.5) / 2 - 0.5 - 4)
    assert_close(bicubic(spot, 2)[0], along[:, None] * along, atol=1e-6, rtol=0)


def test_before_training_it_is_bicubic(model):
    small = some(2, 3, 3, 8, 8)
    for n_steps in (1, 3):
        assert_close(model.upsample(small, n_steps), bicubic(small, 2).clamp(0, 1), atol=1e-5, rtol=0)


def test_every_frame_depends_on_all_others(model):
    """A block along the rows, then one along the columns."""
    wake(model)
    small = some(1, 3, 4, 3, 8, 8).requires_grad_()
    large = model.denoise(some(1, 3, 4, 3, 16, 16), torch.ones(1), small, torch.zeros(1))
    (large[0, 1, 2] - bicubic(small, 2)[0, 1, 2]).square().sum().backward()
    assert (small.grad.abs().sum((0, 3, 4, 5)) > 0).all()


def test_rows_are_read_as_clips_and_columns_as_moments(model):
    """Block 0 has the context "dynamic", block 1 "freeze": with an embedding changed, only its blocks notice."""
    heard = {}
    for context in ("dynamic", "freeze"):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.dit.context_in.weight[CONTEXTS.index(context)] += 1
        noticed = []
        for own, other in zip(model.dit.blocks, changed.dit.blocks, strict=True):
            inputs = []
            hooks = [
                b.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[1])) for b in (own, other)
            ]
            for m in (model, changed):
                m.upsample(torch.full((2, 3, 3, 8, 8), 0.5))
            noticed.append(not torch.equal(*inputs))
            for hook in hooks:
                hook.remove()
        heard[context] = noticed
    assert heard == dict(dynamic=[True, False], freeze=[False, True])


def test_augmentation_is_noise_of_that_level(model):
    """Untrained, the output is the enlarged input: (1 - tau) s + tau eps."""
    small = torch.zeros(1, 8, 8, 3, 8, 8)
    *_, large = model.sample(small, tau=0.2)
    seen = shrink(large, 2)
    *_, same = model.sample(small + 0.5, tau=0.2)
    assert_close(shrink(same, 2) - seen, torch.full_like(seen, 0.4), atol=1e-4, rtol=0)
    assert 0.1 < seen.std() < 0.2  # 0.2, less what enlarging smoothes


def test_the_mirror_image_becomes_the_mirror_image(model):
    """In one step, whatever the noise: at sigma = 1 it is not looked at."""
    small = some(2, 2, 3, 8, 8)
    assert_close(wake(model).upsample(small.flip(-1), seed=1), model.upsample(small).flip(-1))


def test_what_a_noisy_frame_says_is_wieners_guess(model):
    """Least squares on samples: the share of x_sigma - (1 - sigma) up(s) that is nearest to x - up(s)."""
    heard = []
    model.dit.embed = lambda x, *rest: heard.append(x) or VideoDiT.embed(model.dit, x, *rest)
    difference = DETAIL * torch.randn(1, 8, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    small, eps = some(1, 8, 8, 3, 8, 8), torch.randn(difference.shape, generator=torch.Generator().manual_seed(1))
    for sigma in (0.05, 0.3, 1.0):
        x = (1 - sigma) * (bicubic(small, 2) + difference) + sigma * eps
        model.denoise(x, torch.tensor([sigma]), small, torch.zeros(1))
        told = (x - (1 - sigma) * bicubic(small, 2)).flatten()
        best = told * (told @ difference.flatten()) / (told @ told)
        assert_close(heard[-2].flatten(), best, atol=2e-3, rtol=0)


def test_the_same_seed_gives_the_same_frames(model):
    small = some(2, 2, 3, 8, 8)
    once, again, other = (model.upsample(small, tau=0.1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_bad_input_gets_one_sentence(model):
    refused(lambda: model.upsample(some(2, 2, 3, 4, 4)), "grid", (2, 2, 3, 4, 4))
    refused(lambda: model.upsample(some(2, 2, 3, 8, 8) * 2), "grid", 2)
    refused(lambda: model.upsample(some(2, 2, 3, 8, 8) / 0), "grid", "NaN")
    refused(lambda: model.upsample(some(0, 2, 3, 8, 8)), "grid", (0, 2, 3, 8, 8))
    refused(lambda: model.upsample(some(2, 2, 3, 8, 8), tau=0.5), "tau", "0.5")


def test_a_configuration_that_cannot_be_is_refused():
    refused(lambda: UpsamplerConfig(dit=CONFIG.dit, factor=3), "factor", 3)
    refused(lambda: UpsamplerConfig(dit=CONFIG.dit, factor=1), "factor", 1)
    refused(lambda: UpsamplerConfig(dit=CONFIG.dit, most_augmentation=1.0), "most_augmentation", 1)
    refused(lambda: UpsamplerConfig(dit=VideoDiTConfig((16, 16), 4, 24, 1, 2)), "depth", 1)
