"""How fast are tiles? Forward and backward, against every Gaussian at every pixel, in one run; nothing is a timed test.

python tests/benchmarks/gaussians.py
"""

import platform
import time
from collections.abc import Callable

import torch

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.configs.presets import device
from fourd_minimal.data.procedural import FOV_DEG, RADIUS
from fourd_minimal.gaussians import NEAR, composite, project, render


def cloud(n: int, radius: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rand = torch.rand(n, 7, generator=generator)
    points = 0.4 * torch.randn(n, 3, generator=generator)
    parts = points, radius * (0.7 + 0.7 * rand[:, 0]), rand[:, 1:4], 0.05 + 0.9 * rand[:, 4]
    return [a.to(device()).requires_grad_() for a in parts]


def dense(points, radius, colour, opacity, c2w, fov_deg, size) -> torch.Tensor:
    """The same picture without tiles: one list of all Gaussians, front first, at all pixels."""
    seen = project(points, radius, c2w, fov_deg, size)
    y, x = (torch.arange(n, device=points.device) + 0.5 for n in size)
    order = seen.depth[0].argsort()
    (cx, cy), (xx, xy, yy) = (a[0, order, :, None].unbind(1) for a in (seen.xy, seen.conic))
    dx, dy = (x - cx)[:, None], (y - cy)[:, :, None]
    xx, xy, yy = (a[..., None] for a in (xx, xy, yy))
    alpha = opacity[order, None, None] * (-(xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy) / 2).exp()
    alpha = alpha.clamp(max=0.99) * (seen.depth[0, order] > NEAR)[:, None, None]
    return torch.einsum("np,nc->cp", composite(alpha.flatten(1)), colour[order])


def milliseconds(call: Callable[[], torch.Tensor], inputs: list[torch.Tensor], repeats: int = 5) -> float:
    """The fastest of a few, forward and backward."""
    found = []
    for _ in range(repeats):
        for a in inputs:
            a.grad = None
        if device().type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        call().square().sum().backward()
        if device().type == "cuda":
            torch.cuda.synchronize()
        found.append(1000 * (time.perf_counter() - began))
    return min(found)


def main() -> None:
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {device()}")
    camera = circular_trajectory(20.0, 20.0, RADIUS)[None].to(device())
    for n, side, radius in ((500, 32, 0.06), (2000, 64, 0.035)):
        inputs, size = cloud(n, radius), (side, side)
        points, *look = inputs
        tiled = milliseconds(lambda p=points, a=look, s=size: render(p[None], *a, camera, FOV_DEG, s).rgb, inputs)
        whole = milliseconds(lambda p=points, a=look, s=size: dense(p[None], *a, camera, FOV_DEG, s), inputs)
        print(f"{n:5d} Gaussians at {side} px: tiles {tiled:.1f} ms, dense {whole:.1f} ms, {whole / tiled:.1f} times")


if __name__ == "__main__":
    main()
