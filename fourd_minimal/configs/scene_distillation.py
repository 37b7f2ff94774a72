"""The four presets of a video that becomes a scene. `full` has the paper's values; it works on latents."""

from dataclasses import replace

from fourd_minimal.systems.dynamic_nerf import DynamicNeRFConfig
from fourd_minimal.systems.scene_distillation import Ramp, SceneConfig

GRID = dict(n_levels=6, log2_table_size=14, base_resolution=4, per_level_scale=1.5)
NERF = DynamicNeRFConfig(**GRID, n_samples=48, occupancy_side=24, blob=5.0, blob_radius=0.8)
SAMPLING = dict(n_steps=90, fit_steps=300, sampling_steps=16, sampling_guidance=2.0, anneal_steps=60, pixels=512)
LOSSES = dict(
    sds=0.01, anchor=0.0, direct=1.0, mask=0.1, opacity=0.0, orientation=Ramp(0.0, 0.0), entropy=Ramp(0.0, 0.0)
)
CPU = SceneConfig(nerf=NERF, fov_deg=36.0, sizes=((0, 32),), guidance=2.0, guidance_every=3, **SAMPLING, **LOSSES)

SMALL = dict(n_steps=3, fit_steps=5, sampling_steps=2, pixels=64)
LARGE = dict(n_steps=3000, fit_steps=2000, sampling_steps=32, anneal_steps=2000, guidance_every=1, pixels=8192)
SCENES = {
    "smoke": replace(
        CPU,
        nerf=replace(NERF, n_levels=2, log2_table_size=8, n_samples=12, occupancy_side=8),
        sizes=((0, 16),),
        **SMALL,
    ),
    "cpu": CPU,
    "gpu": replace(CPU, nerf=replace(NERF, n_levels=8, log2_table_size=16, n_samples=96), sizes=((0, 64),), **LARGE),
    "full": SceneConfig(),
}
"""For videos of 16, 32 and 64 pixels, as the presets of 4DM make them; `full` is of 256."""
