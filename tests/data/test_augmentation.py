"""Scenes made from scenes: what stays known is right, checked by rendering the changed scene itself."""

from dataclasses import fields, replace

import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.cameras import project, rays
from fourd_minimal.data.augmentation import augmented, mirrored, reversed_in_time, with_hue
from fourd_minimal.data.procedural import sample_scenes


@pytest.fixture(scope="module")
def record():
    return sample_scenes(2, views=3, times=4, size=24, seed=0)


def same(ours, theirs, but=(), atol=1e-6):
    for field in fields(ours):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name not in but and isinstance(a, torch.Tensor):
            assert_close(a, b, atol=atol, rtol=0, msg=lambda text, name=field.name: f"{name}: {text}")


def test_mirrored_twice_is_as_it_was(record):
    same(mirrored(mirrored(record)), record)


def test_a_mirrored_scene_is_a_scene(record):
    """Depth and cameras still fit: what one view sees lies where the other sees it, as often as it did before."""

    def agree(scene, n, t):
        origins, directions = rays(scene.c2w[n], scene.fov_deg, (24, 24))
        seen = (scene.depth[n, 1, t, 0] > 0) & scene.in_fixed_view[n, 1, t, 0]
        points = origins[1] + scene.depth[n, 1, t, 0][seen][:, None] * directions[1][seen]
        xy, depth = project(points, scene.c2w[n, 0], scene.fov_deg, (24, 24))
        x, y = xy.long().unbind(-1)
        return ((scene.depth[n, 0, t, 0][y, x] - depth).abs() < 0.2).float().mean()

    scene = mirrored(record)
    assert not torch.equal(scene.rgb, record.rgb)
    assert_close(torch.linalg.det(scene.c2w[..., :3, :3]), torch.ones(2, 3))
    for n, t in ((0, 0), (1, 3)):
        assert agree(scene, n, t) > 0.8 and abs(agree(scene, n, t) - agree(record, n, t)) < 0.02
        wrong = replace(scene, c2w=record.c2w)
        assert agree(wrong, n, t) < 0.7


def test_flow_of_a_mirrored_scene_leads_to_the_same_colours(record):
    scene = mirrored(record)
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    for r in (record, scene):
        xy = torch.stack([x, y], -1) + 0.5 + r.flow[0, 0, 0].permute(1, 2, 0)
        on = (r.visible[0, 0, 0, 0] & (r.depth[0, 0, 0, 0] > 0)).nonzero()
        to = xy[on[:, 0], on[:, 1]].long().clamp(0, 23)
        apart = (r.depth[0, 0, 1, 0][to[:, 1], to[:, 0]] > 0).float().mean()
        assert apart > 0.95


def test_played_backwards(record):
    scene = reversed_in_time(record)
    assert torch.equal(scene.rgb[:, :, 0], record.rgb[:, :, -1]) and torch.equal(
        scene.depth[:, :, 1], record.depth[:, :, 2]
    )
    assert torch.equal(scene.in_fixed_view, record.in_fixed_view.flip(2))
    assert scene.flow is scene.visible is None and torch.equal(scene.c2w, record.c2w)


def test_hue_turns_about_grey():
    """A third of the circle takes red to green to blue; grey stays."""
    colours = torch.tensor([(1.0, 0, 0), (0.5, 0.5, 0.5)]).repeat(4, 1).T[:, :, None].expand(2, 1, 1, 3, 8, 8)
    scene = sample_scenes(2, views=1, times=1, size=8, seed=0)
    scene = replace(scene, rgb=colours)
    for turn, red in ((1 / 3, (0.0, 1, 0)), (2 / 3, (0.0, 0, 1))):
        turned = with_hue(scene, turn).rgb[0, 0, 0, :, :2, 0]
        assert_close(turned.T, torch.tensor([red, (0.5, 0.5, 0.5)]), atol=1e-6, rtol=0)
    assert_close(with_hue(scene, 1.0).rgb, colours, atol=1e-6, rtol=0)


def test_chances_are_drawn(record):
    generator = lambda seed: torch.Generator().manual_seed(seed)  # noqa: E731
    same(augmented(record, generator(0), mirror=0, backwards=0, hue=0), record)
    same(augmented(record, generator(0), mirror=1, backwards=1, hue=0), reversed_in_time(mirrored(record)))
    same(augmented(record, generator(3)), augmented(record, generator(3)))
    kinds = {torch.equal(augmented(record, generator(seed), hue=0).c2w, record.c2w) for seed in range(8)}
    assert kinds == {True, False}
