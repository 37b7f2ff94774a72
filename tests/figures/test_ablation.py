"""The ablation: equal terms, resumable, and tables that say what the numbers say."""

import json
import math
from dataclasses import replace

import pytest
import torch
from refused import refused
from torch import nn

from figures.ablation import (
    BEST_TRIVIAL,
    CLAIMS,
    Ablate,
    judge,
    paired_gain,
    pooled_psnr,
    pooled_ssim,
    share_of_flat_data,
    together,
)
from figures.ablation_runs import ARMS, Ablation, Arm, preset_of, score
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.training.evaluation import (
    copy_row,
    flicker,
    hidden_from_fixed_view,
    interval,
    moving_pixels,
    predict,
    psnr,
    reprojection_error,
)
from fourd_minimal.training.four_real_video import grid_batch, train

SMOKE = PRESETS["smoke"]
FEW = {name: ARMS[name] for name in ("average, eq. 12", "hard", "soft, 3D only, everything unfrozen")}


def an_ablation(folder, **options):
    """Over a base whose every layer speaks, or no gradient would reach what is trained."""
    torch.manual_seed(0)
    base = FourRealVideo(replace(SMOKE.model, sync="weighted"))
    for p in base.base.parameters():
        nn.init.normal_(p, std=0.1)
    small = dict(seeds=(0, 1), steps=3, rates=(1e-3, 1e-1), rate_steps=2, families=("simple",), scenes=2)
    return Ablation(SMOKE, base, folder, **(small | options))


def without_seconds(ablation):
    """The seconds are the only thing that a second run does not repeat."""
    return {k: [{**run, "seconds": 0} for run in runs] for k, runs in ablation.results(FEW).items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    ablation = an_ablation(tmp_path_factory.mktemp("ablation"))
    return ablation, [*ablation.run(FEW)]


def test_it_goes_on_where_it_stopped(finished, tmp_path):
    ablation, whole = finished
    assert len(whole) == 4 + 1 + 2 * (1 + 2)  # truth and copies; one untrained; two trained: a rate, two seeds
    cut = an_ablation(tmp_path).run(FEW)
    begun = [next(cut) for _ in range(7)]
    cut.close()
    rest = [*an_ablation(tmp_path).run(FEW)]
    assert begun + rest == whole
    assert without_seconds(an_ablation(tmp_path)) == without_seconds(ablation)
    assert [*an_ablation(tmp_path).run(FEW)] == []
    assert not any((tmp_path / "running").iterdir())


def test_results_are_those_of_the_run_they_name(finished):
    """Arms differ, seeds differ, steps differ; and a run made by hand gives the numbers of the file."""
    ablation, _ = finished
    results = ablation.results(FEW)
    moving = lambda run, n: run["scores"][f"simple, {n}"]["moving"][0]  # noqa: E731
    trained = [run for name in FEW for run in results[name]]
    assert len({tuple(moving(run, 1)) for run in trained}) == len(trained) == 1 + 2 * 2
    assert all(moving(run, 1) != moving(run, 8) for run in trained)
    for name, part in (("hard", "sync"), ("soft, 3D only, everything unfrozen", "joint")):
        rate = json.loads((ablation.folder / f"{name.replace(' ', '_').replace(',', '_')}__rate.json").read_text())
        assert rate["rate"] == float(min(rate["losses"], key=rate["losses"].get)) == results[name][1]["rate"]
        *_, last = train(part, preset_of(ARMS[name], SMOKE, 3, rate["rate"], 1), base=ablation.base)
        grids = predict(last.averaged(), ablation.records["simple"].rgb, 1)
        by_hand = score(grids, ablation.records["simple"])["moving"][0]
        assert moving(results[name][1], 1) == pytest.approx(by_hand, rel=1e-4)
        parameters = sum(p.numel() for p in last.averaged().part(part).parameters())
        assert results[name][1]["parameters"] == parameters
    untrained = FourRealVideo(replace(SMOKE.model, sync="average"))
    untrained.base.load_state_dict(ablation.base.base.state_dict())
    by_hand = score(predict(untrained, ablation.records["simple"].rgb, 8), ablation.records["simple"])["moving"][0]
    assert moving(results["average, eq. 12"][0], 8) == pytest.approx(by_hand, rel=1e-4)
    assert moving(results["truth"][0], 1) == [0, 0]


def test_results_of_other_settings_are_not_mixed(tmp_path):
    next(an_ablation(tmp_path).run(FEW))
    next(an_ablation(tmp_path, seeds=(0, 1, 2)).run(FEW))  # more seeds are welcome, and so are more arms
    next(an_ablation(tmp_path).run(FEW | {"soft, 3D only": ARMS["soft, 3D only"]}))
    other = an_ablation(tmp_path, steps=4)
    nn.init.zeros_(other.base.base.patch_in.weight)
    refused(lambda: next(other.run(FEW)), tmp_path.name, "steps, base")
    refused(lambda: next(an_ablation(tmp_path).run({"hard": Arm("hard", 0.0)})), "hard")


def test_all_arms_see_the_same_data():
    """Same seed, same steps: the same scenes and noise in every arm; pseudo-4D or true, the noise is the same."""
    presets = {name: preset_of(arm, SMOKE, 20, 1e-3, 1) for name, arm in ARMS.items() if arm.pseudo is not None}
    for number in (0, 16, 17, 19):
        (reference,) = grid_batch(presets["soft"], "sync", number)
        for name, preset in presets.items():
            (batch,) = grid_batch(preset, "sync", number)
            assert torch.equal(batch.sigma, reference.sigma)
            if "only" not in name:
                assert torch.equal(batch.noisy, reference.noisy)
    assert presets["hard"].sync_pseudo_steps == 17
    assert [p.sync_pseudo_steps for name, p in presets.items() if "only" in name] == [20, 0, 0]


def test_scores_are_those_of_evaluation():
    record = sample_scenes(3, 3, 3, 16, HELD_OUT)
    guess = copy_row(record.rgb)
    result = score(guess, record)
    regions = {"all": None, "moving": moving_pixels(record.alpha), "hidden": hidden_from_fixed_view(record)}
    values = {name: pooled_psnr(result[name]) for name in regions}
    for name, pixels in regions.items():
        assert values[name] == pytest.approx(psnr(guess, record.rgb, pixels), abs=1e-3)
    assert len({round(v, 2) for v in values.values()}) == 3
    assert result["flicker"] == flicker(guess, record) and result["reprojection"] == reprojection_error(guess, record)
    assert pooled_ssim(score(record.rgb, record)["moving"]) == pytest.approx(1, abs=1e-5)
    assert pooled_ssim(result["moving"]) < 0.95
    assert math.isnan(pooled_psnr([[0.0], [0.0], [0.0]])) and math.isnan(pooled_ssim([[0.0], [0.0], [0.0]]))


def test_interval_is_students():
    middle, half = interval([1.0, 2.0, 4.0])
    assert middle == pytest.approx(7 / 3)
    assert half == pytest.approx(4.303 * math.sqrt(7 / 3) / math.sqrt(3), rel=1e-3)
    assert interval([3.0]) == (3.0, 0.0)


def runs_with(*errors, flicker=0.1, reprojection=0.2, parameters=5, flops=3_000_000_000):
    entries = [
        {"all": [e, [1] * len(e), [0] * len(e)], "flicker": flicker, "reprojection": reprojection} for e in errors
    ]
    for entry, e in zip(entries, errors, strict=True):
        entry["moving"] = [[10 * x for x in e], [1] * len(e), [0.1] * len(e)]
        entry["hidden"] = [[100 * x for x in e], [1] * len(e), [0.2] * len(e)]
    cost = dict(parameters=parameters, flops=flops, rate=2e-3, device="cpu")
    return [{"scores": {"simple, 1": entry}} | cost for entry in entries]


def test_paired_gain_of_a_constant_factor_is_exact():
    a, b = runs_with([1.0, 2.0, 5.0]), runs_with([10.0, 20.0, 50.0])
    assert paired_gain(a, b, "simple, 1", "moving") == pytest.approx((10, 10, 10), abs=1e-4)
    assert paired_gain(b, a, "simple, 1", "moving") == pytest.approx((-10, -10, -10), abs=1e-4)


def test_a_95_percent_interval_covers_the_truth_95_times_of_100():
    """Three seeds each, noise of seeds and of scenes, no true gain; a bootstrap over three seeds covers 76 of 100."""
    generator, covered = torch.Generator().manual_seed(0), 0
    for _ in range(100):
        arms = []
        for _ in range(2):
            dB = 0.1 * torch.randn(3, 1, generator=generator) + 0.1 * torch.randn(3, 40, generator=generator)
            arms.append(runs_with(*(10 ** (dB / 10)).tolist()))
        _, low, high = paired_gain(*arms, "simple, 1", "moving")
        covered += low < 0 < high
    assert covered / 100 == pytest.approx(0.95, abs=0.05)


def test_every_claim_is_about_arms_that_are_there_and_is_judged_on_all_families():
    assert all(set(who[:2]) <= {*ARMS, BEST_TRIVIAL} for who in CLAIMS.values())

    def families(errors):
        cell = runs_with(errors)[0]["scores"]["simple, 1"]
        return [{"scores": {f"{f}, {n}": cell for f in ("simple", "hard") for n in (1, 8)}}]

    results = {"soft": families([1.0, 1.0]), "hard": families([2.0, 2.0]), "copy row": families([4.0, 4.0])}
    results |= {"copy column": families([3.0, 3.0]), "soft, pseudo-4D only": families([1.5, 1.5])}
    assert len(together(results, "8")["soft"][0]["scores"]["all"]["hidden"][0]) == 4
    judged = judge(results, ["1", "8"])
    assert len(judged) == 4 and judged["soft beats hard"]["8"] == pytest.approx((3.01, 3.01, 3.01), abs=0.01)
    results |= {"weighted, eq. 13": families([4.0, 4.0]), "soft, 3D only": families([1.0, 1.0])}
    assert share_of_flat_data(results, "8") == pytest.approx(math.log(4 / 1.5) / math.log(4))


def test_the_table_is_the_numbers_and_bad_options_are_named(tmp_path):
    results = dict(hard=runs_with([2e-4, 2e-4], [2e-4, 2e-4]), soft=runs_with([1e-4, 1e-4], [1e-4, 1e-4]))
    text = Ablate(preset="smoke", seeds=2, steps=3, scenes=2).report(results)[-1]
    (hard,) = (line for line in text.splitlines() if line.startswith("| hard |"))
    for value in ("36.99", "26.99", "16.99", "0.300", "0.1000", "0.2000", "3.00", "0.002", "-3.01"):
        assert value in hard  # PSNR of all, moving and hidden pixels; SSIM, flicker, reprojection; cost; gain over soft
    for name, value in dict(steps=0, rates=(math.nan,), seeds=11, arms=("harder",)).items():
        shown = value[0] if name == "arms" else value
        refused(Ablate(**{name: value}).run, f"--{name}", shown)
