"""Training the upsampler: it resumes exactly, and learns to do better than bicubic interpolation."""

from dataclasses import replace
from functools import partial

import torch
from resuming import killed_and_resumed
from torch.testing import assert_close

from fourd_minimal.configs.upsampler import UPSAMPLERS
from fourd_minimal.rectified_flow import add_noise
from fourd_minimal.systems.upsampler import Upsampler, bicubic, shrink
from fourd_minimal.training.upsampler import batch_loss, make_batch, train_upsampler

SMOKE = UPSAMPLERS["smoke"]


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    killed_and_resumed(partial(train_upsampler, SMOKE), tmp_path)


def test_a_batch_holds_what_its_small_frames_come_from():
    batch = make_batch(replace(SMOKE, batch=64), 0)
    assert 0.35 < (batch.tau == 0).float().mean() < 0.65
    assert batch.tau.max() <= SMOKE.model.most_augmentation and (batch.sigma == 1).any()
    true = batch.tau == 0
    assert_close(batch.small[true], shrink(batch.clean[true], 2))
    noise = (batch.noisy - add_noise(batch.clean, torch.zeros_like(batch.clean), batch.sigma)) / batch.sigma[
        :, None, None, None, None, None
    ]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.02


def test_the_loss_of_bicubic_is_its_error():
    torch.manual_seed(0)
    model, batch = Upsampler(SMOKE.model), make_batch(SMOKE, 0)
    batch = batch._replace(sigma=torch.ones(2), small=shrink(batch.clean, 2), tau=torch.zeros(2))
    assert_close(batch_loss(model, batch), (bicubic(batch.small, 2) - batch.clean).square().mean())


def test_it_learns_to_do_better_than_bicubic():
    """On its own task, noise and augmentation included, with other scenes than it has seen."""
    preset = replace(SMOKE, steps=120, lr=5e-3)
    *_, step = train_upsampler(preset)
    torch.manual_seed(0)
    batch = make_batch(replace(preset, batch=16), 1_000)
    assert batch_loss(step.averaged(), batch) < 0.95 * batch_loss(Upsampler(preset.model), batch)
