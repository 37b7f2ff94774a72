"""Every baseline and both papers' systems on the same held-out scenes, with the same seconds each.

    video   a video of an object becomes a scene           asked: what eight cameras between the sampled ones see
    grid    a fixed-view and a freeze-time video           asked: the cells that neither of them shows

Seconds are of one scene, from the given videos to the last render, and on a CPU of this process, so that a busy machine
does not matter; training the priors, which all share, is not counted. A budget becomes a number of steps once, by runs
of growing length on a scene outside the test set. The number is kept in the folder of the runs, so that what follows is
repeatable; the seconds that were really taken stand in the table. A sampler takes `SAMPLER` steps at most, and is shown
with one step as well, which gives the mean of what may be there.

Everything finished is a file in that folder: the same line again goes on, and several processes may share the methods.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from figures.ablation_runs import slug
from figures.distil_ablation import BETWEEN, CAMERAS, recorded
from figures.four_diffusion import asset_turn
from figures.optical_flow import interpolate
from fourd_minimal.baselines import consistent_4d, dream_gaussian_4d, four_d_fy, four_real, image_dream, sequential
from fourd_minimal.baselines.independent_columns import complete as complete_columns
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
"""Seed of the scene that budgets are measured on; not in the test set."""
SAMPLER = 32
FAMILIES = "simple", "hard"
REAL, ONE_STEP = "real assets", ", 1 step"


class Scene(NamedTuple):
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


def video_scene(name: str, group: str, video: Tensor, truth: Views, model: FourDM) -> Scene:
    """The object: what it covers in any frame of the view."""
    covered = (truth.amin(2, keepdim=True) < 0.99).amax(1, keepdim=True).expand(-1, truth.shape[1], -1, -1, -1)
    c2w = circular_trajectory(BETWEEN, model.config.elevation_deg, model.config.radius)
    return Scene(name, group, (video,), truth, covered, torch.ones(truth.shape[:2], dtype=torch.bool), c2w, FOV_DEG)


def grid_scene(name: str, group: str, record: SceneRecord) -> Scene:
    """The object: what it covers now, or at first in the same view."""
    truth, asked = record.rgb[0], ~known_cells(*record.rgb.shape[1:3])
    counted = moving_pixels(record.alpha)[0] & asked[..., None, None, None]
    return Scene(name, group, (truth[0], truth[:, 0]), truth, counted, asked, record.c2w[0], record.fov_deg)


@dataclass(frozen=True)
class Priors:
    """What all methods share; each is loaded when it is first used."""

    preset: str = "cpu"

    @cached_property
    def four_dm(self) -> FourDM:
        """The multi-view video model."""
        return FourDM.from_pretrained("toy").to(device())

    @cached_property
    def base(self) -> FourDM:
        """The same without motion modules."""
        return FourDM.from_pretrained("toy", motion=False).to(device())

    @cached_property
    def perceptual(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The anchor's distance."""
        return lpips_vgg(device()).distance

    @property
    def scene(self) -> SceneConfig:
        """Settings of a video that becomes a scene."""
        return SCENES[self.preset]

    @staticmethod
    @cache
    def grid(design: str = "soft", frozen: bool = True) -> FourRealVideo:
        """A model that completes grids."""
        return FourRealVideo.from_pretrained("toy", design, frozen).to(device())

    def settings(self) -> dict[str, str]:
        """What results depend on beside the method."""
        grids = {str(frozen): fingerprint(self.grid("soft", frozen)) for frozen in (True, False)}
        return dict(preset=self.preset, device=device().type, four_dm=fingerprint(self.four_dm)) | grids


class Method(NamedTuple):
    """One line of the table."""

    make: Callable[[Priors, Scene, int, int], Views]
    """Priors, scene, steps, seed -> what every camera sees at every moment."""
    steps: int | None = None
    """As many; from the budget when left out."""
    most: int = 1_000_000


@torch.no_grad()
def seen(made: Any, scene: Scene) -> Views:
    """What the cameras of the test see of a scene that was made, at its moments."""
    views, frames, size = len(scene.c2w), scene.truth.shape[1], tuple(scene.truth.shape[-2:])
    c2w = scene.c2w.to(device())[:, None].expand(-1, frames, 4, 4)
    times = torch.linspace(0, 1, frames, device=c2w.device).expand(views, -1)
    return made.render(c2w, scene.fov_deg, times, size).rgb.clamp(0, 1)


def seen_last(steps: Iterable[Any], scene: Scene) -> Views:
    """The same at the end of an optimisation."""
    *_, last = steps
    return seen(getattr(last, "scene", last), scene)


def _distilled(priors: Priors, scene: Scene, n: int, seed: int, anchor: float) -> Views:
    config = image_dream.stretched(replace(priors.scene, anchor=anchor), n)
    perceptual = priors.perceptual if anchor else None
    return seen_last(optimise_steps(scene.given[0], priors.four_dm, config, perceptual, seed=seed), scene)


def _plain_fit(priors: Priors, scene: Scene, n: int, seed: int) -> Views:
    config = replace(priors.scene, n_steps=0, fit_steps=n, sampled_views=8, anchor=0.0)
    return seen_last(optimise_steps(scene.given[0], priors.four_dm, config, seed=seed), scene)


def _image_dream(priors: Priors, scene: Scene, n: int, seed: int) -> Views:
    config = replace(priors.scene, anchor=0.0)
    return seen_last(image_dream.optimise_steps(scene.given[0], priors.base, n, seed, config=config), scene)


def _four_d_fy(priors: Priors, scene: Scene, n: int, seed: int) -> Views:
    options = dict(base=priors.base, nerf=priors.scene.nerf)
    return seen_last(four_d_fy.optimise_steps(scene.given[0], priors.four_dm, n, seed, **options), scene)


def _consistent_4d(priors: Priors, scene: Scene, n: int, seed: int) -> Views:
    return seen_last(consistent_4d.optimise_steps(scene.given[0], priors.base, n, seed, interpolate), scene)


def _dream_gaussian(priors: Priors, scene: Scene, n: int, seed: int) -> Views:
    return seen_last(dream_gaussian_4d.optimise_steps(scene.given[0], priors.base, n, seed), scene)


def _four_real(priors: Priors, scene: Scene, n: int, seed: int) -> Views:
    given = *scene.given, priors.grid(), scene.c2w.to(device()), scene.fov_deg
    return seen_last(four_real.optimise_steps(*given, n, seed), scene)


def _gaussians_of_the_grid(priors: Priors, scene: Scene, n: int, seed: int) -> Views:
    grid = predict(priors.grid("soft", False), scene.truth[None], 1, seed)[0].to(device())
    return seen(fit(grid, scene.c2w.to(grid), scene.fov_deg, n_steps=n, seed=seed), scene)


def _trivial(name: str) -> Method:
    return Method(lambda priors, scene, n, seed: TRIVIAL[name](scene.truth[None])[0], steps=0)


def _soft(frozen: bool) -> Callable[[Priors, Scene, int, int], Views]:
    return lambda priors, scene, n, seed: predict(priors.grid("soft", frozen), scene.truth[None], n, seed)[0]


def _columns(**options: Any) -> Callable[[Priors, Scene, int, int], Views]:
    return lambda priors, scene, n, seed: complete_columns(*scene.given, priors.grid(), n, seed, **options)


def _sequential(priors: Priors, scene: Scene, n: int, seed: int) -> Views:
    return sequential.complete(*scene.given, priors.grid("sequential_attention"), n, seed)


def _sampler(name: str, make: Callable[[Priors, Scene, int, int], Views]) -> dict[str, Method]:
    return {name: Method(make, most=SAMPLER), name + ONE_STEP: Method(make, steps=1)}


FOUR_DIFFUSION, FOUR_REAL_VIDEO = "4Diffusion", "4Real-Video, base frozen"
METHODS: dict[Task, dict[str, Method]] = {
    "video": {
        PASTE: Method(lambda priors, scene, n, seed: scene.given[0].expand_as(scene.truth), steps=0),
        "plain fit of 8 sampled views": Method(_plain_fit),
        "4D-fy": Method(_four_d_fy),
        "Consistent4D": Method(_consistent_4d),
        "DreamGaussian4D": Method(_dream_gaussian),
        "ImageDream, frame by frame": Method(_image_dream),
        f"{FOUR_DIFFUSION}, without the anchor": Method(lambda *given: _distilled(*given, anchor=0.0)),
        FOUR_DIFFUSION: Method(lambda *given: _distilled(*given, anchor=0.01)),
    },
    "grid": {
        **{name: _trivial(name) for name in TRIVIAL},
        **_sampler("independent columns (MotionCtrl's way)", _columns()),
        "... of the noise, of 4, that best makes the first": Method(
            _columns(shared_noise=True, candidates=4), most=SAMPLER
        ),
        **_sampler("sequential attention (SV4D's way)", _sequential),
        "direct optimisation (4Real's way)": Method(_four_real),
        **_sampler(FOUR_REAL_VIDEO, _soft(True)),
        **_sampler("4Real-Video, base trained too (ours)", _soft(False)),
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
    scene: str
    seed: int
    steps: int


class Result(NamedTuple):
    """One method on one scene, with one seed."""

    made: Made
    views: Views
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Scenes, methods, seeds, budgets, and where all of it is kept."""

    priors: Priors
    folder: Path
    scenes: int = 8
    seeds: tuple[int, ...] = (0,)
    seconds: tuple[tuple[Task, float], ...] = (("video", 45.0), ("grid", 10.0))
    assets: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def run(self) -> Iterator[Result]:
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
            scenes, chosen = self.held_out(task), chosen_methods(task, self.only)
            with tqdm(total=len(chosen) * len(scenes) * len(self.seeds), desc=task, unit="scene") as progress:
                for name, method in chosen.items():
                    steps = self._steps(task, name, method, seconds)
                    for scene in scenes:
                        for seed in self.seeds:
                            yield self._result(Made(task, name, scene.name, seed, steps), method, scene)
                            progress.update()

    def held_out(self, task: Task) -> list[Scene]:
        """Held-out scenes, then real assets."""
        if task == "video":
            model = self.priors.four_dm
            scenes = [self._creature(f"creature {i}", HELD_OUT + i) for i in range(self.scenes)]
            for asset in self.assets:
                videos = asset_turn(model.config, asset, 2 * CAMERAS).rgb[0]
                scenes.append(video_scene(_named(asset), REAL, videos[0], videos[1::2], model))
            return scenes
        model = self.priors.grid()
        scenes = [self._grid(f"{name} {i}", name, HELD_OUT + i) for name in FAMILIES for i in range(self.scenes)]
        for asset in self.assets:
            path, clip = named_clip(asset)
            record = render_asset(path, model.views, model.times, model.image_size[0], clip, time_range=(0.0, 0.5))
            scenes.append(grid_scene(_named(asset), REAL, record))
        return scenes

    def _creature(self, name: str, seed: int) -> Scene:
        around, between = recorded(self.priors.four_dm, seed)
        return video_scene(name, "creatures", around[0], between, self.priors.four_dm)

    def _grid(self, name: str, family: str, seed: int) -> Scene:
        model = self.priors.grid()
        return grid_scene(name, family, sample_scenes(1, model.views, model.times, model.image_size, seed, family))

    def _steps(self, task: Task, name: str, method: Method, seconds: float) -> int:
        """How many fit into the budget; measured once."""
        if method.steps is not None:
            return method.steps
        path = self.folder / f"steps_{task}_{slug(name)}.json"
        if not path.exists():
            pilot = self._creature("pilot", PILOT) if task == "video" else self._grid("pilot", "hard", PILOT)
            steps = steps_within(seconds, lambda n: self.make(method, pilot, n, 0), method.most)
            write_text(path, json.dumps(dict(seconds=seconds, steps=steps)))
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["seconds"] != seconds:
            raise ValueError(f"--runs has {path} for {known['seconds']:g} seconds; expected another folder.")
        return known["steps"]

    def make(self, method: Method, scene: Scene, steps: int, seed: int) -> Views:
        """What a method makes, on the CPU."""
        on_device = scene._replace(given=tuple(video.to(device()) for video in scene.given))
        return method.make(self.priors, on_device, steps, seed).detach().cpu()

    def _result(self, made: Made, method: Method, scene: Scene) -> Result:
        path = self.folder / f"{made.task}_{slug(made.method)}_{slug(made.scene)}_{made.seed}.safetensors"
        if not path.exists():
            began = clock()
            views = self.make(method, scene, made.steps, made.seed)
            save_weights(path, {"views": views}, made, seconds=clock() - began)
        tensors, saved, notes = load_weights(path, Made)
        if saved != made:
            raise ValueError(f"--runs has {path} of {saved.steps} steps, not {made.steps}; expected another folder.")
        views = torch.where(scene.asked[..., None, None, None], tensors["views"], scene.truth)  # the given is known
        return Result(made, views, notes["seconds"])


def clock() -> float:
    """Seconds: on the wall with a GPU, else of this process."""
    return time.perf_counter() if device().type == "cuda" else time.process_time()


def steps_within(seconds: float, run: Callable[[int], Any], most: int, fewest: int = 8) -> int:
    """How many steps a budget holds, if a run costs a fixed part and so much for each step.

    Runs grow threefold until steps take a third of what the fixed part leaves; the last and the first say what a step
    costs. The result lies between `fewest` and `most`.
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
