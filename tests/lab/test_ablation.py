"""The ablation: equal terms, resumable, and tables that say what the numbers say."""

import math
from dataclasses import replace

import pytest
import torch

from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.lab.ablate import Ablate
from fourd_minimal.lab.ablation import (
    ARMS,
    Ablation,
    Arm,
    flops,
    interval,
    paired_gain,
    pooled_psnr,
    pooled_ssim,
    preset_of,
    score,
)
from fourd_minimal.lab.evaluation import copy_row, moving_pixels, psnr
from fourd_minimal.lab.training import grid_batch
from fourd_minimal.systems.four_real_video import FourRealVideo

SMOKE = PRESETS["smoke"]
FEW = {name: ARMS[name] for name in ("average, eq. 12", "hard", "soft", "soft, 3D only, everything unfrozen")}


def an_ablation(folder, **options):
    torch.manual_seed(0)
    base = FourRealVideo(replace(SMOKE.model, sync="weighted"))
    small = dict(seeds=(0, 1), steps=3, rates=(1e-3, 1e-2), rate_steps=2, families=("simple",), scenes=2)
    return Ablation(SMOKE, base, folder, **(small | options))


def test_it_goes_on_where_it_stopped(tmp_path):
    whole = [*an_ablation(tmp_path / "whole").run(FEW)]
    assert len(whole) == 4 + 1 + 3 * (1 + 2)  # truth and copies; one untrained; three trained: a rate, two seeds
    cut = an_ablation(tmp_path / "cut").run(FEW)
    begun = [next(cut) for _ in range(7)]
    cut.close()
    rest = [*an_ablation(tmp_path / "cut").run(FEW)]
    assert begun + rest == whole
    assert an_ablation(tmp_path / "cut").results() == an_ablation(tmp_path / "whole").results()
    assert [*an_ablation(tmp_path / "cut").run(FEW)] == []


def test_results_of_other_settings_are_not_mixed(tmp_path):
    next(an_ablation(tmp_path).run(FEW))
    next(an_ablation(tmp_path, seeds=(0, 1, 2)).run(FEW))  # more seeds are welcome
    with pytest.raises(ValueError, match=r"holds results of other settings \(steps, base differ\)"):
        other = an_ablation(tmp_path, steps=4)
        torch.nn.init.normal_(other.base.base.patch_in.weight)
        next(other.run(FEW))


def test_all_arms_see_the_same_data(tmp_path):
    """Same seed, same steps: the same grids and noise in every arm, pseudo-4D or not at the same step."""
    hard, soft = (preset_of(ARMS[name], SMOKE, 20, rate, 1) for name, rate in (("hard", 1e-3), ("soft", 1e-2)))
    for number in (0, 16, 17, 19):
        (a,), (b,) = (grid_batch(p, "sync", number) for p in (hard, soft))
        assert torch.equal(a.noisy, b.noisy) and torch.equal(a.clean, b.clean)
    assert hard.sync_pseudo_steps == 17 and (hard.sync_lr, soft.sync_lr) == (1e-3, 1e-2)
    only = {name: preset_of(ARMS[name], SMOKE, 20, 1e-3, 1).sync_pseudo_steps for name in ARMS if "only" in name}
    assert [*only.values()] == [20, 0, 0]


def test_every_trained_arm_has_what_the_comparison_claims():
    sizes = {}
    for name, arm in ARMS.items():
        model = FourRealVideo(replace(PRESETS["cpu"].model, sync=arm.design))
        sizes[name] = sum(p.numel() for p in model.part(arm.part).parameters())
        assert (sizes[name] == 0) == (arm.pseudo is None)
    assert sizes["hard, as large as soft"] == pytest.approx(sizes["soft"], rel=0.01)
    assert sizes["sequential, adapter trained"] == sizes["hard"]


def test_scores_are_those_of_evaluation():
    record = sample_scenes(3, 3, 3, 16, HELD_OUT)
    guess = copy_row(record.rgb)
    result = score(guess, record)
    assert pooled_psnr(result["all"]) == pytest.approx(psnr(guess, record.rgb), abs=1e-4)
    assert pooled_psnr(result["moving"]) == pytest.approx(
        psnr(guess, record.rgb, moving_pixels(record.alpha)), abs=1e-4
    )
    perfect = score(record.rgb, record)
    assert pooled_ssim(perfect["moving"]) == pytest.approx(1, abs=1e-5)
    assert pooled_ssim(result["moving"]) < 0.95


def test_interval_is_students():
    middle, half = interval([1.0, 2.0, 4.0])
    assert middle == pytest.approx(7 / 3)
    assert half == pytest.approx(4.303 * math.sqrt(7 / 3) / math.sqrt(3), rel=1e-3)
    assert interval([3.0]) == (3.0, 0.0)


def test_paired_gain_of_a_constant_factor_is_exact():
    a = [{"scores": {"simple, 1": {"moving": [[1.0, 2.0, 5.0], [1, 1, 1], [0, 0, 0]]}}}]
    b = [{"scores": {"simple, 1": {"moving": [[10.0, 20.0, 50.0], [1, 1, 1], [0, 0, 0]]}}}]
    assert paired_gain(a, b, "simple, 1", "moving") == pytest.approx((10, 10, 10), abs=1e-4)
    assert paired_gain(b, a, "simple, 1", "moving") == pytest.approx((-10, -10, -10), abs=1e-4)


def test_flops_of_the_streams():
    """Two streams cost about what one stream does that passes every block twice; more depth costs more."""
    cpu = PRESETS["cpu"].model
    soft, sequential = (flops(FourRealVideo(replace(cpu, sync=sync))) for sync in ("weighted", "sequential"))
    assert sequential == pytest.approx(soft, rel=0.05)
    shallow = replace(cpu, sync="weighted", dit=replace(cpu.dit, depth=3))
    assert flops(FourRealVideo(shallow)) == pytest.approx(soft / 2, rel=0.1)


def test_the_table_names_the_numbers(tmp_path):
    ablation = an_ablation(tmp_path)
    for _ in ablation.run(FEW):
        pass
    text = Ablate(preset="smoke", seeds=2, steps=3, scenes=2).report(ablation.results())
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines() if line.startswith("| ")}
    assert {"truth", "copy row", *FEW} <= set(rows)
    wanted = pooled_psnr(ablation.results()["average, eq. 12"][0]["scores"]["simple, 8"]["moving"])
    assert rows["average, eq. 12"][2] == f"{wanted:.2f}"
    assert " +- " in rows["soft"][2] and rows["soft"][-1].strip(" |") == ""


def test_an_arm_without_training_has_no_preset():
    with pytest.raises(AssertionError):
        preset_of(Arm("average"), SMOKE, 3, 1e-3, 0)
