"""What all baselines that make a scene of a video hold to: a seed decides, one frame will do, bad input is named."""

from functools import partial

import pytest
import torch
from refused import refused

from fourd_minimal.baselines import consistent_4d, dream_gaussian_4d, four_d_fy, image_dream
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.systems.dynamic_nerf import DynamicNeRFConfig
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.scene_distillation import SceneConfig

FIELD = DynamicNeRFConfig(
    n_levels=2, log2_table_size=8, base_resolution=4, width=8, n_samples=8, occupancy_side=6, moments=2
)
SCENE = SceneConfig(FIELD, fov_deg=36.0, sizes=((0, 8),), n_steps=4, sampling_steps=1, pixels=32, anchor=0.0)
PLANES = dict(nerf=FIELD, planes=((4, 2), (8, 3)), n_features=4, pixels=32)
MODEL = FourDM(FOUR_DM["smoke"].model).requires_grad_(False)
LEAST = {  # the steps that a baseline needs at least, and the baseline
    "Consistent4D": (2, partial(consistent_4d.optimise_steps, **PLANES)),
    "DreamGaussian4D": (2, partial(dream_gaussian_4d.optimise_steps, n_points=30)),
    "4D-fy": (3, lambda video, base, n, seed=0: four_d_fy.optimise_steps(video, MODEL, n, seed, base=base, nerf=FIELD)),
    "ImageDream": (1, partial(image_dream.optimise_steps, config=SCENE)),
}


@pytest.fixture(params=LEAST)
def baseline(request):
    return LEAST[request.param]


def end(steps):
    *_, scene = steps
    return torch.cat([value.detach().flatten() for value in scene.state_dict().values()])


def test_a_seed_decides_and_one_frame_will_do(baseline, video, base):
    _, steps = baseline
    one, again, other = (end(steps(video, base, 4, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert end(steps(video[:1], base, 4)).isfinite().all()


def test_bad_input_is_named(baseline, video, base, latent_base):
    least, steps = baseline
    refused(lambda: next(steps(video, base, least - 1)), "n_steps", least - 1)
    refused(lambda: next(steps(video[:, :, :8], base, 4)), (3, 3, 8, 16))
    refused(lambda: next(steps(video * torch.nan, base, 4)), "video", "NaN")
    refused(lambda: next(steps(video * 2, base, 4)), "video", 2)
    refused(lambda: next(steps(video, latent_base, 4)), 4)
