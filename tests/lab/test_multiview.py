"""Training of 4DM: its batches, an interrupted run, what learns, and that it does."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.data.procedural import RADIUS
from fourd_minimal.lab.multiview import batch_loss, make_batch, orbits, train_four_dm
from fourd_minimal.systems.four_diffusion import FourDM

SMOKE = FOUR_DM["smoke"]


def last(steps):
    *_, step = steps
    return step


@pytest.mark.parametrize("part", ["base", "motion"])
def test_killed_and_resumed_equals_uninterrupted(part, tmp_path):
    preset = replace(SMOKE, base_steps=5, motion_steps=5)
    base = None if part == "base" else FourDM(preset.model, motion=False)
    whole = last(train_four_dm(part, preset, base=base)).averaged()
    killed = train_four_dm(part, preset, tmp_path, base, checkpoint_every=2)
    for step in killed:
        if step.number == 3:
            break
    killed.close()
    resumed = [*train_four_dm(part, preset, tmp_path, base, checkpoint_every=2)]
    assert [step.number for step in resumed] == [3, 4, 5]
    assert_close(resumed[-1].averaged().state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_of_other_clips_is_refused(tmp_path):
    base = FourDM(SMOKE.model, motion=False)
    last(train_four_dm("motion", SMOKE, tmp_path, base))
    with pytest.raises(ValueError, match=r"another preset \(clips differ\)"):
        next(train_four_dm("motion", replace(SMOKE, clips=((1, None),)), tmp_path, base))


def test_motion_leaves_the_base_alone():
    base = FourDM(SMOKE.model, motion=False)
    done = last(train_four_dm("motion", SMOKE, base=base)).averaged()
    for name, value in base.state_dict().items():
        assert torch.equal(done.state_dict()[name], value)
    assert any(m.proj_out.weight.abs().max() > 0 for m in done.motion)


def test_motion_needs_a_base_and_colours():
    with pytest.raises(ValueError, match="base is None"):
        next(train_four_dm("motion", SMOKE))
    with pytest.raises(ValueError, match="4 latent channels; 3 colours are wanted"):
        next(train_four_dm("base", FOUR_DM["full"]))


def test_orbits_are_seen_from_evenly_around():
    """The cameras found again from the poses: all at one height and distance, 90 degrees apart, film anywhere."""
    clean, film, cameras = orbits(SMOKE.model, 3, 2, 5)
    size = SMOKE.model.image_size
    assert clean.shape == (3, 2, 4, 3, size, size) and film.shape == (3, 2, 3, size, size)
    assert clean.min() >= -1 and clean.max() == film.max() == 1 and clean.min() < -0.3  # white is 1
    film_at = circular_trajectory(torch.tensor(0.0), SMOKE.model.elevation_deg, RADIUS)
    place = (film_at @ cameras)[..., :3, 3]
    assert_close(place[..., 1], film_at[1, 3].expand(3, 4), atol=1e-4, rtol=0)
    azimuth = torch.rad2deg(torch.atan2(place[..., 0], place[..., 2]))
    assert_close(azimuth.diff(dim=1) % 360, torch.full((3, 3), 90.0), atol=1e-2, rtol=0)
    assert len(azimuth[:, 0].round().unique()) == 3


def test_the_film_is_what_a_view_at_the_films_place_shows(monkeypatch):
    """A generator that draws no angle: the first view stands where the film's camera stands."""
    monkeypatch.setattr("fourd_minimal.lab.multiview.torch.rand", lambda *shape, generator: torch.zeros(shape))
    clean, film, cameras = orbits(SMOKE.model, 2, 2, 5)
    assert_close(clean[:, :, 0], film)
    assert_close(cameras[:, 0], torch.eye(4).expand(2, 4, 4), atol=1e-5, rtol=0)
    assert not torch.equal(clean[:, :, 1], film)


def test_another_base_is_refused():
    base = FourDM(replace(SMOKE.model, elevation_deg=5.0), motion=False)
    with pytest.raises(ValueError, match="base has another configuration"):
        next(train_four_dm("motion", SMOKE, base=base))


def test_a_scene_can_be_filmed_from_elsewhere():
    places = [orbits(SMOKE.model, 1, 1, 5, generator=torch.Generator().manual_seed(i))[1] for i in range(3)]
    assert not torch.equal(places[0], places[1])
    assert torch.equal(places[2], orbits(SMOKE.model, 1, 1, 5, generator=torch.Generator().manual_seed(2))[1])


def test_batches_of_a_collection_hold_its_clips():
    still = replace(SMOKE, motion_batch=3, clips=((1, "static"), (2, "static")))
    clean = make_batch("motion", still, 0).clean
    assert_close(clean, clean[:, :1].expand_as(clean))
    assert not torch.equal(make_batch("motion", replace(SMOKE, clips=((1, None),)), 0).clean[:, 0], clean[:1, 0])


def test_batches_are_a_function_of_seed_part_and_number():
    one, again = make_batch("base", SMOKE, 3), make_batch("base", SMOKE, 3)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    for other in (make_batch("base", SMOKE, 4), make_batch("base", replace(SMOKE, seed=1), 3)):
        assert not torch.equal(one.eps, other.eps) and not torch.equal(one.clean, other.clean)


def test_levels_and_withheld_references_are_drawn_as_said():
    preset = replace(SMOKE, base_batch=400, share_nothing_shown=0.25)
    batch = make_batch("base", preset, 0)
    assert 0.15 < (batch.t >= 950).float().mean() < 0.25  # 15% and a twentieth of the rest
    assert 0.68 < batch.shown.float().mean() < 0.82
    assert abs(batch.eps.mean()) < 0.01 and abs(batch.eps.std() - 1) < 0.01


@pytest.mark.parametrize("predicts", ["x0", "eps"])
def test_the_loss_is_the_error_of_what_is_predicted_from_noisy_views(predicts, monkeypatch):
    """A model that is off by 0.5 in every clean pixel; it is given the noisy views and everything else of the batch."""
    model = FourDM(replace(SMOKE.model, predicts=predicts))
    batch = make_batch("base", replace(SMOKE, base_batch=6), 0)
    off = 0.0

    def denoise(z, t, cameras, reference, shown):
        assert_close(z, model.schedule.add_noise(batch.clean, batch.eps, batch.t))
        for given, own in zip(
            (t, cameras, reference, shown), (batch.t, batch.cameras, batch.reference, batch.shown), strict=True
        ):
            assert torch.equal(given, own)
        return batch.clean + off

    monkeypatch.setattr(model, "denoise", denoise)
    assert batch_loss(model, batch) == pytest.approx(0, abs=1e-6)
    off = 0.5
    abar = model.schedule.abar[batch.t]
    expected = 0.25 if predicts == "x0" else (0.25 * abar / (1 - abar)).mean().item()
    assert batch_loss(model, batch) == pytest.approx(expected, rel=1e-3)


def test_the_base_learns():
    preset = replace(SMOKE, base_steps=60, base_batch=4, base_lr=3e-3, ema=0.9)
    done, batch = last(train_four_dm("base", preset)).averaged(), make_batch("base", replace(preset, seed=9), 0)
    assert batch_loss(done, batch) < 0.7 * batch_loss(FourDM(preset.model, motion=False), batch)
