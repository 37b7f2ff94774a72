"""Training the upsampler: it resumes exactly, learns, and is measured against bicubic interpolation."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from resuming import killed_and_resumed
from torch.testing import assert_close

from figures.upsampler import Upsampling, compare, enlarge, measure, sharpness
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.upsampler import UPSAMPLERS
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.rectified_flow import add_noise
from fourd_minimal.systems.four_real_video import FourRealVideo
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


def test_a_blurred_edge_is_less_sharp_and_a_mirrored_one_as_sharp():
    edge = (torch.arange(8) >= 4).float().expand(1, 1, 1, 3, 8, 8)
    everywhere = torch.ones(1, 1, 1, 1, 8, 8, dtype=torch.bool)
    assert sharpness(edge, everywhere) == pytest.approx(1 / 7)
    assert sharpness(edge.mT, everywhere) == pytest.approx(1 / 7)
    assert sharpness(edge * 0.5, everywhere) == pytest.approx(0.25 / 7)


def test_the_truth_measures_as_the_truth():
    record = sample_scenes(2, 3, 3, 16, HELD_OUT)
    cells = torch.ones(3, 3, dtype=torch.bool)
    truth = measure("truth", record.rgb, record, cells)
    assert truth.sharpness == 1 and truth.all_pixels == float("inf")
    dark = measure("half", record.rgb * 0.5, record, cells)
    assert dark.sharpness == pytest.approx(0.25)
    assert dark.all_pixels == pytest.approx(-10 * (record.rgb * 0.5).square().mean().log10().item(), abs=1e-3)


def test_enlarging_in_batches_is_enlarging_each():
    torch.manual_seed(0)
    model, small = Upsampler(SMOKE.model), torch.rand(3, 2, 2, 3, 16, 16)
    assert_close(enlarge(model, small, 1, 0.0, batch=2), bicubic(small, 2).clamp(0, 1), atol=1e-5, rtol=0)


def test_the_comparison_has_a_line_for_each_and_untrained_is_bicubic():
    torch.manual_seed(0)
    record = sample_scenes(2, 3, 3, 32, HELD_OUT)
    tables = compare(Upsampler(SMOKE.model), FourRealVideo(PRESETS["smoke"].model), record, steps=(1,), tau=0.0)
    assert set(tables) == {"true small frames", "generated in 1 step"}
    for rows, _ in tables.values():
        truth, plain, ours = rows
        assert truth.sharpness == 1 and ours.all_pixels == pytest.approx(plain.all_pixels, abs=1e-3)
    assert tables["generated in 1 step"][0][1].all_pixels < tables["true small frames"][0][1].all_pixels


def test_the_command_writes_its_tables(tmp_path, capsys):
    torch.manual_seed(0)
    Upsampler(SMOKE.model).save_pretrained(tmp_path)
    model = FourRealVideo(PRESETS["smoke"].model)
    for part in ("base", "sync"):
        model.save_pretrained(tmp_path, part)
    folder = str(tmp_path)
    Upsampling(folder, folder, "smoke", 2, ("simple",), out=tmp_path / "out").run()
    assert "| bicubic |" in capsys.readouterr().out
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"upsampler.md", "upsampler.json", "upsampler.png"}
