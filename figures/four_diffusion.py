"""The numbers of the multi-view side: its base on single pictures, 4DM on videos, real assets and real videos."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from figures.page import Page, check_counts
from fourd_minimal.cli.assets import named_clip
from fourd_minimal.cli.main import program
from fourd_minimal.data.foreground import read_object
from fourd_minimal.data.gltf import render_asset
from fourd_minimal.data.procedural import FOV_DEG, HELD_OUT, RADIUS
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.data.video import count_frames
from fourd_minimal.systems.four_diffusion import FourDM, FourDMConfig
from fourd_minimal.training.evaluation import in_words
from fourd_minimal.training.four_diffusion import orbits
from fourd_minimal.training.multiview_evaluation import (
    OURS,
    OWN,
    PASTE,
    SHARED,
    Score,
    compare,
    gain,
    score_table,
)
from fourd_minimal.training.tables import made_by, table
from fourd_minimal.viewers.contact_sheet import picture_rows

ASSET = "Real asset: "
QUESTIONS = {
    "4DM against its base, noise of its own": (OURS, OWN),
    "4DM against its base, shared noise": (OURS, SHARED),
    "4DM against pasting the video": (OURS, PASTE),
    "its base, noise of its own, against pasting": (OWN, PASTE),
}


@dataclass(frozen=True)
class EvaluateFourDM:
    """Score 4DM and its base against the truth, on held-out creatures and on what else is given."""

    weights: str = "toy"
    """4DM's weights are "toy", or a folder that `fourd train --system four-diffusion` wrote."""
    scenes: int = 16
    """So many held-out creatures are the test."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Videos are sampled with each of these seeds, at most ten."""
    steps: int = 10
    """Sampling takes so many steps."""
    guidance: float = 2.0
    assets: tuple[str, ...] = ()
    """Animated assets, `Fox.glb#Walk`, show how far from home the toy may go."""
    videos: tuple[Path, ...] = ()
    """Videos of objects are in the picture only; they have no truth."""
    out: Path | None = None
    """`four_diffusion.md`, `.json` and pictures go into this folder; by default the tables are only printed."""

    def run(self) -> None:
        """Print every table as it comes, and write them where asked.

        Raises:
            ValueError: fewer than two scenes, or no seed.
        """
        check_counts(self, scenes=2, steps=1)
        page, numbers, pictures = Page("four_diffusion", self.out), {}, {}
        model, base = (FourDM.from_pretrained(self.weights, motion) for motion in (True, False))
        cfg = model.config
        page.say(
            f"4DM and its base, weights '{self.weights}', {cfg.image_size} pixels, {cfg.views} views, {self.steps} "
            f"steps, guidance {self.guidance:g}, {len(self.seeds)} sampling seeds (± is half of the 95% interval over "
            f"them), CPU. {made_by('python -m figures.four_diffusion')} "
            "The object: every pixel that it covers in any frame of the view."
        )
        tests = {
            f"The base on single pictures of {self.scenes} held-out creatures": self._creatures(cfg, 1),
            f"Videos of {cfg.times} frames of {self.scenes} held-out creatures": self._creatures(cfg, cfg.times),
            **{f"{ASSET}{asset}": asset_orbit(cfg, asset) for asset in self.assets},
        }
        for name, (truth, video, cameras) in tests.items():
            scores, first = [], {}
            for found, made in compare(model, base, truth, video, cameras, self.steps, self.guidance, self.seeds):
                scores.append(found)
                first.setdefault(found.method, made)
            page.say(f"### {name}", score_table(scores))
            if truth.shape[1] > 1 and len(truth) > 1:
                title = f"### {name}: gains, dB, with their 95% interval over scenes and seeds"
                page.say(title, gain_table(scores, QUESTIONS))
            numbers[name] = [asdict(s) for s in scores]
            pictures[name] = (truth + 1) / 2, (video + 1) / 2, first
        page.write(numbers)
        if self.out:
            self._draw(model, pictures)

    def _creatures(self, cfg: FourDMConfig, times: int) -> tuple[Tensor, Tensor, Tensor]:
        return orbits(cfg, self.scenes, times, HELD_OUT + times)

    def _draw(self, model: FourDM, pictures: dict[str, tuple[Tensor, Tensor, dict[str, Tensor]]]) -> None:
        (truth, video, made), (true_views, videos, moving), *assets = pictures.values()
        blank, n = torch.ones_like(video[0]), min(8, self.scenes)
        columns = {0: "video", 2: "truth", len(truth[0, 0]) + 3: "generated"}
        lines = [("", torch.cat([video[i], blank, truth[i, 0], blank, made[OWN][i, 0]])) for i in range(n)]
        picture_rows(lines, self.out / "four_diffusion_base.png", headings=columns)
        lines = []
        for i in range(2):
            lines += [("video", videos[i]), ("truth, second view", true_views[i, :, 1])]
            lines += [(name, moving[name][i, :, 1]) for name in (OWN, SHARED, OURS)]
        picture_rows(lines, self.out / "four_diffusion_video.png")
        lines = []
        for name, (truth, video, made) in zip(list(pictures)[2:], assets, strict=True):
            for moment in (0, len(truth[0]) // 2):
                shown = video[0, moment, None]
                row = torch.cat([shown, blank, truth[0, moment], blank, made[OURS][0, moment]])
                lines.append((named_clip(name.removeprefix(ASSET))[0].stem, row))
        for path in self.videos:
            video = read_object(path, model.config.image_size, min(model.config.times, count_frames(path)))
            views = model.sample(video, n_steps=self.steps, guidance=self.guidance)
            for moment in (0, len(video) // 2):
                empty = blank.expand_as(views[:, moment])  # there is no truth
                lines.append((path.stem, torch.cat([video[moment, None], blank, empty, blank, views[:, moment]])))
        if lines:
            picture_rows(lines, self.out / "four_diffusion_real.png", headings=columns)


def asset_turn(config: FourDMConfig, asset: str, cameras: int, video_azimuth_deg: float = 60.0) -> SceneRecord:
    """A clip of an animated asset (`Fox.glb#Walk`) from so many cameras evenly around it, the video's camera first."""
    path, clip = named_clip(asset)
    around = dict(azimuth_start_deg=video_azimuth_deg, azimuth_sweep_deg=360 * (1 - 1 / cameras))
    options = around | dict(elevation_deg=config.elevation_deg, radius=RADIUS, fov_deg=FOV_DEG)
    options["time_range"] = 0.0, 1 - 1 / config.times
    return render_asset(path, cameras, config.times, config.image_size, clip, **options)


def asset_orbit(
    config: FourDMConfig, asset: str
) -> tuple[Float[Tensor, "1 t v 3 h w"], Float[Tensor, "1 t 3 h w"], Float[Tensor, "1 v 4 4"]]:
    """The same as `multiview.orbits` gives creatures: views, video, poses.

    The views begin half a gap from the video, so that none is the video.
    """
    record = asset_turn(config, asset, 2 * config.views)
    video, views = record.rgb[:, 0] * 2 - 1, record.rgb[:, 1::2] * 2 - 1
    return (
        rearrange(views, "n v t c h w -> n t v c h w"),
        video,
        config.camera_conditioning(torch.cat([record.c2w[:, :1], record.c2w[:, 1::2]], 1)),
    )


def gain_table(scores: Sequence[Score], questions: Mapping[str, tuple[str, str]], judge: bool = True) -> str:
    """Questions down, each with the method that should be better and the other; PSNR over the object, and how much
    nearer the differences are to the truth's; with the verdict where asked for."""
    rows = []
    for question, (better, other) in questions.items():
        gains = (gain(scores, better, other, what) for what in ("error", "first", "second"))
        rows.append([question, *(in_words(found, judge) for found in gains)])
    return table(["", "PSNR, object", "first difference", "second difference"], rows)


if __name__ == "__main__":
    program(EvaluateFourDM)
