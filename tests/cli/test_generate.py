"""fourd generate: from files to files, and one sentence for whatever is wrong."""

import re
import subprocess
import sys

import pytest
import torch
from gltf_files import write_gltf

from fourd_minimal.cli.main import main
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.data import gltf
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.data.video import read_video, write_video
from fourd_minimal.systems.four_real_video import FourRealVideo


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny model, saved as `fourd train` would."""
    folder = tmp_path_factory.mktemp("weights")
    FourRealVideo(PRESETS["smoke"].model).save_pretrained(folder)
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
        assert said.startswith(f"fourd: --text: {nothing!r}")
    for flag, by in (("--text-weights", ["--text", "box"]), ("--upsampler-weights", ["--upsample"])):
        assert "No weights at" in refused(capsys, "generate", *out, *by, flag, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--fixed-view", "row.mp4"], "--freeze-time"),
        (["--fixed-view", "row.mp4", "--freeze-time", "text.mp4"], "text.mp4"),
        (["--fixed-view", "row.mp4", "--freeze-time", "still"], "freeze_time has 1"),
        (["--fixed-view", "row.mp4", "--freeze-time", "other"], "first frames"),
        (["--fixed-view", "row.mp4", "--freeze-time", "column", "--asset", "text.mp4"], "--asset and --fixed-view"),
        (["--asset", "text.mp4", "--upsample"], "--asset goes without --upsample"),
        (["--clip", "Walk"], "--clip goes with --asset"),
        (["--asset", "text.mp4"], "text.mp4"),
        (["--steps", "0"], "--steps is 0"),
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
    assert "notes.txt" in said and said.count("\n") == 1
    assert (out / "frames" / "view_9" / "notes.txt").read_text() == "precious"
    assert (out / "grid.html").read_bytes() == before
    assert not list(videos.glob(".writing_*"))


@pytest.mark.parametrize("out", ["row.mp4", "row.mp4/inside"])
def test_a_file_in_the_way_is_seen_before_any_work(videos, capsys, monkeypatch, out):
    monkeypatch.chdir(videos)
    monkeypatch.setattr(FourRealVideo, "from_pretrained", lambda *_: pytest.fail("too late"))
    assert "row.mp4" in refused(capsys, "generate", "--out", out)


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
    assert "'mauve' of 'a mauve ball'" in refused(capsys, "generate", "--text", "a mauve ball")
