"""How good is the field after a minute? Against K-planes and a deformation MLP, both nerfstudio's, at equal time.

8 cameras around a walking creature, 8 frames of 32 pixels; tested at 8 views between them. Same rays, same MLPs, same
loss; only the features of a point in space and time differ:

    two hash grids     features of (x, y, z) plus features of (x, y, z, t): ours
    K-planes           products of features on six planes, two sizes (Fridovich-Keil et al. 2023); without the paper's
                       losses for smooth planes, as no other field has such
    deformation MLP    where does this point lie in a scene that never moves? One hash grid there (D-NeRF, Pumarola et
                       al. 2021, who tie it to the first frame)

Time is this process's, on one thread, so a busy machine does not matter; a step's is measured first, and sets how many
there are. The rate of each was chosen on another creature, with 20 seconds, of 1e-2, 2e-2, 4e-2, 8e-2, and the planes'
sizes too (three sizes of 16 features are 2 dB worse).

    pip install --no-deps nerfstudio==1.1.5 && python tests/benchmarks/dynamic_nerf.py --out figures
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from nerfstudio_parts import field_component
from torch import Tensor, nn

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.configs.scene_distillation import CPU
from fourd_minimal.data.procedural import FOV_DEG, HELD_OUT, RADIUS, sample_scenes
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, DynamicNeRFConfig, fit_steps
from fourd_minimal.systems.weights import write_text
from fourd_minimal.training.tables import made_by, table

encodings, distortions = field_component("encodings"), field_component("temporal_distortions")
VIEWS = TIMES = 8
PLANES, FEATURES = (16, 32), 8
CONFIG = replace(CPU.nerf, rays_per_side=2)  # the truth is sharp


class KPlanes(DynamicNeRF):
    """Planes in place of both grids."""

    def __init__(self, config: DynamicNeRFConfig, seed: int = 0):
        super().__init__(config, seed)
        del self.space, self.space_time
        torch.manual_seed(seed)
        self.planes = nn.ModuleList(encodings.KPlanesEncoding((n, n, n, TIMES), FEATURES) for n in PLANES)
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
        waves = [encodings.NeRFEncoding(d, 4, 0.0, 3.0, include_input=True) for d in (3, 1)]
        self.deform = distortions.DNeRFDistortion(*waves, mlp_num_layers=4, mlp_layer_width=64)
        nn.init.zeros_(self.deform.mlp_deform.layers[-1].weight)  # nothing is deformed at first
        nn.init.zeros_(self.deform.mlp_deform.layers[-1].bias)

    def _features(self, points: Tensor, times: Tensor) -> Tensor:
        moved = points + self.deform(points, times[:, None]) if len(points) else points
        return self.space(((moved + 1) / 2).clamp(0, 1))


FIELDS = {"two hash grids": (DynamicNeRF, 4e-2), "K-planes": (KPlanes, 8e-2), "deformation MLP": (Deformed, 4e-2)}
"""Each with its rate."""


def scene(seed: int, azimuths_deg: Tensor):
    return sample_scenes(1, VIEWS, TIMES, 32, seed, "creature", elevation_deg=20.0, azimuths_deg=azimuths_deg[None])


def steps(kind: type[DynamicNeRF], seed: int, n: int, rate: float) -> tuple[DynamicNeRF, Iterator[float]]:
    """A field, and its fit."""
    azimuth = torch.arange(VIEWS) * (360 / VIEWS)
    record, field = scene(seed, azimuth), kind(CONFIG)
    c2w = circular_trajectory(azimuth, 20.0, RADIUS)
    return field, fit_steps(field, record.rgb[0], record.alpha[0], c2w, FOV_DEG, n, rate=rate)


@torch.no_grad()
def held_out_psnr(field: DynamicNeRF, seed: int) -> float:
    """At the views between, in dB."""
    azimuth = (torch.arange(VIEWS) + 0.5) * (360 / VIEWS)
    c2w = circular_trajectory(azimuth, 20.0, RADIUS)[:, None].expand(-1, TIMES, 4, 4)
    made = field.render(c2w, FOV_DEG, torch.linspace(0, 1, TIMES).expand(VIEWS, -1), 32).rgb
    return -10 * (made - scene(seed, azimuth).rgb[0]).square().mean().log10().item()


def seconds(fit: Iterator[float], n: int) -> float:
    """Of this process, for the next steps."""
    began = time.process_time()
    for _ in range(n):
        next(fit)
    return time.process_time() - began


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--objects", type=int, default=4)
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (kind, rate) in FIELDS.items():
        _, fit = steps(kind, HELD_OUT + 900_000, 120, rate)
        seconds(fit, 60)  # until empty space is known
        n, found = int(given.seconds / seconds(fit, 60) * 60), []
        for seed in range(HELD_OUT, HELD_OUT + given.objects):
            field, fit = steps(kind, seed, n, rate)
            took = seconds(fit, n)
            found.append((held_out_psnr(field, seed), took))
            print(f"{name}, creature {seed}: {found[-1][0]:.2f} dB, {took:.0f} s", flush=True)
        decibels, taken = zip(*found, strict=True)
        size = sum(p.numel() for p in field.parameters())
        quality = f"{mean(decibels):.2f} ({min(decibels):.1f} to {max(decibels):.1f})"
        rows.append([name, f"{size / 1000:.0f}k", str(n), f"{mean(taken):.0f}", quality])
    text = (
        f"Fields fitted to the truth for {given.seconds:g} s on one thread of a CPU: {TIMES} frames of 32 pixels, "
        f"{given.objects} held-out creatures; PSNR at views between, all pixels, mean (worst to best). "
        f"{made_by('python tests/benchmarks/dynamic_nerf.py')}\n\n"
    )
    text += table(["field", "numbers", "steps", "seconds", f"from {VIEWS} views, dB"], rows) + "\n"
    print(text)
    if given.out:
        write_text(given.out / "dynamic_fields.md", text)


if __name__ == "__main__":
    main()
