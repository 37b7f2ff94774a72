"""fourd distil: from a video to pictures of a scene, with the smallest model."""

import re
from dataclasses import replace

import pytest
import torch
from refused import refused, says

from fourd_minimal.cli import distil
from fourd_minimal.cli.distil import Distil
from fourd_minimal.cli.main import main
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.configs.scene_distillation import SCENES
from fourd_minimal.data.video import count_frames, read_video, write_video
from fourd_minimal.systems.scene_distillation import optimise_steps
from fourd_minimal.training.four_diffusion import orbits

SMOKE = FOUR_DM["smoke"]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "creature"
    write_video((orbits(SMOKE.model, 1, 3, 3)[1][0] + 1) / 2, path)
    return path


@pytest.mark.parametrize("options", [["--meshes", "glb"], ["--frame-by-frame"]])
def test_a_video_becomes_pictures_of_a_scene(options, video, weights, tmp_path, capsys):
    out = tmp_path / "out"
    main(f"distil --video {video} --preset smoke --weights {weights} --size 12 --out {out}".split() + options)
    said = capsys.readouterr().out
    assert re.search(says(3, 16), said) and "orbit.mp4" in said
    assert count_frames(out / "orbit.mp4") == count_frames(out / "freeze.mp4") == 48
    assert read_video(out / "freeze.mp4").rgb.shape[-2:] == (12, 12)
    assert len(list(out.glob("meshes/time_*.glb"))) == (3 if "--meshes" in options else 0)
    assert (out / "grid.html").exists() and len(list((out / "frames").iterdir())) == 8


def test_a_stopped_optimisation_goes_on(video, weights, tmp_path, monkeypatch):
    settings = replace(SCENES["smoke"], n_steps=6)
    given = dict(weights=str(weights), settings=settings, size=8)
    kept, scenes, numbers = tmp_path / "scene.safetensors", [], []
    monkeypatch.setattr(distil, "write_turns", lambda scene, *_: scenes.append(scene))
    Distil(video, out=tmp_path / "whole", **given).run()

    def until_interrupted(*args, **options):
        for step in optimise_steps(*args, checkpoint_every=3, **options):
            numbers.append(step.number)
            if numbers == [1, 2, 3, 4]:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(distil, "optimise_steps", until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        Distil(video, out=tmp_path / "stopped", checkpoint=kept, **given).run()
    assert kept.exists() and not (tmp_path / "stopped").exists()
    Distil(video, out=tmp_path / "stopped", checkpoint=kept, **given).run()
    assert numbers == [1, 2, 3, 4, 4, 5, 6]
    assert torch.equal(scenes[0].space.table, scenes[1].space.table)


def test_bad_input_is_one_sentence(weights, tmp_path):
    write_video(torch.ones(3, 3, 16, 16), tmp_path / "white")
    refused(lambda: Distil(tmp_path / "white", weights=str(weights), out=tmp_path / "out").run(), "white", "frame", 0)
    assert not (tmp_path / "out").exists()
    refused(lambda: Distil(tmp_path / "white", size=0).run(), "--size", 0)
    refused(lambda: Distil().run(), "--video")
