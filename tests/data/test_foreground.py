"""A video of an object, cut out: by masks, by a library, by alpha, by white; and what each cannot read."""

import sys
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from refused import refused
from torch.testing import assert_close

from fourd_minimal.data.foreground import read_object
from fourd_minimal.data.video import write_video


def disc(frames=4, h=40, w=60, radius=8, at=(16, 20)):
    """A red disc that moves right by 3 pixels a frame; its alpha."""
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    alpha = torch.stack([((y - at[0]) ** 2 + (x - at[1] - 3 * t) ** 2 < radius**2).float() for t in range(frames)])
    return alpha[:, None]


def colours(alpha, background=(1.0, 1.0, 1.0)):
    red = torch.tensor([0.8, 0.1, 0.1])[:, None, None].expand(len(alpha), 3, *alpha.shape[-2:])
    return torch.lerp(torch.tensor(background)[:, None, None].expand_as(red), red, alpha)


def check(found, size=32, frames=4):
    assert found.shape == (frames, 3, size, size) and found.min() >= 0 and found.max() <= 1
    on = (found[:, 1] < 0.5).any(0)
    sides = [int(a.nonzero().max() - a.nonzero().min()) + 1 for a in (on.any(0), on.any(1))]
    assert abs(max(sides) / size - 0.75) < 0.1  # the disc and its way fill three quarters
    columns = on.any(0).nonzero()[:, 0].float()
    assert abs(columns.mean() + 0.5 - size / 2) < 1.5
    assert_close(found[:, :, 0], torch.ones(frames, 3, size), atol=1e-3, rtol=0)


def test_a_white_background(tmp_path):
    write_video(colours(disc()), tmp_path / "a")
    check(read_object(tmp_path / "a", 32))


def test_alpha(tmp_path):
    alpha = disc()
    write_video(colours(torch.ones_like(alpha)), tmp_path / "a", alpha=alpha)  # red all over, but for its alpha
    check(read_object(tmp_path / "a", 32))


def test_a_folder_of_masks(tmp_path):
    alpha = disc()
    write_video(colours(alpha, (0.2, 0.3, 0.9)), tmp_path / "a")
    write_video(alpha.expand(-1, 3, -1, -1), tmp_path / "m")
    check(read_object(tmp_path / "a", 32, masks=tmp_path / "m"))
    check(read_object(tmp_path / "a", 32, frames=[0, 1, 2, 3], masks=tmp_path / "m"))
    write_video(alpha[:3].expand(-1, 3, -1, -1), tmp_path / "n")
    write_video(alpha.expand(-1, 3, -1, -1)[..., :30], tmp_path / "small")
    refused(lambda: read_object(tmp_path / "a", 32, masks=tmp_path / "small"), "small", (4, 40, 30), (4, 40, 60))
    refused(lambda: read_object(tmp_path / "a", 32, masks=tmp_path / "m", matte="rembg"), "masks", "matte")
    refused(lambda: read_object(tmp_path / "a", 32, fill=0), "fill", 0)
    refused(lambda: read_object(tmp_path / "a", 32, masks=tmp_path / "n"), "masks", "n", (3, 40, 60), (4, 40, 60))


def test_a_library(tmp_path, monkeypatch):
    """A stand-in for rembg: its networks cannot be fetched by a test."""
    alpha = disc()
    write_video(colours(alpha, (0.2, 0.3, 0.9)), tmp_path / "a")

    def remove(picture, session, only_mask):
        assert session == "session" and only_mask
        return Image.fromarray(np.where(np.asarray(picture)[..., 0] > 128, 255, 0).astype(np.uint8))

    monkeypatch.setitem(sys.modules, "rembg", SimpleNamespace(new_session=lambda: "session", remove=remove))
    check(read_object(tmp_path / "a", 32, matte="rembg"))
    monkeypatch.setitem(sys.modules, "rembg", None)
    refused(lambda: read_object(tmp_path / "a", 32, matte="rembg"), "matte", "rembg")


def test_an_object_at_the_edge_is_not_cut_off(tmp_path):
    write_video(colours(disc(at=(6, 10), radius=5)), tmp_path / "a")
    found = read_object(tmp_path / "a", 32, frames=1)
    assert (found[0, 1] < 0.5).float().mean() > 0.7 * 0.785 * 0.75**2


def test_no_foreground_no_background_and_an_empty_frame_are_named(tmp_path):
    write_video(torch.ones(2, 3, 16, 16), tmp_path / "white")
    refused(lambda: read_object(tmp_path / "white", 16), "white", "frame", 0)
    write_video(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), tmp_path / "busy")
    refused(lambda: read_object(tmp_path / "busy", 16), "busy", "alpha", "white")
    alpha = disc()
    alpha[2] = 0
    write_video(colours(alpha), tmp_path / "gap", alpha=alpha)
    refused(lambda: read_object(tmp_path / "gap", 16), "gap", "frame", 2)
