"""Scenes for other programs: a `.ply` of Gaussians per time, in the layout that 3D Gaussian splatting gave its name to.

Every number is a little-endian float:

    x y z, nx ny nz (0), f_dc_0..2, opacity, scale_0..2, rot_0..3

f_dc is colour as a spherical harmonic of degree 0, (colour - 1/2) / 0.2821; opacity is a logit; scale is the logarithm
of the standard deviation (three equal ones: ours are balls); rot is the quaternion of no rotation.

In such files y points down: `write_scene` turns a scene by 180 degrees about z, and viewers that turn it back
(SuperSplat) show it upright. The background picture is left out.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.systems.deformable_gaussians import DeformableGaussians
from fourd_minimal.systems.weights import whole_file

HARMONIC_0 = 0.28209479177387814
"""The spherical harmonic of degree 0, 1 / (2 sqrt(pi))."""
NAMES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


def write_ply(
    path: str | Path,
    points: Float[Tensor, "n 3"],
    log_radius: Float[Tensor, " n"],
    colour: Float[Tensor, "n 3"],
    opacity_logit: Float[Tensor, " n"],
) -> Path:
    """One cloud; colour in [0, 1]. A ValueError where there are no points, or counts differ."""
    n, counts = len(points), tuple(map(len, (points, log_radius, colour, opacity_logit)))
    if not n or len(set(counts)) > 1:
        raise ValueError(f"points, log_radius, colour, opacity_logit are for {counts} Gaussians; expected one count.")
    no_turn = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(n, 4)
    columns = [points, torch.zeros(n, 3), (colour - 0.5) / HARMONIC_0, opacity_logit[:, None]]
    columns += [log_radius[:, None].expand(n, 3), no_turn]
    rows = torch.cat([a.detach().cpu().float() for a in columns], 1).numpy().astype(np.dtype("<f4"))
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {n}"]
    header += [*(f"property float {name}" for name in NAMES), "end_header\n"]
    with whole_file(path) as draft:
        draft.write_bytes("\n".join(header).encode() + rows.tobytes())
    return Path(path)


@torch.no_grad()
def write_scene(scene: DeformableGaussians, folder: str | Path, times: int) -> list[Path]:
    """`time_00.ply`, `time_01.ply`, ...: the scene of a free camera, at times spread evenly over [0, 1]."""
    if times < 1:
        raise ValueError(f"times is {times}; expected at least 1.")
    moments = torch.linspace(0, 1, times, device=scene.points.device)
    cloud = scene.log_radius, scene.colour_logit.sigmoid(), scene.opacity_logit
    upside_down = torch.tensor([-1.0, -1.0, 1.0], device=scene.points.device)
    return [
        write_ply(Path(folder) / f"time_{index:02d}.ply", points * upside_down, *cloud)
        for index, points in enumerate(scene.positions(moments))
    ]
