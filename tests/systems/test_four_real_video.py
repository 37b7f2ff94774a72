"""The system: known cells are held, the streams are wired as eq. 4 says, and bad input gets one sentence."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.rectified_flow import shift_sigma
from fourd_minimal.systems.conditioning import assemble, known_cells, linear_guess
from fourd_minimal.systems.designs import Design
from fourd_minimal.systems.four_real_video import FourRealVideo, FourRealVideoConfig
from fourd_minimal.video_dit import VideoDiTConfig

CONFIG = FourRealVideoConfig(VideoDiTConfig((8, 8), 4, 24, 2, 2), views=3, times=4)


def wake(model: FourRealVideo) -> FourRealVideo:
    """Zero-initialised layers would make most of these tests vacuous."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.base.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return wake(FourRealVideo(CONFIG))


def videos(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    fixed_view, freeze_time = torch.rand(4, 3, 8, 8, generator=generator), torch.rand(3, 3, 8, 8, generator=generator)
    freeze_time[0] = fixed_view[0]
    return fixed_view, freeze_time


def test_known_cells_come_back_exactly_and_the_rest_is_a_picture(model):
    fixed_view, freeze_time = videos()
    grid = model.generate(fixed_view, freeze_time, n_steps=2)
    assert grid.shape == (3, 4, 3, 8, 8)
    assert torch.equal(grid[0], fixed_view) and torch.equal(grid[:, 0], freeze_time)
    assert grid.min() >= 0 and grid.max() <= 1
    assert grid[1:, 1:].std() > 0.05


def test_known_cells_hold_still_in_every_state(model):
    clean = assemble(*videos()) * 2 - 1
    known = known_cells(3, 4)
    for state in model.sample_grid(clean, n_steps=3):
        assert torch.equal(state[:, known], clean[:, known])


def test_unknown_cells_are_ignored(model):
    clean = assemble(*videos()) * 2 - 1
    corrupted = torch.where(known_cells(3, 4)[..., None, None, None], clean, torch.full_like(clean, 9.0))
    noise = torch.randn(clean.shape)
    assert_close(*(model.denoise_grid(noise, torch.tensor([0.7]), c) for c in (clean, corrupted)))


def test_sampling_shifts_noise_levels_as_training_does(model, monkeypatch):
    levels, clean = [], assemble(*videos()) * 2 - 1
    inner = model.denoise_grid
    watched = lambda x, sigma, **more: levels.append(sigma[0].item()) or inner(x, sigma, **more)  # noqa: E731
    monkeypatch.setattr(model, "denoise_grid", watched)
    *_, _ = model.sample_grid(clean, 4)
    assert_close(torch.tensor(levels), shift_sigma(torch.tensor([1.0, 0.75, 0.5, 0.25]), CONFIG.shift))
    assert levels[1] == pytest.approx(0.9)  # by hand: 3 * 0.75 / (1 + 2 * 0.75)


def test_a_batch_is_its_parts(model):
    clean = torch.cat([assemble(*videos(s)) for s in (0, 1)]) * 2 - 1
    x, sigma = torch.randn(clean.shape), torch.tensor([0.3, 0.9])
    both = model.denoise_grid(x, sigma, clean)
    for i in range(2):
        assert_close(both[i : i + 1], model.denoise_grid(x[i : i + 1], sigma[i : i + 1], clean[i : i + 1]))


@pytest.mark.parametrize("views, times", [(3, 3), (2, 4)])
def test_without_sync_each_stream_is_the_base_on_its_videos(views, times):
    """Identity sync: the mean of the base run on the columns and the base run on the rows."""
    model = wake(FourRealVideo(replace(CONFIG, views=4)))
    for layer in model.streams.sync:
        layer.start_at(0.0)
    clean, x = torch.rand(1, views, times, 3, 8, 8), torch.randn(1, views, times, 3, 8, 8)
    seen, sigma = known_cells(views, times), torch.tensor([0.6])
    columns = torch.cat(
        [model.denoise_video(x[:, :, t], sigma, seen[None, :, t], clean[:, :, t], "freeze") for t in range(times)]
    )
    rows = torch.cat([model.denoise_video(x[:, v], sigma, seen[None, v], clean[:, v], "dynamic") for v in range(views)])
    assert_close(model.denoise_grid(x, sigma, clean)[0], (columns.transpose(0, 1) + rows) / 2)


@pytest.mark.parametrize("sync", get_args(Design))
def test_information_crosses_the_grid_through_the_sync(sync):
    """Cell (2, 3) depends on the fixed-view frame (0, 1), which lies in neither its row nor its column."""
    model = wake(FourRealVideo(replace(CONFIG, sync=sync))).requires_grad_(False)
    clean, x = (assemble(*videos()) * 2 - 1).requires_grad_(), torch.randn(1, 3, 4, 3, 8, 8)
    out = model.denoise_grid(x, torch.tensor([0.8]), clean)
    (gradient,) = torch.autograd.grad(out[0, 2, 3].sum(), clean)
    assert gradient[0, 0, 1].abs().max() > 0
    assert gradient[0, 1, 2].abs().max() == 0  # an unknown cell of `clean` is never read


def test_saved_and_loaded_again(model, tmp_path):
    for part in ("base", "sync"):
        model.save_pretrained(tmp_path, part, dtype=torch.float32, made_by="a test")
    loaded = FourRealVideo.from_pretrained(tmp_path)
    assert loaded.config == CONFIG
    assert_close(dict(loaded.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert FourRealVideo.from_pretrained(tmp_path, sync="weighted").config.sync == "weighted"


def test_jointly_trained_weights_come_first_unless_the_papers_recipe_is_asked_for(model, tmp_path):
    for part in ("base", "sync"):
        model.save_pretrained(tmp_path, part, dtype=torch.float32)
    moved = wake(FourRealVideo(CONFIG))
    moved.save_pretrained(tmp_path, "joint", dtype=torch.float32)
    assert FourRealVideo.has_joint(tmp_path)
    joint, frozen = (FourRealVideo.from_pretrained(tmp_path, base_frozen=frozen) for frozen in (False, True))
    assert_close(dict(joint.state_dict()), dict(moved.state_dict()), rtol=0, atol=0)
    assert_close(dict(frozen.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


def test_slightly_different_first_frames_warn_with_the_difference(model):
    fixed_view, freeze_time = videos()
    freeze_time[0] = (freeze_time[0] + 0.05).clamp(0, 1)
    with pytest.warns(UserWarning, match=r"freeze_time.*0\.0"):
        grid = model.generate(fixed_view, freeze_time, n_steps=1)
    assert torch.equal(grid[0, 0], fixed_view[0])


MASKS = {
    "a row": [[0, 0, 0], [1, 1, 1], [0, 0, 0]],
    "a column": [[0, 0, 1], [0, 0, 1], [0, 0, 1]],
    "scattered": [[0, 1, 0], [0, 0, 0], [1, 0, 0]],
}


@pytest.mark.parametrize("name", MASKS)
def test_any_cells_can_be_known(model, name):
    known = torch.tensor(MASKS[name], dtype=torch.bool)
    cells = torch.rand(3, 3, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    grid = model.complete(cells, known, n_steps=2)
    assert torch.equal(grid[known], cells[known])
    other = torch.where(known[..., None, None, None], cells, torch.rand_like(cells))
    assert torch.equal(model.complete(other, known, n_steps=2), grid)  # what is not known is not looked at
    changed = torch.where(known[..., None, None, None], 1 - cells, cells)
    assert (model.complete(changed, known, n_steps=2) - grid)[~known].abs().max() > 1e-4


def test_a_linear_guess_is_the_posterior_of_a_gaussian():
    """By sampling: among frames around a guess, those whose noisy version is near x have its mean and deviation."""
    g, sigma, spread = 0.2, torch.tensor(0.6), 0.5
    frames = g + spread * torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    noisy = 0.4 * frames + 0.6 * torch.randn(400_000, generator=torch.Generator().manual_seed(1))
    near = frames[(noisy - 0.7).abs() < 0.02]
    mean, deviation = linear_guess(torch.tensor(0.7), sigma, torch.tensor(g), spread)
    assert abs(mean - near.mean()) < 0.02 and abs(deviation - near.std()) < 0.02
    ends = [linear_guess(torch.tensor(0.7), torch.tensor(s), torch.tensor(g), spread) for s in (0.0, 1.0)]
    assert_close(torch.stack([torch.stack(end) for end in ends]), torch.tensor([[0.7, 0.0], [g, spread]]))


def test_a_model_around_a_guess_starts_there():
    config = replace(CONFIG, spread=0.4)
    cells, model = assemble(*videos()) * 2 - 1, FourRealVideo(config)
    *_, grid = model.sample_grid(cells, n_steps=1)
    copies = (cells[:, :1] + cells[:, :, :1]) / 2  # nothing trained: the mean of the nearest in row and column
    assert_close(grid[:, 1:, 1:], copies.expand_as(cells)[:, 1:, 1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a, b: (a[:1], b), ("fixed_view", 1)),
        (lambda a, b: (a, torch.cat([b, b])), ("freeze_time", 6)),
        (lambda a, b: (a, b[..., :4]), ("freeze_time", "8x4", "8x8")),
        (lambda a, b: (a[:, :2], b), ("fixed_view", (4, 2, 8, 8))),
        (lambda a, b: (a * torch.nan, b), ("fixed_view", "NaN")),
        (lambda a, b: (a, b * 2), ("freeze_time",)),
        (lambda a, b: (a, 1 - b), ("fixed_view", "freeze_time")),
    ],
)
def test_bad_videos_are_named(model, change, said):
    refused(lambda: model.generate(*change(*videos())), *said)


def test_bad_masks_and_cells_are_named(model):
    cells, eye = torch.rand(3, 3, 3, *model.image_size), torch.eye(3).bool()
    for known, said in ((eye & False, 0), (eye | True, 9), (eye[:2], (2, 3)), (eye.float(), "torch.float32")):
        refused(lambda known=known: model.complete(cells, known), "known", said)
    refused(lambda: model.complete(torch.rand(9, 3, 3, *model.image_size), torch.eye(9, 3).bool()), "cells", "9x3")
    refused(lambda: model.complete(cells + 1, eye), "cells")
