"""A dynamic NeRF as surfaces, one file for each time: for tools that know triangles only.

Where density crosses a level, marching cubes (scikit-image) puts a surface; its colours are the field's. trimesh writes
them: .glb (glTF), .obj, .ply. Times share no vertices: it is a flip-book, not an animation.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.systems.dynamic_nerf import DynamicNeRF
from fourd_minimal.systems.weights import whole_file

try:
    from skimage.measure import marching_cubes
    from trimesh import Trimesh
except ModuleNotFoundError as missing:
    raise ValueError(f"{missing.name} is missing; pip install 'fourd-minimal[meshes]' brings it.") from None


@torch.no_grad()
def mesh_at(scene: DynamicNeRF, time: float, side: int = 96, level: float | None = None) -> Trimesh:
    """The surface at one time, with colours at its vertices, in the scene's own units.

    Args:
        scene: the field.
        time: in [0, 1].
        side: points of the lattice along each axis of the box.
        level: density per unit of length; left out, that at which two cells of the lattice are half opaque, or half of
            the highest where nothing is that dense.

    Raises:
        ValueError: nothing reaches the level, or everything does.
    """
    device = scene.occupancy.density.device
    axis = torch.linspace(-1, 1, side, device=device)
    points = torch.cartesian_prod(axis, axis, axis)
    when = torch.full((len(points),), float(time), device=device)
    density = torch.cat([scene.density(p, t) for p, t in zip(points.split(2**17), when.split(2**17), strict=True)])
    low, high = density.min().item(), density.max().item()
    level = min(math.log(2) * side / 4, (low + high) / 2) if level is None else level
    if not low < level < high:
        raise ValueError(f"level is {level:.3g}; at time {time:g} densities go from {low:.3g} to {high:.3g}.")
    lattice, faces, *_ = marching_cubes(density.view(side, side, side).cpu().numpy(), level)
    vertices = torch.from_numpy(lattice * (2 / (side - 1)) - 1).float().to(device)
    colours = scene(vertices, when[:1].expand(len(vertices)))[1]
    return Trimesh(vertices.cpu().numpy(), faces[:, ::-1], vertex_colors=colours.cpu().numpy())


def linear(srgb: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """From a screen's colours to light, both in [0, 1] (IEC 61966-2-1)."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def write_meshes(scene: DynamicNeRF, folder: str | Path, times: int, suffix: str = ".glb", **options) -> list[Path]:
    """Write `time_0.glb`, `time_1.glb`, ..., evenly over the times [0, 1]; or .obj, or .ply. Options: of `mesh_at`."""
    if suffix not in (".glb", ".obj", ".ply"):
        raise ValueError(f"suffix is {suffix!r}; expected .glb, .obj or .ply.")
    paths = [Path(folder) / f"time_{number}{suffix}" for number in range(times)]
    for path, time in zip(paths, torch.linspace(0, 1, times).tolist(), strict=True):
        mesh = mesh_at(scene, time, **options)
        if suffix == ".glb":  # glTF has linear light at vertices, the field a screen's colours
            colours = torch.tensor(mesh.visual.vertex_colors)
            colours[:, :3] = (255 * linear(colours[:, :3] / 255)).round().byte()
            mesh.visual.vertex_colors = colours.numpy()
        with whole_file(path) as draft:
            mesh.export(draft, file_type=suffix[1:])
    return paths
