"""The command line: from files to files, and one sentence for whatever is wrong."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from gltf_files import write_gltf

from figures import plan as planner
from fourd_minimal.cli import train, train_text, train_upsampler
from fourd_minimal.cli.main import main
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.presets import device
from fourd_minimal.data import gltf
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.data.video import read_video, write_video
from fourd_minimal.systems.four_real_video import FourRealVideo, FourRealVideoConfig
from fourd_minimal.systems.upsampler import UpsamplerConfig
from fourd_minimal.systems.weights import load_weights
from fourd_minimal.training.devices import Scale


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny model, saved as `fourd train` would."""
    folder = tmp_path_factory.mktemp("weights")
    model = FourRealVideo(PRESETS["smoke"].model)
    for part in ("base", "sync"):
        model.save_pretrained(folder, part)
    return str(folder)


@pytest.fixture
def videos(tmp_path):
    rgb = sample_scenes(1, 3, 5, 32, HELD_OUT).rgb[0]
    write_video(rgb[0], tmp_path / "row.mp4", lossless=True)
    write_video(rgb[:, 0], tmp_path / "column")
    return tmp_path


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_status:
        main([str(a) for a in arguments])
    assert exit_status.value.code == 2
    return capsys.readouterr().err


def test_two_videos_become_a_grid(videos, weights, capsys):
    out = videos / "out"
    row, column = videos / "row.mp4", videos / "column"
    arguments = ["--fixed-view", row, "--freeze-time", column, "--out", out, "--weights", weights, "--steps", 1]
    main([str(a) for a in ("generate", *arguments)])
    said = capsys.readouterr().out
    assert "3 views x 3 times of 16x16" in said and str(out / "grid.html") in said
    assert (out / "grid.png").stat().st_size > 0 and "<html" in (out / "grid.html").read_text()
    frames = read_video(out / "frames" / "view_0").rgb
    torch.testing.assert_close(frames, read_video(row, 16, frames=3).rgb, atol=1 / 255, rtol=0)


def test_what_cannot_be_combined_is_said_before_any_work(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(FourRealVideo, "sample_grid", None)  # never reached
    out = ["--out", tmp_path / "out", "--weights", weights]
    said = refused(capsys, "generate", *out, "--upsample")
    assert "fourd: --upsample takes frames of 24x24 pixels; the weights" in said and "make 16x16" in said
    assert "fourd: --text makes videos of 24x24" in refused(capsys, "generate", *out, "--text", "box")
    out = ["--out", tmp_path / "out"]
    for nothing in ("", "on the ground"):
        said = refused(capsys, "generate", *out, "--text", nothing)
        assert f"fourd: --text: {nothing!r} has none of the words it learned" in said
    for flag, by in (("--text-weights", ["--text", "box"]), ("--upsampler-weights", ["--upsample"])):
        assert "No weights at" in refused(capsys, "generate", *out, *by, flag, tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_bundled_example_fits_the_shipped_weights(tmp_path, capsys):
    main(["generate", "--out", str(tmp_path), "--steps", "1"])
    assert (tmp_path / "grid.html").exists()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--fixed-view", "row.mp4"], "--freeze-time is missing"),
        (["--freeze-time", "column"], "--fixed-view is missing"),
        (["--fixed-view", "row.mp4", "--freeze-time", "none.mp4"], "fourd: --freeze-time is none.mp4"),
        (["--fixed-view", "row.mp4", "--freeze-time", "text.mp4"], "text.mp4"),
        (["--fixed-view", "row.mp4", "--freeze-time", "still"], "freeze_time has 1 frames"),
        (["--fixed-view", "row.mp4", "--freeze-time", "other"], "first frames of fixed_view and freeze_time differ"),
        (["--fixed-view", "row.mp4", "--freeze-time", "column", "--asset", "text.mp4"], "were both given"),
        (["--fixed-view", "row.mp4", "--text", "a ball"], "--fixed-view and --text were both given"),
        (["--asset", "text.mp4", "--upsample"], "--asset goes without --upsample"),
        (["--clip", "Walk"], "--clip was given without --asset"),
        (["--asset", "text.mp4"], "text.mp4"),
        (["--steps", "0"], "--steps is 0"),
        (["--weights", "nowhere"], "--weights is nowhere"),
        (["--weights", "still"], "No weights at still"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(videos, weights, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(videos)
    (videos / "text.mp4").write_text("no video")
    column = read_video(videos / "column").rgb
    write_video(column[:1], videos / "still")
    write_video(1 - column, videos / "other")
    said = refused(capsys, "generate", "--out", "out", "--weights", weights, *arguments)
    assert sentence in said and said.count("\n") == 1
    assert not (videos / "out").exists()


def test_results_replace_results_and_nothing_else(videos, capsys):
    out = videos / "out"
    (out / "frames" / "view_9").mkdir(parents=True)
    (out / "frames" / "view_9" / "0001.png").write_text("of an earlier, larger grid")
    main(["generate", "--out", str(out), "--steps", "1"])
    assert not (out / "frames" / "view_9").exists()
    (out / "frames" / "view_9").mkdir()
    (out / "frames" / "view_9" / "notes.txt").write_text("precious")
    before = (out / "grid.html").read_bytes()
    said = refused(capsys, "generate", "--out", out, "--steps", 1, "--seed", 1)
    assert "notes.txt; a new folder" in said and said.count("\n") == 1
    assert (out / "frames" / "view_9" / "notes.txt").read_text() == "precious"
    assert (out / "grid.html").read_bytes() == before
    assert not list(videos.glob(".writing_*"))


@pytest.mark.parametrize("out", ["row.mp4", "row.mp4/inside"])
def test_a_file_in_the_way_is_seen_before_any_work(videos, capsys, monkeypatch, out):
    monkeypatch.chdir(videos)
    monkeypatch.setattr(FourRealVideo, "from_pretrained", lambda *_: pytest.fail("too late"))
    assert "row.mp4 is a file; a folder is wanted" in refused(capsys, "generate", "--out", out)


def test_first_frames_that_differ_a_little_are_said_in_one_line(videos, weights):
    column = read_video(videos / "column").rgb
    write_video((column + 0.06).clamp(0, 1), videos / "brighter")
    row, out = videos / "row.mp4", videos / "out"
    flags = ["--fixed-view", row, "--freeze-time", videos / "brighter", "--out", out, "--weights", weights]
    command = [sys.executable, "-c", "from fourd_minimal.cli.main import main; main()", "generate", *flags]
    said = subprocess.run([*map(str, command), "--steps", "1"], check=True, capture_output=True, text=True).stderr
    assert said.startswith("fourd: The first frames") and said.count("\n") == 1


def test_an_asset_becomes_a_grid(weights, tmp_path, capsys):
    """A clip by its motion, name or number, of a file whose name holds a hash; and which others there are."""
    asset, out = write_gltf(tmp_path / "a#b.glb"), tmp_path / "out"
    flags = ["generate", "--asset", str(asset), "--weights", weights, "--steps", "1", "--out", str(out)]
    said = []
    for clip in ([], ["--clip", "clip_1"], ["--clip", "1"]):
        main([*flags, *clip])
        said.append(re.sub(r"in [\d.]+ s", "", capsys.readouterr().out))
        assert all(f"{i} {name!r}" in said[-1] for i, name in enumerate(("rest", "clip_1", "spline")))
        assert "3 views x 3 times of 16x16" in said[-1] and "sum of differences" in said[-1]
    chosen = gltf.choose_clip(gltf.read_asset(asset), None)
    assert f"clip {chosen} " in said[0] and said[1] == said[2] and "clip 1 'clip_1'" in said[1]
    assert (out / "grid.html").exists() and read_video(out / "frames/view_0").rgb.shape == (3, 3, 16, 16)
    assert "'run'" in refused(capsys, *flags, "--clip", "run")


def test_windows_take_all_frames(tmp_path, capsys):
    rgb = sample_scenes(1, 5, 7, 24, HELD_OUT, geometry=False).rgb[0]
    write_video(rgb[0], tmp_path / "row")
    write_video(rgb[:, 0], tmp_path / "column")
    flags = ["--fixed-view", tmp_path / "row", "--freeze-time", tmp_path / "column", "--steps", 1, "--windows"]
    main([str(a) for a in ("generate", *flags, "--out", tmp_path / "out", "--upsample")])
    assert "5 views x 7 times of 48x48" in capsys.readouterr().out


def test_a_caption_becomes_a_grid(tmp_path, capsys):
    main(["generate", "--text", "a red ball bouncing", "--out", str(tmp_path / "out"), "--steps", "1"])
    assert "4 views x 4 times of 24x24" in capsys.readouterr().out
    assert "'mauve' of 'a mauve ball' is not among" in refused(capsys, "generate", "--text", "a mauve ball")


def test_the_other_models_are_trained_by_the_same_command(tmp_path, capsys):
    for command, name in (("train-upsampler", "upsampler"), ("train-text", "text_to_video")):
        main([command, "--preset", "smoke", "--out", str(tmp_path), "--settings.steps", "2"])
        assert (tmp_path / f"{name}.safetensors").exists()
    *_, notes = load_weights(tmp_path / "upsampler.safetensors", UpsamplerConfig)
    assert notes["made_by"] == "fourd train-upsampler --preset smoke" and notes["settings"] == {"steps": 2}


def test_training_then_generating(tmp_path, capsys):
    main(["train", "--preset", "smoke", "--out", str(tmp_path / "run"), "--settings.base-steps", "3"])
    model = FourRealVideo.from_pretrained(tmp_path / "run")
    assert model.config == PRESETS["smoke"].model
    *_, notes = load_weights(tmp_path / "run" / "base.safetensors", FourRealVideoConfig)
    assert notes["made_by"] == "fourd train --preset smoke --stage base"
    assert notes["settings"] == {"base_steps": 3}
    main(["generate", "--weights", str(tmp_path / "run"), "--out", str(tmp_path / "grid"), "--steps", "1"])
    assert (tmp_path / "grid" / "grid.html").exists()


def test_joint_training_goes_on_from_an_earlier_run(tmp_path, weights, capsys):
    settings = ["--preset", "smoke", "--stage", "joint"]
    for start, out in ((weights, tmp_path / "more"), (str(tmp_path / "more"), tmp_path / "most")):
        main(["train", *settings, "--start-from", start, "--out", str(out)])
    *_, notes = load_weights(tmp_path / "most" / "soft_joint.safetensors", FourRealVideoConfig)
    assert notes["made_by"].endswith(f"--start-from {tmp_path / 'more'}")
    assert notes["after"]["made_by"].endswith(f"--start-from {weights}")
    assert "--start-from goes with" in refused(capsys, "train", *settings, "--start-from", weights, "--out", weights)


def test_evaluate_writes_its_tables(tmp_path, weights, capsys):
    out = tmp_path / "figures"
    main(["evaluate", "--weights", weights, "--scenes", "2", "--families", "hard", "--out", str(out)])
    said = capsys.readouterr().out
    assert "sum of differences" in said and "95% interval" in said
    assert {f.name for f in out.iterdir()} == {
        "four_real_video.md",
        "four_real_video.json",
        "four_real_video_hard.png",
    }


def test_evaluate_takes_clips_of_assets(tmp_path, weights, capsys):
    write_gltf(tmp_path / "a#b.glb")
    assets = [f"{tmp_path}/a#b.glb", f"{tmp_path}/a#b.glb#clip_1"]
    main(["evaluate", "--weights", weights, "--families", "hard", "--scenes", "2", "--assets", *assets])
    said = capsys.readouterr().out
    assert "### Asset a#b\n" in said and "### Asset a#b clip_1\n" in said
    missing = f"{tmp_path}/none.glb#clip_1"
    assert "none.glb" in refused(capsys, "evaluate", "--weights", weights, "--assets", missing)


def test_ablate_writes_its_table_and_goes_on(tmp_path, weights, capsys):
    flags = [
        "ablate",
        "--preset",
        "smoke",
        "--weights",
        weights,
        "--out",
        str(tmp_path),
        "--seeds",
        "1",
        "--steps",
        "2",
    ]
    flags += ["--rate-steps", "1", "--rates", "1e-3", "--scenes", "2", "--arms", "average, eq. 12", "soft"]
    main(flags)
    first = capsys.readouterr().out
    assert set(json.loads((tmp_path / "ablation.json").read_text())) >= {"soft", "truth", "copy row"}
    assert "soft__0" in first and "| soft |" in (tmp_path / "ablation.md").read_text()
    main(flags)
    assert "soft__0" not in capsys.readouterr().out  # done already
    assert "--arms has 'warm'" in refused(capsys, *flags[:-1], "warm")
    assert "has another model" in refused(capsys, "ablate", "--preset", "cpu", "--weights", weights)


@pytest.mark.parametrize(("preset", "said"), [("full", 1), ("smoke", 0)])
def test_a_full_configuration_says_what_it_takes_before_it_starts(preset, said, monkeypatch, tmp_path):
    plans = []
    monkeypatch.setattr(planner, "announce", lambda system, stage, *rest: plans.append((system, stage, rest[0])))

    def stop(*_, **__):
        raise ValueError("enough seen")

    trainers = (train, "train"), (train_upsampler, "train_upsampler"), (train_text, "train_text_to_video")
    for module, name in trainers:
        monkeypatch.setattr(module, name, stop)
    commands = train.Train(preset, "base"), train_upsampler.TrainUpsampler(preset), train_text.TrainText(preset)
    for command in commands:
        with pytest.raises(ValueError, match="enough seen"):
            replace(command, out=tmp_path).run()
    systems = (("four_real_video", "base"), ("upsampler", None), ("text_to_video", None))
    assert plans == [(*system, c.settings) for system, c in zip(systems, commands, strict=True)] * said


def test_the_plan_of_a_run_is_of_its_own_settings_and_stops_nothing(capsys):
    smoke, sixteen = PRESETS["smoke"], replace(PRESETS["smoke"], base_batch=32, sync_batch=16, parts=16)
    planner.announce("four_real_video", "sync", sixteen, "full", 16, Scale(precision="bf16"), "A100-80GB")
    assert "on 16 x A100-80GB" in capsys.readouterr().out
    planner.announce("four_real_video", "sync", smoke, "full", 16, Scale(), "A100-80GB")
    assert "No plan of this run: parts is 1; expected a multiple of the 16 devices." in capsys.readouterr().out
    planner.announce("four_diffusion", "base", FOUR_DM["full"], "full", 1, Scale(), "T4")
    assert "No plan of this run: stage 'base'" in capsys.readouterr().out


def test_each_process_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert device() == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device() == torch.device("cuda", 3)
