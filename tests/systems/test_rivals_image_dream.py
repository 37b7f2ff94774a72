"""ImageDream, frame by frame: 4Diffusion's run with the base alone, over as many steps as one asks for."""

from dataclasses import replace

import pytest
import torch

from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.systems import film_to_scene
from fourd_minimal.systems.dynamic_nerf import DynamicNeRFConfig
from fourd_minimal.systems.film_to_scene import Ramp, SceneConfig, optimise_scene
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.rivals.image_dream import optimise_steps, stretched

SMALL = SceneConfig(
    DynamicNeRFConfig(n_levels=2, log2_table_size=8, base_resolution=4, width=8, n_samples=8, occupancy_side=6),
    fov_deg=36.0,
    sizes=((0, 8), (4, 16)),
    n_steps=8,
    fit_steps=2,
    sampling_steps=2,
    anneal_steps=6,
    looks_every=2,
    pixels=64,
    anchor=0.0,
    direct=1.0,
    orientation=Ramp(0.0, 1.0, 4),
    entropy=Ramp(0.0, 1.0, start=6),
)


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    return FourDM(FOUR_DM["smoke"].model, motion=False).requires_grad_(False)


@pytest.fixture
def film():
    frames = torch.ones(3, 3, 16, 16)
    frames[:, :, 4:12, 5:11] = torch.rand(3, 3, 8, 6, generator=torch.Generator().manual_seed(0)) * 0.5
    return frames


def test_it_is_4diffusions_run_with_the_base_alone(base, film):
    scenes = list(optimise_steps(film, base, 4, seed=1, config=SMALL))
    assert len(scenes) == 4 and len({id(scene) for scene in scenes}) == 1
    half = replace(SMALL, n_steps=4, sizes=((0, 8), (2, 16)), anneal_steps=3)
    half = replace(half, orientation=Ramp(0.0, 1.0, 2), entropy=Ramp(0.0, 1.0, start=3))
    wanted = optimise_scene(film, base, half, seed=1)
    for (name, a), b in zip(wanted.state_dict().items(), scenes[-1].state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_schedules_are_stretched_and_the_rest_is_left(base):
    config = replace(SMALL, orientation=Ramp(1.0, 2.0, 4), entropy=Ramp(0.0, 3.0, start=2))
    twice = stretched(config, 16)
    for step in range(16):
        for name in ("orientation", "entropy"):
            assert getattr(twice, name).at(2 * step) == getattr(config, name).at(step)
    assert (twice.n_steps, twice.anneal_steps, twice.sizes, twice.fit_steps) == (16, 12, ((0, 8), (8, 16)), 2)
    assert stretched(config, 8) == config and stretched(config, 1).anneal_steps == 1
    assert stretched(replace(config, n_steps=0), 5) == replace(config, n_steps=5)


def test_no_frame_hears_of_another(base, film, monkeypatch):
    """Of a film whose last frame differs, the same is sampled of the others; and each frame has noise of its own."""
    sampled = []
    found = film_to_scene.surroundings
    monkeypatch.setattr(film_to_scene, "surroundings", lambda *a: sampled.append(found(*a)) or sampled[-1])
    for last in (film[-1], film[0]):
        next(optimise_steps(torch.stack([film[0], film[1], last]), base, 1, config=SMALL))
    one, other = sampled
    assert torch.equal(one[:, :2], other[:, :2]) and not torch.equal(one[:, 2], other[:, 2])
    assert not torch.allclose(other[:, 0], other[:, 2], atol=1e-3)


def test_bad_input_is_named(base, film):
    with pytest.raises(ValueError, match="n_steps is 0; at least 1"):
        next(optimise_steps(film, base, 0, config=SMALL))
    with pytest.raises(ValueError, match="base has motion modules; the model without"):
        next(optimise_steps(film, FourDM(FOUR_DM["smoke"].model), 2, config=SMALL))
    with pytest.raises(ValueError, match="film holds NaN"):
        next(optimise_steps(film * torch.nan, base, 2, config=SMALL))
    with pytest.raises(ValueError, match="perceptual is None"):
        next(optimise_steps(film, base, 2))
