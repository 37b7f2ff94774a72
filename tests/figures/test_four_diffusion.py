"""multiview-video, evaluate-4dm, ablate-curation: from start to end with the smallest model."""

import json
from pathlib import Path

import pytest
import torch
from gltf_files import write_gltf
from refused import refused
from torch.testing import assert_close

from figures.curation_ablation import CURATED, WHOLE, AblateCuration, collection, judged
from figures.four_diffusion import EvaluateFourDM, asset_orbit
from fourd_minimal.cli.multiview_video import MultiviewVideo
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.data.gltf import render_asset
from fourd_minimal.data.procedural import CORRUPTED, RADIUS
from fourd_minimal.data.video import write_video
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.weights import load_weights
from fourd_minimal.training.four_diffusion import orbits

SMOKE = FOUR_DM["smoke"]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    _, video, _ = orbits(SMOKE.model, 1, 10, 3)
    path = tmp_path_factory.mktemp("video") / "creature"
    write_video((video[0] + 1) / 2, path)
    return path


@pytest.mark.parametrize("frames", [None, 10])
def test_a_video_becomes_multiview_videos(frames, video, weights, tmp_path):
    MultiviewVideo(video, frames=frames, steps=2, weights=str(weights), out=tmp_path / "out").run()
    assert (tmp_path / "out/grid.html").exists() and (tmp_path / "out/grid.png").exists()
    views = list((tmp_path / "out/frames").iterdir())
    assert len(views) == 4 and len(list(views[0].iterdir())) == (frames or 8)


def test_the_evaluation_writes_tables_and_pictures(video, weights, tmp_path, capsys):
    EvaluateFourDM(str(weights), 2, (0, 1), 2, videos=(video,), out=tmp_path).run()
    assert "4DM" in capsys.readouterr().out
    assert {f.name for f in tmp_path.iterdir()} == {
        "four_diffusion.md", "four_diffusion.json", "four_diffusion_base.png", "four_diffusion_video.png",
        "four_diffusion_real.png",
    }  # fmt: skip
    assert len(json.loads((tmp_path / "four_diffusion.json").read_text())) == 2
    refused(EvaluateFourDM(scenes=1).run, "--scenes", 1)


def test_an_assets_views_are_none_of_them_the_video(tmp_path):
    """The video's camera stands at 60 degrees; of its views, evenly around, the first is an eighth of a turn away."""
    path = write_gltf(tmp_path / "slide.glb")
    truth, video, cameras = asset_orbit(SMOKE.model, f"{path}#clip_1")
    assert_close(cameras[0], FourDM(SMOKE.model).cameras([45.0, 135.0, 225.0, 315.0]), atol=1e-4, rtol=0)
    assert truth.shape == (1, 8, 4, 3, 16, 16) and video.shape == (1, 8, 3, 16, 16)
    assert not any(torch.equal(truth[:, :, v], video) for v in range(4))
    at = dict(time_range=(0.0, 7 / 8), azimuth_start_deg=60.0, azimuth_sweep_deg=135.0)
    both = render_asset(path, 2, 8, 16, "clip_1", **at, elevation_deg=20.0, radius=RADIUS).rgb[:, [0, 1]] * 2 - 1
    assert_close(video, both[:, 0], atol=1e-3, rtol=0)
    assert_close(truth[:, :, 1], both[:, 1], atol=1e-3, rtol=0)


def test_a_collection_is_mostly_bad_and_curation_finds_the_good():
    clips = collection(10)
    assert [how for _, how in clips] == [None, *CORRUPTED] * 2
    assert len({seed for seed, _ in clips}) == 10 and max(seed for seed, _ in clips) < 1_000_000
    assert [not why for why in judged(clips, SMOKE)] == [how is None for _, how in clips]


def test_curated_and_whole_are_trained_and_compared(weights, tmp_path, capsys):
    run = AblateCuration("smoke", str(weights), 5, 2, 1, (0, 1), 2, (0, 1), 2, tmp_path / "runs", tmp_path / "out")
    run.run()
    said = capsys.readouterr().out
    assert f"| {CURATED} |" in said and f"| {WHOLE} |" in said
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"curation_ablation.md", "curation_ablation.json"}
    trained = {
        f.parent.name: load_weights(f, type(SMOKE))[1].clips for f in (tmp_path / "runs").glob("*/*.safetensors")
    }
    assert {name: len(clips) for name, clips in trained.items()} == dict(curated_0=1, curated_1=1, whole_0=5, whole_1=5)
    before = (tmp_path / "out/curation_ablation.md").read_text()
    run.run()  # nothing is trained again
    assert (tmp_path / "out/curation_ablation.md").read_text() == before
    refused(lambda: AblateCuration("smoke", clips=4).run(), "--clips", 4)
    refused(lambda: AblateCuration("smoke", seeds=()).run(), "--seeds", ())
    refused(lambda: AblateCuration("large", out=Path("nowhere")).run(), "--preset", "large")
