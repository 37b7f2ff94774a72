"""Is the upsampler better than bicubic interpolation? On true small frames and on generated ones, beside the truth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from figures.page import Page, steps_label
from fourd_minimal.cli.main import program
from fourd_minimal.configs.upsampler import UPSAMPLERS, UpsamplerPreset
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.systems.conditioning import known_cells
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.upsampler import Upsampler, bicubic, shrink
from fourd_minimal.training.evaluation import Grids, flicker, moving_pixels, predict, reprojection_error
from fourd_minimal.training.tables import made_by, table
from fourd_minimal.viewers.contact_sheet import compare_sheet


def held_out_large(model: Upsampler, preset: UpsamplerPreset, family: str, scenes: int = 64) -> SceneRecord:
    """Scenes no training run has seen, at the large size."""
    return sample_scenes(scenes, preset.views, preset.times, model.config.dit.image_size, HELD_OUT, family)


def enlarge(
    model: Upsampler, grids: Float[Tensor, "n v t 3 sh sw"], n_steps: int, tau: float, seed: int = 0, batch: int = 8
) -> Grids:
    """Upsample many grids; pixels in [0, 1] in and out."""
    device, parts = next(model.parameters()).device, []
    for i in range(0, len(grids), batch):
        *_, large = model.sample(grids[i : i + batch].to(device) * 2 - 1, n_steps, tau, seed + i)
        parts.append(((large + 1) / 2).clamp(0, 1).to(grids.device))
    return torch.cat(parts)


def sharpness(grids: Grids, pixels: Bool[Tensor, "n v t 1 h w"]) -> float:
    """Tenengrad: the mean squared gradient of the colours over the chosen pixels. A blurred edge has less of it.

    (The mean length of the gradient would not do: an edge has the same rise, steep or not.)

    >>> steep = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 1, 3, 4, 4)
    >>> soft = torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(1, 1, 1, 3, 4, 4)
    >>> everywhere = torch.ones(1, 1, 1, 1, 4, 4, dtype=torch.bool)
    >>> round(sharpness(steep, everywhere), 3), round(sharpness(soft, everywhere), 3)
    (0.333, 0.125)
    """
    right = grids[..., :-1, 1:] - grids[..., :-1, :-1]
    down = grids[..., 1:, :-1] - grids[..., :-1, :-1]
    energy = right.square() + down.square()
    return energy[pixels[..., :-1, :-1].expand_as(energy)].mean().item()


@dataclass(frozen=True)
class Row:
    """One line of a table; PSNR in dB of moving pixels and of all, sharpness as a share of the truth's."""

    method: str
    all_pixels: float
    moving_pixels: float
    sharpness: float
    flicker: float
    reprojection: float


def measure(method: str, grids: Grids, record: SceneRecord, cells: Bool[Tensor, "v t"]) -> Row:
    """Large grids against the truth: PSNR and sharpness over the chosen cells, consistency over the unknown ones."""
    chosen = cells[..., None, None, None].expand_as(record.alpha)
    moving = chosen & moving_pixels(record.alpha)
    error = (grids - record.rgb).square()

    def db(pixels: Tensor) -> float:
        return -10 * error[pixels.expand_as(error)].mean().log10().item()

    share = sharpness(grids, moving) / sharpness(record.rgb, moving)
    return Row(method, db(chosen), db(moving), share, flicker(grids, record), reprojection_error(grids, record))


def compare(
    upsampler: Upsampler, model: FourRealVideo, record: SceneRecord, steps: Sequence[int] = (1, 8), tau: float = 0.0
) -> dict[str, tuple[list[Row], dict[str, Grids]]]:
    """Bicubic interpolation and the upsampler, on true small grids (all cells) and on generated ones (unseen cells)."""
    small, tables = shrink(record.rgb, upsampler.config.factor), {}
    unseen = ~known_cells(*record.rgb.shape[1:3])
    inputs = {"true small frames": (small, 0.0, torch.ones_like(unseen))}
    inputs |= {f"generated in {steps_label(n)}": (predict(model, small, n), tau, unseen) for n in steps}
    for name, (grids, level, cells) in inputs.items():
        large = {"truth": record.rgb, "bicubic": bicubic(grids, upsampler.config.factor).clamp(0, 1)}
        for n in steps:
            large[f"upsampler, {steps_label(n)}"] = enlarge(upsampler, grids, n, level)
        tables[name] = [measure(method, g, record, cells) for method, g in large.items()], large
    return tables


@dataclass(frozen=True)
class Upsampling:
    """Measure the upsampler against bicubic interpolation and the truth."""

    weights: str = "toy"
    """The upsampler's weights are "toy", or a folder that `fourd train --system upsampler` wrote."""
    grid_weights: str = "toy"
    """The model with these weights makes the grids that are enlarged too."""
    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """The grids' size comes from this preset."""
    scenes: int = 32
    """So many held-out scenes of each family are the test."""
    families: tuple[str, ...] = ("simple", "hard")
    """The test is of these families of `data.procedural`."""
    tau: float = 0.0
    """Generated small frames have this noise augmentation."""
    out: Path | None = None
    """`upsampler.md`, `.json` and `.png` go into this folder; by default the tables are only printed."""

    def run(self) -> None:
        """Print every table, and write them where asked."""
        upsampler, model = Upsampler.from_pretrained(self.weights), FourRealVideo.from_pretrained(self.grid_weights)
        (h, w), (small_h, small_w) = upsampler.config.dit.image_size, upsampler.config.small_size
        page = Page("upsampler", self.out)
        page.say(
            f"{small_h}x{small_w} to {h}x{w} pixels, {self.scenes} held-out scenes per family, weights "
            f"'{self.weights}', CPU, seed 0, tau {self.tau:g} for generated frames. "
            f"{made_by('python -m figures.upsampler')}",
            "PSNR in dB is pooled, over all cells where the small frames are true, over unseen cells where they are "
            "generated. Sharpness: mean squared gradient over moving pixels, as a share of the truth's. Flicker and "
            "reprojection error: beside the truth's.",
        )
        numbers = {}
        for family in self.families:
            record = held_out_large(upsampler, UPSAMPLERS[self.preset], family, self.scenes)
            for name, (rows, large) in compare(upsampler, model, record, tau=self.tau).items():
                page.say(f"### Family {family}, {name}", markdown(rows))
                numbers[f"{family}, {name}"] = [asdict(row) for row in rows]
                if self.out and family == self.families[0] and name.endswith("frames"):
                    self._picture(record.rgb, large, upsampler.config.factor)
        page.write(numbers)

    def _picture(self, truth: Grids, large: dict[str, Grids], factor: int) -> None:
        shown = {"small": shrink(truth, factor).repeat_interleave(factor, -1).repeat_interleave(factor, -2)}
        shown |= {name: grids for name, grids in large.items() if name != "truth"} | {"truth": truth}
        compare_sheet({name: grids[0] for name, grids in shown.items()}, self.out / "upsampler.png", scale=1)


def markdown(rows: Sequence[Row]) -> str:
    """A table for a page."""
    cells = []
    for r in rows:
        quality = (f"{r.all_pixels:.2f}", f"{r.moving_pixels:.2f}") if r.method != "truth" else ("", "")
        cells.append([r.method, *quality, f"{r.sharpness:.2f}", f"{r.flicker:.4f}", f"{r.reprojection:.4f}"])
    return table(["", "all, dB", "moving, dB", "sharpness", "flicker", "reprojection"], cells)


if __name__ == "__main__":
    program(Upsampling)
