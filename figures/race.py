"""Every baseline and both papers' systems on the same held-out scenes, with the same seconds each.

    video    a video of an object becomes a scene            asked: what eight cameras between the sampled ones see
    grid    a fixed-view and a freeze-time video           asked: the cells that neither of them shows

Seconds are of one scene, from the given videos to the last render, and on a CPU of this process, so that a busy machine
does not matter; training the priors, which all share, is not counted. A budget becomes a number of steps once, by runs
of growing length on a scene outside the exam. The number is kept in the folder of the runs, so that what follows is
repeatable; the seconds that were really taken stand in the table. A sampler takes `SAMPLER` steps at most, and is shown
with one step as well, which gives the mean of what may be there.

Everything finished is a file in that folder: the same line again goes on, and several processes may share the methods.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from figures.ablation_runs import slug
from figures.distil_ablation import BETWEEN, CAMERAS, recorded
from figures.four_diffusion import asset_turn
from figures.interpolation import interpolate
from fourd_minimal.baselines import (
    consistent_4d,
    dream_gaussian_4d,
    four_d_fy,
    four_real,
    image_dream,
    independent_columns,
    sequential,
)
from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.cli.assets import named_clip
from fourd_minimal.configs.presets import device
from fourd_minimal.configs.scene_distillation import SCENES
from fourd_minimal.data.gltf import render_asset
from fourd_minimal.data.procedural import FOV_DEG, HELD_OUT, sample_scenes
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.pretrained.perceptual import lpips_vgg
from fourd_minimal.systems.conditioning import known_cells
from fourd_minimal.systems.deformable_gaussians import fit
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.scene_distillation import SceneConfig, optimise_steps
from fourd_minimal.systems.weights import fingerprint, load_weights, save_weights, write_text
from fourd_minimal.training.evaluation import TRIVIAL, moving_pixels, predict
from fourd_minimal.training.multiview_evaluation import PASTE

Views = Float[Tensor, "v t 3 h w"]
Task = Literal["video", "grid"]
PILOT = HELD_OUT + 1_000_000
"""Seed of the scene that budgets are measured on; not in the exam."""
SAMPLER = 32
FAMILIES = "simple", "hard"
REAL, ONE_STEP = "real assets", ", 1 step"


class Exam(NamedTuple):
    """What is given, what is asked, and the truth."""

    name: str
    group: str
    given: tuple[Tensor, ...]
    """A video; or a fixed-view and a freeze-time video. In [0, 1]."""
    truth: Views
    counted: Bool[Tensor, "v t 1 h w"]
    """Pixels of the object, of cells that were not given."""
    asked: Bool[Tensor, "v t"]
    c2w: Float[Tensor, "v 4 4"]
    fov_deg: float


def video_exam(name: str, group: str, video: Tensor, truth: Views, model: FourDM) -> Exam:
    """The object: what it covers in any frame of the view."""
    on = (truth.amin(2, keepdim=True) < 0.99).amax(1, keepdim=True).expand(-1, truth.shape[1], -1, -1, -1)
    c2w = circular_trajectory(BETWEEN, model.config.elevation_deg, model.config.radius)
    asked = torch.ones(truth.shape[:2], dtype=torch.bool)
    return Exam(name, group, (video,), truth, on, asked, c2w, FOV_DEG)


def grid_exam(name: str, group: str, record: SceneRecord) -> Exam:
    """The object: what it covers now, or at first in the same view."""
    truth, asked = record.rgb[0], ~known_cells(*record.rgb.shape[1:3])
    counted = moving_pixels(record.alpha)[0] & asked[..., None, None, None]
    return Exam(name, group, (truth[0], truth[:, 0]), truth, counted, asked, record.c2w[0], record.fov_deg)


@dataclass(frozen=True)
class Priors:
    """What all methods share; each is loaded when it is first asked for."""

    four_dm_weights: str = "toy"
    grid_weights: str = "toy"
    preset: str = "cpu"

    @cached_property
    def four_dm(self) -> FourDM:
        """The multi-view video model."""
        return FourDM.from_pretrained(self.four_dm_weights).to(device())

    @cached_property
    def base(self) -> FourDM:
        """The same without motion modules."""
        return FourDM.from_pretrained(self.four_dm_weights, motion=False).to(device())

    @cached_property
    def perceptual(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The anchor's distance."""
        return lpips_vgg(device()).distance

    @property
    def scene(self) -> SceneConfig:
        """Settings of a video that becomes a scene."""
        return SCENES[self.preset]

    def grid(self, design: str = "soft", frozen: bool = True) -> FourRealVideo:
        """A model that completes grids."""
        if (design, frozen) not in self._grids:
            self._grids[design, frozen] = FourRealVideo.from_pretrained(self.grid_weights, design, frozen).to(device())
        return self._grids[design, frozen]

    @cached_property
    def _grids(self) -> dict[tuple[str, bool], FourRealVideo]:
        return {}

    def settings(self) -> dict[str, str]:
        """What results depend on beside the method."""
        grids = {str(f): fingerprint(self.grid(frozen=f)) for f in (True, False)}
        return dict(preset=self.preset, device=device().type, four_dm=fingerprint(self.four_dm)) | grids


class Method(NamedTuple):
    """One line of the table."""

    make: Callable[[Priors, Exam, int, int], Views]
    """Priors, exam, steps, seed -> what every camera sees at every moment."""
    steps: int | None = None
    """As many; from the budget when left out."""
    most: int = 1_000_000


@torch.no_grad()
def seen(scene: Any, exam: Exam) -> Views:
    """What the exam's cameras see of a scene, at its moments."""
    views, frames, size = len(exam.c2w), exam.truth.shape[1], tuple(exam.truth.shape[-2:])
    c2w = exam.c2w.to(device())[:, None].expand(-1, frames, 4, 4)
    times = torch.linspace(0, 1, frames, device=c2w.device).expand(views, -1)
    return scene.render(c2w, exam.fov_deg, times, size).rgb.clamp(0, 1)


def last(steps: Iterable[Any]) -> Any:
    """What an optimisation ends with."""
    *_, scene = steps
    return scene


def _four_diffusion(anchor: float, priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    config = image_dream.stretched(replace(priors.scene, anchor=anchor), n)
    perceptual = priors.perceptual if anchor else None
    return seen(last(optimise_steps(exam.given[0], priors.four_dm, config, perceptual, seed=seed)).scene, exam)


def _plain_fit(priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    config = replace(priors.scene, n_steps=0, fit_steps=n, sampled_views=8, anchor=0.0)
    return seen(last(optimise_steps(exam.given[0], priors.four_dm, config, seed=seed)).scene, exam)


def _image_dream(priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    config = replace(priors.scene, anchor=0.0)
    return seen(last(image_dream.optimise_steps(exam.given[0], priors.base, n, seed, config=config)), exam)


def _four_d_fy(priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    options = dict(base=priors.base, nerf=priors.scene.nerf)
    return seen(last(four_d_fy.optimise_steps(exam.given[0], priors.four_dm, n, seed, **options)), exam)


def _consistent_4d(priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    return seen(last(consistent_4d.optimise_steps(exam.given[0], priors.base, n, seed, interpolate)), exam)


def _dream_gaussian(priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    return seen(last(dream_gaussian_4d.optimise_steps(exam.given[0], priors.base, n, seed)), exam)


def _trivial(name: str) -> Method:
    return Method(lambda priors, exam, n, seed: TRIVIAL[name](exam.truth[None])[0], steps=0)


def _sampled(model: FourRealVideo, exam: Exam, n: int, seed: int) -> Views:
    return predict(model, exam.truth[None], n, seed)[0]


def _soft(frozen: bool, priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    return _sampled(priors.grid(frozen=frozen), exam, n, seed)


def _sequential(priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    return sequential.complete(*exam.given, priors.grid("sequential_attention"), n, seed)


def _columns(priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    return independent_columns.complete(*exam.given, priors.grid(), n, seed)


def _columns_that_try(priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    return independent_columns.complete(*exam.given, priors.grid(), n, seed, shared_noise=True, candidates=4)


def _four_real(priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    cameras = exam.c2w.to(device()), exam.fov_deg
    return seen(last(four_real.optimise_steps(*exam.given, priors.grid(), *cameras, n, seed)), exam)


def _gaussians_of_the_grid(priors: Priors, exam: Exam, n: int, seed: int) -> Views:
    grid = _sampled(priors.grid(frozen=False), exam, 1, seed).to(device())
    return seen(fit(grid, exam.c2w.to(grid), exam.fov_deg, n_steps=n, seed=seed), exam)


def _with(function: Callable, first: Any) -> Callable[[Priors, Exam, int, int], Views]:
    return lambda *rest: function(first, *rest)


def _sampler(name: str, make: Callable[[Priors, Exam, int, int], Views]) -> dict[str, Method]:
    return {name: Method(make, most=SAMPLER), name + ONE_STEP: Method(make, steps=1)}


FOUR_DIFFUSION, FOUR_REAL_VIDEO = "4Diffusion", "4Real-Video, base frozen"
METHODS: dict[Task, dict[str, Method]] = {
    "video": {
        PASTE: Method(lambda priors, exam, n, seed: exam.given[0].expand_as(exam.truth), steps=0),
        "plain fit of 8 sampled views": Method(_plain_fit),
        "4D-fy": Method(_four_d_fy),
        "Consistent4D": Method(_consistent_4d),
        "DreamGaussian4D": Method(_dream_gaussian),
        "ImageDream, frame by frame": Method(_image_dream),
        f"{FOUR_DIFFUSION}, without the anchor": Method(_with(_four_diffusion, 0.0)),
        FOUR_DIFFUSION: Method(_with(_four_diffusion, 0.01)),
    },
    "grid": {
        **{name: _trivial(name) for name in TRIVIAL},
        **_sampler("independent columns (MotionCtrl's way)", _columns),
        "... of the noise, of 4, that best makes the first": Method(_columns_that_try, most=SAMPLER),
        **_sampler("sequential attention (SV4D's way)", _sequential),
        "direct optimisation (4Real's way)": Method(_four_real),
        **_sampler(FOUR_REAL_VIDEO, _with(_soft, True)),
        **_sampler("4Real-Video, base trained too (ours)", _with(_soft, False)),
        "... its 1 step, then Gaussians": Method(_gaussians_of_the_grid),
    },
}


def chosen_methods(task: Task, parts: Sequence[str]) -> dict[str, Method]:
    """Those whose name has one of the parts in it; all without any."""
    return {n: m for n, m in METHODS[task].items() if not parts or any(part in n for part in parts)}


@dataclass(frozen=True)
class Made:
    """What a file in the folder of the runs holds."""

    task: Task
    method: str
    exam: str
    seed: int
    steps: int


class Entry(NamedTuple):
    """One method on one exam, with one seed."""

    made: Made
    views: Views
    seconds: float


@dataclass(frozen=True)
class Race:
    """Exams, methods, seeds, budgets, and where all of it is kept."""

    priors: Priors
    folder: Path
    scenes: int = 8
    seeds: tuple[int, ...] = (0,)
    seconds: tuple[tuple[Task, float], ...] = (("video", 45.0), ("grid", 10.0))
    assets: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def run(self) -> Iterator[Entry]:
        """Make what is missing, and yield everything.

        Raises:
            ValueError: the folder has results of another preset, other weights, another device or another budget.
        """
        path, now = self.folder / "settings.json", self.priors.settings()
        if path.exists() and (before := json.loads(path.read_text(encoding="utf-8"))) != now:
            changed = ", ".join(name for name in now if now[name] != before.get(name))
            raise ValueError(f"--runs has results of other settings ({changed}); expected another folder.")
        write_text(path, json.dumps(now))
        for task, seconds in self.seconds:
            exams, chosen = self.exams(task), chosen_methods(task, self.only)
            with tqdm(total=len(chosen) * len(exams) * len(self.seeds), desc=task, unit="scene") as progress:
                for name, method in chosen.items():
                    steps = self._steps(task, name, method, seconds)
                    for exam in exams:
                        for seed in self.seeds:
                            yield self._entry(Made(task, name, exam.name, seed, steps), method, exam)
                            progress.update()

    def exams(self, task: Task) -> list[Exam]:
        """Held-out scenes, then real assets."""
        return self._videos() if task == "video" else self._grids()

    def _videos(self) -> list[Exam]:
        model, exams = self.priors.four_dm, []
        for i in range(self.scenes):
            exams.append(self._creature(f"creature {i}", HELD_OUT + i))
        for asset in self.assets:
            videos = asset_turn(model.config, asset, 2 * CAMERAS).rgb[0]
            exams.append(video_exam(_named(asset), REAL, videos[0], videos[1::2], model))
        return exams

    def _creature(self, name: str, seed: int) -> Exam:
        around, between = recorded(self.priors.four_dm, seed)
        return video_exam(name, "creatures", around[0], between, self.priors.four_dm)

    def _grids(self) -> list[Exam]:
        exams = []
        for family in FAMILIES:
            exams += [self._grid(f"{family} {i}", family, HELD_OUT + i) for i in range(self.scenes)]
        model = self.priors.grid()
        for asset in self.assets:
            path, clip = named_clip(asset)
            record = render_asset(path, model.views, model.times, model.image_size[0], clip, time_range=(0.0, 0.5))
            exams.append(grid_exam(_named(asset), REAL, record))
        return exams

    def _grid(self, name: str, family: str, seed: int) -> Exam:
        model = self.priors.grid()
        record = sample_scenes(1, model.views, model.times, model.image_size, seed, family)
        return grid_exam(name, family, record)

    def _pilot(self, task: Task) -> Exam:
        return self._creature("pilot", PILOT) if task == "video" else self._grid("pilot", "hard", PILOT)

    def _steps(self, task: Task, name: str, method: Method, seconds: float) -> int:
        """How many fit into the budget; measured once."""
        if method.steps is not None:
            return method.steps
        path = self.folder / f"steps_{task}_{slug(name)}.json"
        if not path.exists():
            exam = self._pilot(task)
            steps = steps_within(seconds, lambda n: self._make(method, exam, n, 0), method.most)
            write_text(path, json.dumps(dict(seconds=seconds, steps=steps)))
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["seconds"] != seconds:
            raise ValueError(f"--runs has {path} for {known['seconds']:g} seconds; expected another folder.")
        return known["steps"]

    def _make(self, method: Method, exam: Exam, steps: int, seed: int) -> Views:
        on_device = exam._replace(given=tuple(video.to(device()) for video in exam.given))
        return method.make(self.priors, on_device, steps, seed).detach().cpu()

    def _entry(self, made: Made, method: Method, exam: Exam) -> Entry:
        path = self.folder / f"{made.task}_{slug(made.method)}_{slug(made.exam)}_{made.seed}.safetensors"
        if not path.exists():
            began = clock()
            views = self._make(method, exam, made.steps, made.seed)
            save_weights(path, {"views": views}, made, seconds=clock() - began)
        tensors, saved, notes = load_weights(path, Made)
        if saved != made:
            raise ValueError(f"--runs has {path} of {saved.steps} steps, not {made.steps}; expected another folder.")
        views = torch.where(exam.asked[..., None, None, None], tensors["views"], exam.truth)  # what was given is known
        return Entry(made, views, notes["seconds"])


def clock() -> float:
    """Seconds: on the wall with a GPU, else of this process."""
    return time.perf_counter() if device().type == "cuda" else time.process_time()


def steps_within(seconds: float, run: Callable[[int], Any], most: int, fewest: int = 8) -> int:
    """How many steps a budget holds, if a run costs a fixed part and so much for each step.

    Runs grow threefold until steps take a third of what the fixed part leaves; the last and the first say what a step
    costs.

    Args:
        seconds: of a whole run.
        run: runs so many steps.
        most, fewest: no more and no less than these.
    """

    def took(n: int) -> float:
        began = clock()
        run(n)
        return clock() - began

    n = few = min(fewest, most)
    run(few)  # the first time is the slowest
    now = first = took(few)
    while n < most and now - first < (seconds - first) / 3:
        n = min(most, 3 * n)
        now = took(n)
    if n == most and now <= seconds:
        return most
    each = (now - first) / max(1, n - few)
    return few if now <= first else max(few, min(most, n + int((seconds - now) / each)))


def _named(asset: str) -> str:
    """`khronos_Fox.glb#Walk` is "khronos_Fox Walk"."""
    path, clip = named_clip(asset)
    return f"{path.stem} {clip or ''}".strip()
