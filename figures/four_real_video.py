"""Grids of 4Real-Video against the truth, and against completions that need no model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from figures.grid_tables import Row, best_trivial, evaluate_base, evaluate_grids, held_out_characters, markdown
from figures.page import Page
from fourd_minimal.cli.assets import named_clip
from fourd_minimal.cli.main import program
from fourd_minimal.data.gltf import render_asset
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.training.evaluation import gain_interval, held_out, moving_pixels
from fourd_minimal.training.tables import made_by
from fourd_minimal.viewers.contact_sheet import compare_sheet

OURS, PAPERS = "soft sync, base trained too, 8 steps", "soft sync, base frozen, 8 steps"


@dataclass(frozen=True)
class Evaluate:
    """Measure trained weights against the truth and against completions that need no model."""

    weights: str = "toy"
    """The weights are "toy", or a folder that `fourd train` wrote."""
    scenes: int = 64
    """So many held-out procedural scenes of each family are the test."""
    families: tuple[str, ...] = ("simple", "hard")
    """The test is of these families of `data.procedural`."""
    characters: tuple[Literal["validation", "public-test"], ...] = ()
    """The test is also of these splits of the animated characters, `scenes` clips each, of rig families that no
    training saw."""
    assets: tuple[str, ...] = ()
    """Animated glTF assets are tested over the first half of a clip: `Fox.glb`, or `Fox.glb#Walk` to choose one."""
    out: Path | None = None
    """Tables (`four_real_video.md`, `.json`) and pictures go into this folder; by default they are only printed."""

    def run(self) -> None:
        """Print every table, and write them where asked."""
        model = FourRealVideo.from_pretrained(self.weights)
        size, (h, w) = f"{model.views}x{model.times}", model.image_size
        tables: dict[str, list[Row]] = {}
        page = Page("four_real_video", self.out)
        page.say(
            f"Unseen cells of {size} grids of {h}x{w} pixels; pooled PSNR; weights '{self.weights}', CPU, seed 0. "
            f"{made_by('python -m figures.four_real_video')}"
        )
        for family in self.families:
            record = held_out(model, family, self.scenes)
            page.say(*self._table(f"{self.scenes} held-out scenes, family {family}", family, record, tables))
            if family == self.families[0]:
                base = FourRealVideo.from_pretrained(self.weights, "weighted")
                for name, rows in evaluate_base(base, record).items():
                    title = f"The base alone: a {name} from its first and last frames, family {family}"
                    tables[title] = rows
                    page.say(f"### {title}", markdown(rows))
        for split in self.characters:
            record = held_out_characters(model, split, self.scenes)
            page.say(*self._table(f"{self.scenes} clips of animated characters, {split}", split, record, tables))
        for asset in self.assets:
            path, clip = named_clip(asset)
            record = render_asset(path, model.views, model.times, h, clip, time_range=(0.0, 0.5))
            page.say(*self._table(f"Asset {path.stem} {clip or ''}".strip(), path.stem, record, tables))
        page.write({title: [asdict(row) for row in rows] for title, rows in tables.items()})

    def _table(self, title: str, name: str, record: SceneRecord, tables: dict[str, list[Row]]) -> list[str]:
        """One table of the report, and its picture."""
        rows, grids = evaluate_grids(self.weights, record)
        tables[title] = rows
        trivial = best_trivial(rows)
        shown = {"truth": record.rgb[0]}
        verdict = [f"On moving pixels, gained over the best trivial ({trivial.method}):"]
        for method in (n.replace("8 steps", s) for n in (OURS, PAPERS) for s in ("1 step", "2 steps", "8 steps")):
            if method not in grids:
                continue
            shown.setdefault("generated", grids.get(OURS, grids[method])[0])
            gain = next(r for r in rows if r.method == method).moving_pixels - trivial.moving_pixels
            line = f"- {method}: {gain:+.2f} dB"
            if len(record.rgb) > 1:
                low, high = gain_interval(grids[method], grids[trivial.method], record.rgb, moving_pixels(record.alpha))
                line += f", 95% interval over scenes {low:+.2f} to {high:+.2f}"
            verdict.append(line)
        if self.out:
            shown[trivial.method] = grids[trivial.method][0]
            compare_sheet(shown, self.out / f"four_real_video_{name}.png", scale=3)
        return [f"### {title}", markdown(rows), "\n".join(verdict)]


if __name__ == "__main__":
    program(Evaluate)
