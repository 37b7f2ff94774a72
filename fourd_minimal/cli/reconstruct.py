"""From the frames of a grid to a scene in files: a page to fly around in, and a .ply per time."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.configs.presets import device
from fourd_minimal.data.poses import Orbit, orbit_of
from fourd_minimal.data.procedural import FOV_DEG, RADIUS
from fourd_minimal.data.video import opaque
from fourd_minimal.systems.deformable_gaussians import DeformableGaussians, fit_steps, random_scene
from fourd_minimal.viewers.contact_sheet import contact_sheet
from fourd_minimal.viewers.results_folder import whole_folder
from fourd_minimal.viewers.scene_files import write_scene
from fourd_minimal.viewers.scene_page import save_scene_html


@dataclass(frozen=True)
class Reconstruct:
    """Fit a deformable scene to a grid: `scene.html` to fly around in, `ply/` for other programs, and `orbit.png`: five
    new cameras from before the first view to beyond the last (down), at five times (across).

    The camera's orbit is given, or fitted to the first frames of all views by optical flow, which needs texture.
    """

    grid: Path = Path("fourd_out/frames")
    """A folder with a video per view, in order: `view_0`, `view_1`, ... as `fourd generate` writes them."""
    sweep_deg: float | None = None
    """The camera goes around by this angle from the first view to the last; in the bundled example by 52.2."""
    elevation_deg: float | None = None
    """The camera stands this angle above the horizon; in the bundled example 19.8."""
    fov_deg: float = FOV_DEG
    """The cameras' vertical field of view."""
    radius: float = RADIUS
    """The cameras' distance from the middle of the scene, which fits the unit ball."""
    points: int = 800
    """The scene consists of this many Gaussians, which begin in a random ball."""
    steps: int = 500
    """The fit takes this many steps."""
    seed: int = 0
    """The random ball and the fit have this seed."""
    times: int = 8
    """So many clouds, one for each time, are written into `ply/`."""
    out: Path = Path("fourd_scene")
    """The results go into this folder."""

    def run(self) -> None:
        """Fit the scene, and print where the result is.

        Raises:
            ValueError: no views, views that differ, half an orbit, or no tracks to fit one to.
        """
        if (self.sweep_deg is None) != (self.elevation_deg is None):
            raise ValueError("--sweep-deg and --elevation-deg belong together; expected both or none.")
        if min(self.points, self.steps, self.times) < 1:
            raise ValueError("--points, --steps or --times is below 1; expected at least 1 of each.")
        with whole_folder(self.out, OURS) as folder:
            grid = read_grid(self.grid)
            orbit = self.orbit(grid[:, 0])
            c2w, began = orbit.c2w(len(grid)).to(device()), time.perf_counter()
            scene = random_scene(self.points, self.seed).to(device())
            run = fit_steps(scene, grid.to(device()), c2w, self.fov_deg, self.steps, seed=self.seed)
            for _ in tqdm(run, total=self.steps, desc="scene", unit="step"):
                pass
            scene.requires_grad_(False)
            # how well it fits the frames it was made from
            v, t, _, *size = grid.shape
            times = torch.linspace(0, 1, t, device=c2w.device).expand(v, -1)
            fitted = scene.render(c2w[:, None].expand(-1, t, -1, -1), self.fov_deg, times, tuple(size)).rgb.cpu()
            psnr, seconds = -10 * (fitted - grid).square().mean().log10(), time.perf_counter() - began
            print(f"{self.points} Gaussians fitted in {seconds:.0f} s; {psnr:.1f} dB on the input frames")
            print("(That says nothing of other views: with wrong angles it may be as high. Look at orbit.png.)")
            # the files
            scene = scene.cpu()
            write_scene(scene, folder / "ply", self.times)
            middle = circular_trajectory(orbit.sweep_deg / 2, orbit.elevation_deg, orbit.radius)
            title = "Drag to fly around, scroll to come closer, slide through time"
            save_scene_html(scene, folder / "scene.html", middle, self.fov_deg, title=title)
            around = new_views(scene, orbit, self.fov_deg, tuple(size))
            contact_sheet(around, folder / "orbit.png", known=False, labels=False)
        print(f"Fly around: {(self.out / 'scene.html').resolve()}\nStill:      {(self.out / 'orbit.png').resolve()}")

    def orbit(self, freeze_time: Float[Tensor, "v 3 h w"]) -> Orbit:
        """The camera's orbit: the given one, or one fitted."""
        if self.sweep_deg is not None:
            return Orbit(self.sweep_deg, self.elevation_deg, self.radius)
        try:
            found = orbit_of(freeze_time, self.fov_deg, radius=self.radius)
        except ValueError as error:
            expected = "expected --sweep-deg and --elevation-deg; the bundled example's are 52.2 and 19.8"
            raise ValueError(f"--grid has too few tracks to fit an orbit to ({error}); {expected}.") from None
        print(
            f"Fitted orbit: sweep {found.sweep_deg:.0f} degrees, elevation {found.elevation_deg:.0f}; tracks miss by "
            f"{found.error_px:.2f} px.\nWithout texture this is a GUESS, and a wrong orbit makes a wrong scene: give "
            "--sweep-deg and --elevation-deg if you know them."
        )
        return found


OURS = r"scene\.html|orbit\.png|ply(/time_\d+\.ply)?"
"""What a folder of results holds."""


def read_grid(folder: Path) -> Float[Tensor, "v t 3 h w"]:
    """A video per view, on white.

    Raises:
        ValueError: no views, or views of different sizes or lengths.
    """
    views = {int(found[1]): path for path in folder.glob("view_*") if (found := re.fullmatch(r"view_(\d+)", path.stem))}
    if len(views) < 2 or sorted(views) != list(range(len(views))):
        had = ", ".join(f"view_{n}" for n in sorted(views)) or "none"
        raise ValueError(f"--grid is {folder} with {had}; expected view_0, view_1, ... without a gap.")
    rows = [opaque(views[number]) for number in sorted(views)]
    if len({row.shape for row in rows}) > 1:
        shapes = ", ".join(f"{len(r)} frames of {r.shape[2]}x{r.shape[3]}" for r in rows)
        raise ValueError(f"--grid is {folder}, whose views differ: {shapes}.")
    return torch.stack(rows)


def new_views(scene: DeformableGaussians, orbit: Orbit, fov_deg: float, size: tuple[int, int]) -> Tensor:
    """Five views, from a little before the first camera to a little beyond the last, at five times."""
    azimuth = torch.linspace(-0.25, 1.25, 5) * orbit.sweep_deg
    c2w = circular_trajectory(azimuth, orbit.elevation_deg, orbit.radius)[:, None].expand(-1, 5, -1, -1)
    return scene.render(c2w, fov_deg, torch.linspace(0, 1, 5).expand(5, -1), size).rgb.clamp(0, 1)
