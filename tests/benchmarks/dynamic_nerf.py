"""How good is the field after a minute? Against K-planes and a deformation MLP, both nerfstudio's, at equal time.

8 cameras around a walking creature, 8 frames of 32 pixels; the exam is 8 views between them. Same rays, same MLPs, same
loss; only what answers for a point in space and time differs:

    two hash grids     features of (x, y, z) plus features of (x, y, z, t): ours
    K-planes           products of features on six planes, two sizes (Fridovich-Keil et al. 2023); without the paper's
                       losses for smooth planes, as no other field has such
    deformation MLP    where does this point lie in a scene that never moves? One hash grid there (D-NeRF, Pumarola et
                       al. 2021, who tie it to the first frame)

Time is this process's, on one thread, so a busy machine does not matter; a step's is measured first, and sets how many
there are. The rate of each was chosen on a creature that is not in the exam, with 20 seconds, of 1e-2, 2e-2, 4e-2,
8e-2, and the planes' sizes too (three sizes of 16 features are 2 dB worse). Nothing here is a timed test.

    pip install --no-deps nerfstudio==1.1.5 && python tests/benchmarks/dynamic_nerf.py --out figures
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.configs.scene_distillation import CPU
from fourd_minimal.data.procedural import FOV_DEG, HELD_OUT, RADIUS, sample_scenes
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, DynamicNeRFConfig, fit_steps
from fourd_minimal.systems.weights import write_text
from fourd_minimal.training.tables import made_by, table

UNUSED = {"viser", "viser.transforms", "rich", "rich.console", "rich.progress", "rich.text"} - set(sys.modules)
"""What nerfstudio imports on its way, and does not use here: stubs, for as long as that takes."""
sys.modules.update((name, MagicMock()) for name in UNUSED)
from nerfstudio.field_components.encodings import KPlanesEncoding, NeRFEncoding  # noqa: E402
from nerfstudio.field_components.temporal_distortions import DNeRFDistortion  # noqa: E402

for name in UNUSED:
    del sys.modules[name]

VIEWS = TIMES = 8
PLANES, FEATURES = (16, 32), 8
CONFIG = replace(CPU.nerf, rays_per_side=2)  # the truth is sharp


class KPlanes(DynamicNeRF):
    """Planes in place of both grids."""

    def __init__(self, config: DynamicNeRFConfig, seed: int = 0):
        super().__init__(config, seed)
        del self.space, self.space_time
        torch.manual_seed(seed)
        self.planes = nn.ModuleList(KPlanesEncoding((n, n, n, TIMES), FEATURES) for n in PLANES)
        width = FEATURES * len(PLANES)
        self.to_density[0], self.to_colour[0] = (nn.Linear(width, config.width, bias=False) for _ in range(2))

    def _features(self, points: Tensor, times: Tensor) -> Tensor:
        where = torch.cat([points, 2 * times[:, None] - 1], 1)
        return torch.cat([planes(where) for planes in self.planes], 1)


class Deformed(DynamicNeRF):
    """A grid over space alone, asked at the place where the point was at first."""

    def __init__(self, config: DynamicNeRFConfig, seed: int = 0):
        super().__init__(config, seed)
        del self.space_time
        torch.manual_seed(seed)
        waves = [NeRFEncoding(d, 4, 0.0, 3.0, include_input=True) for d in (3, 1)]
        self.deform = DNeRFDistortion(*waves, mlp_num_layers=4, mlp_layer_width=64)
        nn.init.zeros_(self.deform.mlp_deform.layers[-1].weight)  # nothing is deformed at first
        nn.init.zeros_(self.deform.mlp_deform.layers[-1].bias)

    def _features(self, points: Tensor, times: Tensor) -> Tensor:
        moved = points + self.deform(points, times[:, None]) if len(points) else points
        return self.space(((moved + 1) / 2).clamp(0, 1))


FIELDS = {"two hash grids": (DynamicNeRF, 4e-2), "K-planes": (KPlanes, 8e-2), "deformation MLP": (Deformed, 4e-2)}
"""Each with its rate."""


def steps(kind: type[DynamicNeRF], seed: int, views: int, n: int, rate: float) -> tuple[DynamicNeRF, Iterator[float]]:
    """A field, and its fit."""
    azimuth = torch.arange(VIEWS) * (360 / VIEWS)
    record = sample_scenes(1, VIEWS, TIMES, 32, seed, "creature", elevation_deg=20.0, azimuths_deg=azimuth[None])
    chosen, scene = slice(None, None, VIEWS // views), kind(CONFIG)
    c2w = circular_trajectory(azimuth[chosen], 20.0, RADIUS)
    return scene, fit_steps(scene, record.rgb[0, chosen], record.alpha[0, chosen], c2w, FOV_DEG, n, rate=rate)


@torch.no_grad()
def exam(scene: DynamicNeRF, seed: int) -> float:
    """PSNR at the views between, in dB."""
    azimuth = (torch.arange(VIEWS) + 0.5) * (360 / VIEWS)
    record = sample_scenes(1, VIEWS, TIMES, 32, seed, "creature", elevation_deg=20.0, azimuths_deg=azimuth[None])
    c2w = circular_trajectory(azimuth, 20.0, RADIUS)[:, None].expand(-1, TIMES, 4, 4)
    made = scene.render(c2w, FOV_DEG, torch.linspace(0, 1, TIMES).expand(VIEWS, -1), 32).rgb
    return -10 * (made - record.rgb[0]).square().mean().log10().item()


def per_step(kind: type[DynamicNeRF], rate: float, warm: int = 60, timed: int = 60) -> float:
    """Seconds of this process, once emptiness is known."""
    _, fit = steps(kind, HELD_OUT + 900_000, VIEWS, warm + timed, rate)
    for _ in range(warm):
        next(fit)
    began = time.process_time()
    for _ in range(timed):
        next(fit)
    return (time.process_time() - began) / timed


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--objects", type=int, default=4)
    arguments.add_argument("--views", type=int, nargs="+", default=[8])
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (kind, rate) in FIELDS.items():
        n = int(given.seconds / per_step(kind, rate))
        found = {}
        for views in given.views:
            found[views] = []
            for seed in range(HELD_OUT, HELD_OUT + given.objects):
                scene, fit = steps(kind, seed, views, n, rate)
                began = time.process_time()
                for _ in fit:
                    pass
                took = time.process_time() - began
                found[views].append((exam(scene, seed), took))
                print(f"{name}, {views} views, creature {seed}: {found[views][-1][0]:.2f} dB, {took:.0f} s", flush=True)
        size = sum(p.numel() for p in scene.parameters())
        took = mean(seconds for all_found in found.values() for _, seconds in all_found)
        decibels = [[psnr for psnr, _ in all_found] for all_found in found.values()]
        quality = [f"{mean(d):.2f} ({min(d):.1f} to {max(d):.1f})" for d in decibels]
        rows.append([name, f"{size / 1000:.0f}k", str(n), f"{took:.0f}", *quality])
    text = (
        f"Fields fitted to the truth for {given.seconds:g} s on one thread of a CPU: {TIMES} frames of 32 pixels, "
        f"{given.objects} held-out creatures; PSNR at views between, all pixels, mean (worst to best). "
        f"{made_by('python tests/benchmarks/dynamic_nerf.py')}\n\n"
    )
    text += table(["field", "numbers", "steps", "seconds", *(f"from {v} views, dB" for v in given.views)], rows) + "\n"
    print(text)
    if given.out:
        write_text(given.out / "dynamic_fields.md", text)


if __name__ == "__main__":
    main()
