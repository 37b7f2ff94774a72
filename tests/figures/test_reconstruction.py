"""Reconstructions: what is bent is bent as the tracks say, estimated depth is wrong only over edges, arms differ."""

import pytest
import torch
from torch.testing import assert_close

from figures import reconstruction
from figures.reconstruction import bent, cases, estimated, even_views, measure
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.data.tracks import true_depth, true_tracks
from fourd_minimal.systems.four_real_video import FourRealVideo


@pytest.fixture(scope="module")
def model():
    return FourRealVideo.from_pretrained("toy")


@pytest.fixture(scope="module")
def record(model):
    return sample_scenes(2, 2 * model.views - 1, model.times, 24, HELD_OUT)


def test_estimated_depth_is_wrong_only_over_edges(record):
    depth = true_depth(record)
    found = estimated(depth)
    inside = -torch.nn.functional.max_pool2d(-(depth > 0).float()[:, None], 5, 1, 2)[:, 0] > 0
    assert (found - depth)[inside].abs().max() < 0.3
    fringe = (found > 0) & (depth == 0)
    assert fringe.any() and (found[fringe] > depth[depth > 0].min()).all()


def test_a_bent_view_shows_what_its_tracks_say(record):
    given = even_views(record)
    case, depth = bent(given, 0), true_depth(given)
    assert_close(case.grid[2], given.rgb[0, 2], atol=1e-4, rtol=0)  # the central view stays
    assert (case.grid[0] - given.rgb[0, 0]).abs().mean() > 5e-3
    # what the central view shows at a pixel, the bent one shows where the track lands
    y, x = (depth[2] > 0).nonzero().T
    xy = torch.stack([x, y], -1) + 0.5
    there, seen = case.tracker(case.grid[:, 0], 2, xy)
    straight, _ = true_tracks(given)(given.rgb[0, :, 0], 2, xy)
    assert_close(there[2], xy, atol=1e-3, rtol=0)
    assert (there[0] - straight[0]).norm(dim=-1).mean() > 0.3

    def colours(at):
        return torch.nn.functional.grid_sample(case.grid[:1, 0], (2 * at / 24 - 1)[None, None], align_corners=False)

    expected = case.grid[2, 0][:, y, x]
    follows, stays = ((colours(at[0])[0, :, 0] - expected).abs().mean(0)[seen[0]].mean() for at in (there, straight))
    assert follows < 0.8 * stays


def test_every_kind_of_grid_has_its_tracks(model, record):
    found = cases(model, even_views(record), n_steps=1)
    assert list(found) == ["true", "true, views bent", "generated", "generated, flow", "generated twice"]
    assert all(len(c) == 2 and c[0].grid.shape == record.rgb[0, ::2].shape for c in found.values())
    assert torch.equal(found["true"][1].grid, record.rgb[1, ::2])
    once, twice = found["generated"][0].grid, found["generated twice"][0].grid
    assert_close(once[:, 0], record.rgb[0, ::2, 0], atol=1e-6, rtol=0)  # its freeze-time video was given
    assert (twice[1, 0] - once[1, 0]).abs().max() > 0.01
    assert_close(twice[0], once[0], atol=1e-6, rtol=0)


def test_moving_errors_are_those_of_the_hidden_views(record, monkeypatch):
    """A scene that shows the truth has no error: the odd views are compared at the right times."""
    truth = {}

    class Oracle:
        def render(self, c2w, fov_deg, time, size, view=None):
            odd = record.c2w[:, 1::2]
            which = next(i for i in range(2) if torch.allclose(odd[i], c2w[:, 0]))
            truth["seen"] = record.rgb[which, 1::2]
            assert_close(time[0], torch.linspace(0, 1, record.rgb.shape[2]))
            return type("Picture", (), {"rgb": truth["seen"]})

    monkeypatch.setattr(reconstruction, "reconstruct", lambda *_: Oracle())
    lines = list(measure(FourRealVideo.from_pretrained("toy"), record))
    assert all(line.all_pixels == float("inf") and sum(line.errors) == 0 for line in lines)
