import math
import os
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pytest
import torch
from PIL import Image
from refused import refused

from fourd_minimal.data import video
from fourd_minimal.data.video import read_video, write_video


@pytest.fixture
def clip():
    """A disc gliding over a gradient: (rgb, alpha), 7 frames of 33 x 47, in whole 8-bit steps."""
    y, x = torch.meshgrid(torch.arange(33.0), torch.arange(47.0), indexing="ij")
    disc = torch.stack([((y - 16) ** 2 + (x - 12 - 3 * t) ** 2 < 60).float() for t in range(7)])[:, None]
    ground = torch.stack([y / 33, x / 47, torch.full_like(x, 0.5)])
    rgb = disc * torch.tensor([0.9, 0.4, 0.1])[:, None, None] + (1 - disc) * ground
    return (rgb * 255).round() / 255, disc


def error(a, b):
    return (a - b).abs().mean()


@pytest.mark.parametrize(("name", "tolerance"), [("clip.mp4", 0.02), ("clip.webm", 0.02), ("clip.gif", 0.025)])
def test_what_is_written_is_read(clip, tmp_path, name, tolerance):
    rgb, _ = clip
    write_video(rgb, tmp_path / name)
    back = read_video(tmp_path / name)
    assert back.alpha is None
    assert error(back.rgb[..., :33, :47], rgb) < tolerance
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("name", "lossless"), [("clip.mp4", True), ("clip", False), ("clip", True)])
def test_exact(tmp_path, name, lossless):
    rgb = torch.randint(0, 256, (12, 3, 33, 47), generator=torch.Generator().manual_seed(0)) / 255
    write_video(rgb, tmp_path / name, lossless=lossless)
    assert torch.equal(read_video(tmp_path / name).rgb, rgb)


def test_alpha_is_exact_in_png_and_close_in_webm(clip, tmp_path):
    rgb, alpha = clip
    write_video(rgb, tmp_path / "clip", alpha=alpha)
    write_video(rgb, tmp_path / "clip.webm", alpha=alpha)
    exact, close = read_video(tmp_path / "clip"), read_video(tmp_path / "clip.webm")
    assert torch.equal(exact.rgb, rgb) and torch.equal(exact.alpha, alpha)
    assert error(close.alpha, alpha) < 0.005 and error(close.rgb, rgb) < 0.015


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
def test_colours_stay(tmp_path, name):
    colours = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [0.8, 0.4, 0.2]])
    write_video(colours[:, :, None, None].expand(-1, -1, 16, 16), tmp_path / name)
    assert (read_video(tmp_path / name).rgb.mean((2, 3)) - colours).abs().max() < 3 / 255


@pytest.mark.parametrize("name", ["still.mp4", "still.webm", "still.gif"])
def test_a_still_clip_keeps_its_frames_and_its_pace(tmp_path, name):
    write_video(torch.full((5, 3, 8, 8), 0.5), tmp_path / name, fps=10)
    with av.open(str(tmp_path / name)) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("frames", "chosen"),
    [(None, range(7)), (1, [0]), (3, [0, 3, 6]), (slice(1, None, 2), [1, 3, 5]), ([4, 0, -1, 4], [4, 0, 6, 4])],
)
def test_frames(clip, tmp_path, frames, chosen):
    rgb, _ = clip
    write_video(rgb, tmp_path / "clip.mp4", lossless=True)
    assert torch.equal(read_video(tmp_path / "clip.mp4", frames=frames).rgb, rgb[list(chosen)])


def test_png_are_counted_as_a_person_counts(tmp_path):
    for i in range(12):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    assert (read_video(tmp_path).rgb[:, 0, 0, 0] * 255).round().tolist() == list(range(12))


def test_png_of_every_kind(tmp_path):
    """Grey, palette, 16-bit and colour with alpha, of one flat grey."""
    Image.new("L", (4, 4), 128).save(tmp_path / "0.png")
    Image.new("RGB", (4, 4), (128,) * 3).quantize(4).save(tmp_path / "1.png")
    Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)).save(tmp_path / "2.png")
    Image.new("RGBA", (4, 4), (128, 128, 128, 64)).save(tmp_path / "3.png")
    rgb, alpha = read_video(tmp_path)
    torch.testing.assert_close(rgb, torch.full_like(rgb, 128 / 255), atol=1.01 / 255, rtol=0)
    torch.testing.assert_close(alpha.mean((1, 2, 3)), torch.tensor([1, 1, 1, 64 / 255]))


def test_transparent_pixels_lend_no_colour(tmp_path):
    alpha = (torch.arange(32) < 16).float().expand(1, 1, 32, 32)
    green_behind_nothing = torch.cat([alpha, 1 - alpha, torch.zeros_like(alpha)], dim=1)
    write_video(green_behind_nothing, tmp_path / "edge", alpha=alpha)
    rgb, alpha = read_video(tmp_path / "edge", size=5)
    assert rgb[:, 1].max() == 0 and rgb[:, 0][alpha[:, 0] > 0].min() > 0.999
    assert ((alpha > 0) & (alpha < 1)).any()


def test_a_phone_held_upright(clip, tmp_path):
    rgb, _ = clip
    write_video(rgb, tmp_path / "phone.mp4", lossless=True)
    data = (tmp_path / "phone.mp4").read_bytes()
    turn = lambda *matrix: b"".join((x << 16).to_bytes(4, "big", signed=True) for x in matrix)  # noqa: E731
    header, track = data.split(b"tkhd", 1)
    track = track.replace(turn(1, 0, 0, 0, 1), turn(0, 1, 0, -1, 0), 1)  # shown a quarter turn clockwise
    (tmp_path / "phone.mp4").write_bytes(header + b"tkhd" + track)
    assert torch.equal(read_video(tmp_path / "phone.mp4").rgb, rgb.rot90(-1, (2, 3)))


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0), (0.02, 1, -1, 0.02)])
def test_a_display_matrix_turns_and_mirrors(clip, tmp_path, matrix):
    """x' = a x + c y, y' = b x + d y, to the nearest right angle; checked place by place against that formula."""
    rgb = clip[0][:1, :, :32, :46]
    with av.open(tmp_path / "clip.mp4", "w") as container:
        stream = container.add_stream("libx264rgb", rate=8, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 46, 32, "rgb24"
        a, b, c, d = (round(value * 65536) for value in matrix)
        stream.set_display_matrix(np.array([a, b, 0, c, d, 0, 0, 0, 2**30], np.int32).tolist())
        image = (rgb[0].permute(1, 2, 0) * 255).round().byte().contiguous().numpy()
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    found = read_video(tmp_path / "clip.mp4").rgb[0]
    a, b, c, d = (round(value) for value in matrix)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(46), indexing="ij")
    to_x, to_y = a * x + c * y, b * x + d * y
    assert torch.equal(found[:, to_y - to_y.min(), to_x - to_x.min()], rgb[0])


def test_pixels_that_are_not_square_are_stretched(clip, tmp_path):
    with av.open(tmp_path / "clip.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 46, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        container.mux(stream.encode(av.VideoFrame(46, 32, "yuv420p")))
        container.mux(stream.encode())
    assert read_video(tmp_path / "clip.mp4").rgb.shape[2:] == (32, 92)


def test_frames_are_spread_over_time_and_not_over_their_number(clip, tmp_path):
    """Seven frames, the last of them a long time after the others: of three, the middle one is near half time."""
    rgb, _ = clip
    write_video(rgb, tmp_path / "even.mp4", lossless=True)
    with av.open(tmp_path / "even.mp4") as even, av.open(tmp_path / "late.mp4", "w") as late:
        stream = late.add_stream_from_template(even.streams.video[0])
        for packet in even.demux(video=0):
            if packet.dts is not None:
                step = packet.duration
                packet.pts, packet.dts = (t if t < 6 * step else 12 * step for t in (packet.pts, packet.dts))
                packet.stream = stream
                late.mux(packet)
    assert torch.equal(read_video(tmp_path / "late.mp4", frames=5).rgb[:, :, :33, :47], rgb[[0, 3, 5, 6, 6]])


def test_pictures_of_any_format_are_frames(clip, tmp_path):
    for i, suffix in enumerate((".png", ".jpg", ".webp", ".bmp")):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / f"{i}{suffix}")
    (tmp_path / "notes.txt").write_text("no picture")
    assert (read_video(tmp_path).rgb[:, 0].mean((1, 2)) * 255).round().tolist() == pytest.approx(
        [0, 40, 80, 120], abs=2
    )


def test_a_name_is_never_an_address(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(clip[0], "http:clip.mp4")
    assert len(read_video("http:clip.mp4").rgb) == 7


def test_a_pipe_and_a_cut_file_are_named(clip, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: read_video(tmp_path / "pipe"), "path", "pipe")
    write_video(clip[0], tmp_path / "clip.webm")
    (tmp_path / "short.mp4").write_bytes((tmp_path / "clip.webm").read_bytes()[:200])
    refused(lambda: read_video(tmp_path / "short.mp4"), "path", "short.mp4")


def test_what_stood_there_is_replaced(clip, tmp_path):
    rgb, _ = clip
    for name in ("clip", "clip.mp4"):
        write_video(rgb, tmp_path / name)
        write_video(rgb[:2], tmp_path / name)
        assert len(read_video(tmp_path / name).rgb) == 2
    (tmp_path / "clip" / "thesis.tex").touch()
    refused(lambda: write_video(rgb, tmp_path / "clip"), "path", "clip")


def test_a_percent_sign_in_a_folders_name_is_no_frame_number(clip, tmp_path):
    (tmp_path / "50% done").mkdir()
    write_video(clip[0], tmp_path / "50% done/view 0")
    assert torch.equal(read_video(tmp_path / "50% done/view 0").rgb, clip[0])


def test_a_failed_write_leaves_nothing(clip, tmp_path, monkeypatch):
    rgb, _ = clip
    write_video(rgb[:2], tmp_path / "clip.mp4")
    before = (tmp_path / "clip.mp4").read_bytes()
    monkeypatch.setitem(video.FORMATS, (".mp4", False, False), ("libx264", "no pixels", {}, {}))
    with pytest.raises(ValueError):
        write_video(rgb, tmp_path / "clip.mp4")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


CLIP = torch.full((2, 3, 8, 8), 0.5)


def test_what_cannot_be_written(tmp_path):
    for arguments, *said in (
        (dict(rgb=CLIP[0]), "rgb", (3, 8, 8)),
        (dict(rgb=CLIP.byte()), "rgb", "torch.uint8"),
        (dict(rgb=CLIP * math.nan), "rgb", "nan"),
        (dict(rgb=CLIP * 3), "rgb", 1.5),
        (dict(alpha=CLIP[:1, :1]), "alpha", (1, 1, 8, 8)),
        (dict(alpha=CLIP[:, :1], path="clip.mp4"), "path", "clip.mp4", "alpha"),
        (dict(path="clip.avi"), "path", "clip.avi"),
        (dict(path="clip.gif", lossless=True), "path", "clip.gif", "lossless=True"),
        (dict(fps=0), "fps", 0),
    ):
        given = dict(rgb=CLIP, path="clip.webm") | arguments
        refused(partial(write_video, **given | dict(path=tmp_path / "new" / given["path"])), *said)
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_chosen(clip, tmp_path):
    write_video(clip[0], tmp_path / "clip.mp4")
    for frames in (8, 0, [0, 7], slice(7, None)):
        refused(partial(read_video, tmp_path / "clip.mp4", frames=frames), "frames", "clip.mp4", frames)
    refused(lambda: read_video(tmp_path / "clip.mp4", size=(0, 8)), "size", (0, 8))


def test_what_is_no_video_is_named(clip, tmp_path):
    refused(lambda: read_video(tmp_path / "gone.mp4"), "path", "gone.mp4", error=FileNotFoundError)
    for name in ("letter.txt", "letter.mp4", "letter.png"):
        (tmp_path / name).write_text("Dear reader, " * 99)
        refused(partial(read_video, tmp_path / name), "path", name)
    for name in ("clip.mp4", "clip.webm"):
        write_video(clip[0], tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 3])
        refused(partial(read_video, tmp_path / name), "path", name)
    (tmp_path / "folder").mkdir()
    refused(lambda: read_video(tmp_path / "folder"), "path", "folder")
    for i in (4, 6):
        Image.new("RGB", (4, i)).save(tmp_path / f"folder/{i}.png")
    refused(lambda: read_video(tmp_path / "folder", size=4), "path", "4x4", "4x6")
