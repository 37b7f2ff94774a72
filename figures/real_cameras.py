"""A real recording: a scene is fitted to all cameras but one, and that one is predicted."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from figures.page import Page
from figures.recording import Recording, read_recording
from fourd_minimal.cli.main import program
from fourd_minimal.systems.deformable_gaussians import DeformableGaussians, fit, random_scene
from fourd_minimal.training.tables import made_by, table
from fourd_minimal.viewers.contact_sheet import compare_sheet

BALL = 0.8
"""Radius of the ball that the fit starts from; the person fits the unit ball."""


def fit_without(recording: Recording, camera: int, n_steps: int = 500, seed: int = 0) -> DeformableGaussians:
    """A scene from all cameras but one."""
    others = torch.arange(len(recording.c2w)) != camera
    scene = random_scene(800, seed, BALL)
    return fit(recording.rgb[others], recording.c2w[others], recording.fov_deg, scene, n_steps=n_steps, seed=seed)


def predict(
    scene: DeformableGaussians, recording: Recording, camera: int
) -> tuple[Float[Tensor, "t 3 h w"], Float[Tensor, "t 1 h w"]]:
    """What one camera sees of it over time: colours in [0, 1], and coverage."""
    times = recording.rgb.shape[1]
    c2w = recording.c2w[camera].expand(times, 4, 4)
    seen = scene.render(c2w, recording.fov_deg, torch.linspace(0, 1, times), tuple(recording.rgb.shape[-2:]))
    return seen.rgb.clamp(0, 1), seen.alpha


def trivial(recording: Recording, camera: int) -> dict[str, Float[Tensor, "t 3 h w"]]:
    """What needs no fit: nobody, the camera that comes closest (chosen by the truth), the mean of the others."""
    truth = recording.rgb[camera]
    others = torch.cat([recording.rgb[:camera], recording.rgb[camera + 1 :]])
    closest = (others - truth).square().flatten(1).mean(1).argmin()
    return {
        "nobody": torch.ones_like(truth),
        "the closest other": others[closest],
        "mean of the others": others.mean(0),
    }


@dataclass(frozen=True)
class Cameras:
    """Leave out each camera of a calibrated recording in turn, and predict it from the others."""

    recording: Path
    """The recording is a folder with `Calib.qca.txt` (Qualisys) and a video per camera."""
    target: tuple[float, float, float] | None = None
    """What the cameras are turned to, metres, y up; where they look when left out. The middle of the person of
    Pose2Sim's Demo_SinglePerson: -0.94 0.85 0.02."""
    size: int = 48
    """The frames have so many pixels along each side."""
    frames: int = 8
    """So many frames are taken, evenly spaced over the recording."""
    steps: int = 500
    """Each fit takes so many steps."""
    seed: int = 0
    """Each fit has this seed."""
    out: Path | None = None
    """`real_cameras.md`, `.json` and `.png` go into this folder; by default the table is only printed."""

    def run(self) -> None:
        """Print the table, and write it with a picture where asked."""
        recording = read_recording(self.recording, self.size, self.frames, self.target)
        scores: dict[str, list[tuple[float, float]]] = {}
        overlaps, pictures = [], []
        for camera, truth in enumerate(recording.rgb):
            print(f"camera {camera + 1} from the others ...", flush=True)
            person = recording.alpha[camera] > 0.5
            rgb, alpha = predict(fit_without(recording, camera, self.steps, self.seed), recording, camera)
            for name, found in {**trivial(recording, camera), "fitted scene": rgb}.items():
                error = (found - truth).square()
                both = (-10 * e.mean().log10().item() for e in (error, error[person.expand_as(error)]))
                scores.setdefault(name, []).append(tuple(both))
            overlaps.append((((alpha > 0.5) & person).sum() / ((alpha > 0.5) | person).sum()).item())
            pictures.append(rgb)
        page = Page("real_cameras", self.out)
        page.say(*self.report(scores, overlaps))
        page.write([scores, overlaps])
        if self.out:
            panels = {"recorded": recording.rgb, "predicted from the others": torch.stack(pictures)}
            compare_sheet(panels, self.out / "real_cameras.png", scale=2, known=False)

    def report(self, scores: dict[str, list[tuple[float, float]]], overlaps: list[float]) -> tuple[str, str]:
        """What was measured, and the table."""
        head = ["", *(f"camera {i + 1}" for i in range(len(overlaps)))]
        rows = [[name, *(f"{a:.2f} / {p:.2f}" for a, p in line)] for name, line in scores.items()]
        rows.append(["silhouettes' overlap (IoU)", *(f"{o:.2f}" for o in overlaps)])
        target = "" if self.target is None else " --target " + " ".join(f"{x:g}" for x in self.target)
        return (
            f"A real recording ({self.recording.name}): each camera predicted from the others. {self.frames} frames of "
            f"{self.size} pixels, {self.steps} steps, CPU, seed {self.seed}; PSNR in dB of all / the person's pixels. "
            f"{made_by(f'python -m figures.real_cameras --recording {self.recording.name}{target}')}",
            table(head, rows),
        )


if __name__ == "__main__":
    program(Cameras)
