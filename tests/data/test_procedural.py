import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cameras import pixel_grid
from fourd_minimal.data import procedural
from fourd_minimal.data.procedural import FAMILIES, FOV_DEG, RADIUS, sample_scenes

every_family = pytest.mark.parametrize("family", FAMILIES)


def sample_at(pictures, xy):
    """Pictures `(n, c, h, w)` read at pixel positions `(n, h, w, 2)`, between pixels by bilinear interpolation."""
    size = torch.tensor(pictures.shape[:-3:-1])
    return F.grid_sample(pictures, 2 * xy / size - 1, align_corners=False, padding_mode="border")


@every_family
def test_the_record(family):
    n, v, t, size = 3, 2, 4, 12
    record = sample_scenes(n, v, t, size, seed=5, family=family)
    assert record.rgb.shape == (n, v, t, 3, size, size)
    assert record.alpha.shape == record.depth.shape == record.visible.shape == (n, v, t, 1, size, size)
    assert record.flow.shape == (n, v, t, 2, size, size)
    assert record.fov_deg == FOV_DEG and record.visible.dtype == torch.bool
    for picture in (record.rgb, record.alpha):
        assert picture.min() >= 0 and picture.max() <= 1
    assert ((record.depth == 0) | ((record.depth - RADIUS).abs() < 2)).all()
    assert (record.alpha[record.depth > 0] > 0).all() and (record.depth[record.alpha == 1] > 0).float().mean() > 0.95
    assert record.alpha.mean((3, 4, 5)).min() > 0.02, "an object in every frame"
    assert record.rgb.std((0, 1, 2, 4, 5)).min() > 0.02
    position = record.c2w[..., :3, 3]
    assert_close(position.norm(dim=-1), torch.full((n, v), RADIUS))
    assert_close(record.c2w[..., :3, 2], position / RADIUS)
    assert record.visible[:, :, -1].all()
    assert_close(record.flow[:, :, -1], torch.zeros(n, v, 2, size, size), atol=1e-3, rtol=0)


@every_family
def test_a_seed_is_a_scene(family):
    def scenes(seed):
        return sample_scenes(2, 3, 2, 8, seed, family)

    state = torch.get_rng_state()
    one, same, other = scenes(1), scenes(1), scenes(2)
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("rgb", "alpha", "depth", "c2w", "flow", "visible"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert not torch.equal(one.rgb, other.rgb) and not torch.equal(one.c2w, other.c2w)
    assert not torch.equal(one.rgb[0], one.rgb[1])


@every_family
def test_finer_grids_show_the_same_scene(family):
    coarse, fine = (sample_scenes(2, k, k, 8, seed=7, family=family, geometry=False) for k in (3, 5))
    assert_close(fine.c2w[:, ::2], coarse.c2w)
    for name in ("rgb", "alpha"):  # a ray that just grazes an edge may round to the other side of it
        difference = (getattr(fine, name)[:, ::2, ::2] - getattr(coarse, name)).abs()
        assert (difference > 1e-4).float().mean() < 1e-3


@every_family
def test_the_next_frame_pulled_back_by_the_flow_is_this_one(family):
    """Compared by hue alone: a surface that turns keeps its colour and changes its light."""
    size = 48
    record = sample_scenes(6, 1, 6, size, seed=13, family=family)
    hues = (record.rgb / record.rgb.sum(3, keepdim=True))[:, 0]
    now, later = hues[:, :-1].flatten(0, 1), hues[:, 1:].flatten(0, 1)
    flow, visible = record.flow[:, 0, :-1].flatten(0, 1), record.visible[:, 0, :-1, 0].flatten(0, 1)
    pulled = sample_at(later, pixel_grid((size, size))[:, :, 0] + flow.permute(0, 2, 3, 1))
    error, error_at_rest = ((picture - now).abs().amax(1) for picture in (pulled, later))
    moving = visible & (flow.norm(dim=1) > 1)
    assert visible.float().mean() > 0.9 and moving.float().mean() > 0.05
    assert (error[visible] < 0.05).float().mean() > 0.95
    assert error[moving].median() < 1e-3 and error[moving].mean() < error_at_rest[moving].mean() / 3


def test_captions_say_what_is_seen():
    """The motion that is named is the one that is there; colours are tested where they are measured."""
    record = sample_scenes(64, 1, 8, 24, 7, "plain", geometry=False)
    mask = record.alpha[:, 0, :, 0] > 0.5
    rows = torch.arange(24.0)
    middle = (mask.float().sum(3) * rows).sum(2) / mask.float().sum((2, 3)).clamp(min=1)
    travel = (middle.amax(1) - middle.amin(1)).tolist()
    verbs = [" ".join(c.split()[3:]) for c in record.captions]
    mean = {v: sum(t for t, w in zip(travel, verbs, strict=True) if w == v) / verbs.count(v) for v in set(verbs)}
    assert set(mean) == {"bouncing", "squashing", "bouncing and squashing"}
    assert mean["bouncing"] > 3 * mean["squashing"]
    assert {c.split()[2] for c in record.captions} == {"ball", "box"}


def test_a_longer_clip_and_a_given_arc():
    short, long = (sample_scenes(2, 3, n, 16, 3, duration=d) for n, d in ((4, 1.0), (10, 3.0)))
    assert_close(long.rgb[:, :, :4], short.rgb)
    assert not torch.allclose(long.rgb[:, :, -1], short.rgb[:, :, -1], atol=0.05)
    orbit = sample_scenes(2, 5, 2, 16, 3, sweep_deg=360)
    assert_close(orbit.c2w[:, 0], orbit.c2w[:, -1], atol=1e-5, rtol=0)
    assert_close(orbit.c2w[:, 0], short.c2w[:, 0])


def test_bad_input_is_named():
    given = dict(n=1, views=1, times=1, size=4, seed=0)
    for name, value in dict(n=0, views=0, times=0, size=0, antialias=0, family="desert", corrupted="dull").items():
        refused(partial(sample_scenes, **given | {name: value}), name, value)
    refused(lambda: sample_scenes(1, 4, 1, 4, 5, azimuths_deg=torch.zeros(1, 3)), "azimuths_deg", (1, 3))


def test_cameras_may_stand_where_one_likes():
    """The same scene: a camera's picture does not depend on the others, and azimuths are counted from one direction."""
    angles = torch.tensor([[0.0, 90.0, 180.0], [10.0, 20.0, 300.0]])
    record = sample_scenes(2, 3, 2, 12, 5, "creature", elevation_deg=10.0, azimuths_deg=angles)
    one = sample_scenes(2, 1, 2, 12, 5, "creature", elevation_deg=10.0, azimuths_deg=angles[:, 2:])
    assert_close(record.rgb[:, 2:], one.rgb, atol=1e-4, rtol=0)
    place = record.c2w[..., :3, 3]
    assert_close(place[..., 1], torch.full((2, 3), RADIUS * math.sin(math.radians(10))))
    azimuth = torch.rad2deg(torch.atan2(place[..., 0], place[..., 2]))
    assert_close((azimuth - azimuth[:, :1]) % 360, (angles - angles[:, :1]) % 360, atol=1e-3, rtol=0)


def test_corrupted_clips_are_corrupted_as_said():
    def clip(how):
        return sample_scenes(3, 2, 6, 24, 5, "creature", corrupted=how)

    good, still, gone, turning, speck = map(clip, (None, *procedural.CORRUPTED))
    assert_close(still.rgb, good.rgb[:, :, :1].expand_as(still.rgb))
    assert good.alpha[:, :, -1].sum() > 100 and gone.alpha[:, :, -1].sum() < 5
    assert_close(gone.rgb[:, :, 0], good.rgb[:, :, 0])
    assert_close(turning.rgb[:, :, 0], good.rgb[:, :, 0])
    assert speck.alpha.mean() < 0.05 * good.alpha.mean()
