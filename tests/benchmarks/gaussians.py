"""How fast are tiles? Forward and backward, against every Gaussian at every pixel, in one run.

python tests/benchmarks/gaussians.py
"""

import torch
from timing import machine, seconds, trained

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.configs.presets import device
from fourd_minimal.data.procedural import FOV_DEG, RADIUS
from fourd_minimal.gaussians import NEAR, composite, project, render


def cloud(n: int, radius: float) -> list[torch.Tensor]:
    torch.manual_seed(0)
    parts = 0.4 * torch.randn(n, 3), radius * (0.7 + 0.7 * torch.rand(n)), torch.rand(n, 3), 0.05 + 0.9 * torch.rand(n)
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


def main() -> None:
    print(machine())
    camera = circular_trajectory(20.0, 20.0, RADIUS)[None].to(device())
    for n, side, radius in ((500, 32, 0.06), (2000, 64, 0.035)):
        points, *look = cloud(n, radius)
        given = (points[None], *look, camera, FOV_DEG, (side, side))
        ways = (lambda given=given: render(*given).rgb), (lambda given=given: dense(*given))
        tiled, whole = seconds(*map(trained, ways), summary=min)
        print(f"{n:5d} Gaussians at {side} px: tiles {1e3 * tiled:.1f} ms, dense {1e3 * whole:.1f} ms, ", end="")
        print(f"{whole / tiled:.1f} times")


if __name__ == "__main__":
    main()
