"""The system: known cells are held, the streams are wired as eq. 4 says, and bad input gets one sentence."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
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


def test_what_is_unknown_is_not_looked_at(model):
    clean = assemble(*videos()) * 2 - 1
    corrupted = torch.where(known_cells(3, 4)[..., None, None, None], clean, torch.full_like(clean, 9.0))
    noise = torch.randn(clean.shape)
    assert_close(*(model.denoise_grid(noise, torch.tensor([0.7]), c) for c in (clean, corrupted)))


def test_sampling_shifts_noise_levels_as_training_does(model, monkeypatch):
    levels, clean = [], assemble(*videos()) * 2 - 1
    inner = model.denoise_grid
    monkeypatch.setattr(
        model, "denoise_grid", lambda x, sigma, *more, **known: levels.append(sigma[0].item()) or inner(x, sigma, *more)
    )
    *_, _ = model.sample_grid(clean, 4)
    assert_close(torch.tensor(levels), shift_sigma(torch.tensor([1.0, 0.75, 0.5, 0.25]), CONFIG.shift))
    assert levels[1] == pytest.approx(0.9)  # by hand: 3 * 0.75 / (1 + 2 * 0.75)


def test_same_seed_same_grid(model):
    a, b, c = (model.generate(*videos(), n_steps=2, seed=s) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


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


def test_a_design_without_layers_of_its_own_is_its_base_trained_or_not(model, tmp_path):
    model.save_pretrained(tmp_path, "base", dtype=torch.float32)
    fused = FourRealVideo.from_pretrained(tmp_path, sync="fused")
    assert_close(dict(fused.base.state_dict()), dict(model.base.state_dict()), rtol=0, atol=0)
    moved = wake(FourRealVideo(replace(CONFIG, sync="fused")))
    moved.save_pretrained(tmp_path, "joint", dtype=torch.float32)
    for frozen, expected in ((False, moved), (True, model)):
        loaded = FourRealVideo.from_pretrained(tmp_path, sync="fused", base_frozen=frozen)
        assert_close(dict(loaded.base.state_dict()), dict(expected.base.state_dict()), rtol=0, atol=0)


def test_a_sync_of_another_configuration_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path, "base")
    other = FourRealVideo(replace(CONFIG, dit=replace(CONFIG.dit, dim=48)))
    other.save_pretrained(tmp_path, "sync")
    with pytest.raises(ValueError, match="was trained for"):
        FourRealVideo.from_pretrained(tmp_path)


def test_shipped_weights_load_and_know_their_making():
    model = FourRealVideo.from_pretrained("toy")
    assert model.views >= 4 and model.times >= 4 and min(model.image_size) >= 16


def _with(video, index, value):
    video = video.clone()
    video[index] = value
    return video


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda a, b: (a[:1], b), "fixed_view has 1 frames; at least 2"),
        (lambda a, b: (a, b[:1]), "freeze_time has 1 frames; at least 2"),
        (lambda a, b: (torch.cat([a, a]), b), "fixed_view has 8 frames"),
        (lambda a, b: (a, torch.cat([b, b])), "freeze_time has 6 frames"),
        (lambda a, b: (a, b[..., :4]), "freeze_time has 8x4 pixels; this model wants 8x8"),
        (lambda a, b: (a[:, :2], b), r"fixed_view has shape \(4, 2, 8, 8\)"),
        (lambda a, b: (_with(a, (1, 0, 0, 0), float("nan")), b), "fixed_view holds NaN"),
        (lambda a, b: (a, _with(b, (1, 0, 0, 0), 1.5)), "freeze_time reaches from"),
        (lambda a, b: (a, _with(b, 0, 1 - b[0])), "first frames of fixed_view and freeze_time differ by"),
    ],
)
def test_bad_input_gets_one_sentence(model, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.generate(*change(*videos()))


def test_slightly_different_first_frames_warn_with_the_difference(model):
    fixed_view, freeze_time = videos()
    freeze_time[0] = (freeze_time[0] + 0.05).clamp(0, 1)
    with pytest.warns(UserWarning, match=r"differ by 0\.0\d\d on average"):
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


def test_the_first_row_and_column_are_known_when_nothing_is_said(model):
    cells = assemble(*videos())
    assert_close(model.complete(cells[0], known_cells(*cells.shape[1:3]), 2), model.generate(*videos(), n_steps=2))


@pytest.mark.parametrize(
    ("known", "named"),
    [
        (torch.zeros(3, 3, dtype=torch.bool), "0 of 9"),
        (torch.ones(3, 3, dtype=torch.bool), "9 of 9"),
        (torch.ones(2, 3, dtype=torch.bool), r"\(2, 3\)"),
        (torch.ones(3, 3), "float32"),
    ],
)
def test_masks_that_cannot_be(model, known, named):
    with pytest.raises(ValueError, match=f"known .*{named}"):
        model.complete(torch.rand(3, 3, 3, *model.image_size), known)


def test_more_cells_than_the_weights_know(model):
    with pytest.raises(ValueError, match=r"cells .*9x3"):
        model.complete(torch.rand(9, 3, 3, *model.image_size), torch.eye(9, 3).bool())
    bad = torch.rand(3, 3, 3, *model.image_size)
    bad[0, 0] = 2
    with pytest.raises(ValueError, match="cells"):
        model.complete(bad, torch.eye(3).bool())


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
