"""ImageDream, frame by frame: 4Diffusion's run with the base alone, over as many steps as one asks for."""

from dataclasses import replace

import torch
from refused import refused

from fourd_minimal.baselines.image_dream import optimise_steps, stretched
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.systems.dynamic_nerf import DynamicNeRFConfig
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.scene_distillation import Ramp, SceneConfig, optimise_scene

FIELD = DynamicNeRFConfig(n_levels=2, log2_table_size=8, base_resolution=4, width=8, n_samples=8, occupancy_side=6)
STEPS = dict(n_steps=8, fit_steps=2, sampling_steps=2, anneal_steps=6, guidance_every=2, pixels=64)
RAMPS = dict(orientation=Ramp(0.0, 1.0, 4), entropy=Ramp(0.0, 1.0, start=6))
SMALL = SceneConfig(FIELD, fov_deg=36.0, sizes=((0, 8), (4, 16)), anchor=0.0, direct=1.0, **STEPS, **RAMPS)


def test_it_is_4diffusions_run_with_the_base_alone(base, video):
    scenes = list(optimise_steps(video, base, 4, seed=1, config=SMALL))
    assert len(scenes) == 4 and len({id(scene) for scene in scenes}) == 1
    half = replace(SMALL, n_steps=4, sizes=((0, 8), (2, 16)), anneal_steps=3)
    half = replace(half, orientation=Ramp(0.0, 1.0, 2), entropy=Ramp(0.0, 1.0, start=3))
    expected = optimise_scene(video, base, half, seed=1)
    for (name, a), b in zip(expected.state_dict().items(), scenes[-1].state_dict().values(), strict=True):
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


def test_bad_input_is_named(base, video):
    moving = FourDM(FOUR_DM["smoke"].model)
    refused(lambda: next(optimise_steps(video, moving, 2, config=SMALL)), "base", "motion")
    refused(lambda: next(optimise_steps(video, base, 2)), "perceptual", None)
