"""The upsampler beside bicubic interpolation: sharpness and error are measured on what is known."""

import pytest
import torch

from figures.upsampler import Upsampling, compare, measure, sharpness
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.upsampler import UPSAMPLERS
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.upsampler import Upsampler

SMOKE = UPSAMPLERS["smoke"]


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
    FourRealVideo(PRESETS["smoke"].model).save_pretrained(tmp_path)
    Upsampling(str(tmp_path), str(tmp_path), "smoke", 2, ("simple",), out=tmp_path / "out").run()
    assert "| bicubic |" in capsys.readouterr().out
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"upsampler.md", "upsampler.json", "upsampler.png"}
