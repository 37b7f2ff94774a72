"""The paper's ablation on equal terms: every design over one frozen base, against the whole truth.

Equal for all arms that train 4D layers: the base, the scenes and noise of every step, the number of steps, the sampler,
the test scenes. (Steps, not computation: its cost stands beside each arm. The unfrozen upper bound draws other scenes.)
Chosen for each arm: the learning rate, by the loss on validation scenes after a shorter run; the search goes on until
a smaller and a larger rate are worse. Each trained arm runs once per seed; a seed changes the data and the noise of
training.

Everything finished is a file in the folder, so a second call goes on where the first one stopped.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fourd_minimal.configs.four_real_video import FourRealVideoPreset
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.rectified_flow import add_noise
from fourd_minimal.systems.conditioning import known_cells
from fourd_minimal.systems.designs import Design
from fourd_minimal.systems.four_real_video import FourRealVideo, Part
from fourd_minimal.systems.weights import fingerprint, whole_file
from fourd_minimal.training.evaluation import (
    TRIVIAL,
    flicker,
    hidden_from_fixed_view,
    moving_pixels,
    predict,
    reprojection_error,
    squared_errors,
)
from fourd_minimal.training.four_real_video import Batch, batch_loss, noise_levels, train
from fourd_minimal.training.loop import Step

VALIDATION = HELD_OUT + 500_000
"""First seed of the scenes that choose learning rates: neither trained on nor tested on."""
RATE_SEED = 1_000
"""Of the runs that choose learning rates."""
RATE_LIMITS = 1e-5, 0.5
"""The search for a learning rate ends here."""


@dataclass(frozen=True)
class Arm:
    """One line of the ablation."""

    design: Design
    pseudo: float | None = None
    """Share of the steps on pseudo-4D, the first ones; None: nothing is trained."""
    part: Part = "sync"


SCHEDULE = 0.85
"""The share of pseudo-4D where an arm has both: the paper's 20k of 23k, rounded."""
ARMS = {
    "sequential, eq. 5": Arm("sequential"),
    "average, eq. 12": Arm("average"),
    "weighted, eq. 13": Arm("weighted"),
    "sequential, attention trained": Arm("sequential_attention", SCHEDULE),
    "sequential, adapter trained": Arm("sequential_adapter", SCHEDULE),
    "hard": Arm("hard", SCHEDULE),
    "hard, as large as soft": Arm("hard_wide", SCHEDULE),
    "soft": Arm("soft", SCHEDULE),
    "soft, pseudo-4D only": Arm("soft", 1.0),
    "soft, 3D only": Arm("soft", 0.0),
    "soft, 3D only, everything unfrozen": Arm("soft", 0.0, "joint"),
}


def preset_of(arm: Arm, preset: FourRealVideoPreset, steps: int, rate: float, seed: int) -> FourRealVideoPreset:
    """The one preset of all arms, with what this trained arm and this run change."""
    counts = dict(sync_steps=steps, sync_pseudo_steps=round(arm.pseudo * steps), joint_steps=steps)
    model = replace(preset.model, sync=arm.design)
    return replace(preset, model=model, seed=seed, sync_lr=rate, joint_lr=rate, **counts)


def next_rate(losses: dict[float, float]) -> float | None:
    """The rate to try next: a third of the smallest or three times the largest, while that one is the best; one digit.

    None when the best is known: it lies between others, or stands alone and was never in question.

    >>> next_rate({2e-3: 1.0, 6e-3: 2.0}), next_rate({7e-4: 3.0, 2e-3: 1.0, 6e-3: 2.0})
    (0.0007, None)
    """
    best = min(losses, key=losses.get)
    outside = {min(losses): best / 3, max(losses): best * 3}
    return float(f"{outside[best]:.0e}") if best in outside and len(losses) > 1 else None


def validation_batches(preset: FourRealVideoPreset, families: Sequence[str], n: int = 16) -> list[Batch]:
    """One batch of true grids per family, at noise levels as in training."""
    batches, generator, cfg = [], torch.Generator().manual_seed(VALIDATION), preset.model
    for family in families:
        size = cfg.dit.image_size
        clean = sample_scenes(n, cfg.views, cfg.times, size, VALIDATION, family, geometry=False).rgb * 2 - 1
        sigma = noise_levels(preset, n, generator)
        noise = torch.randn(clean.shape, generator=generator)
        seen = known_cells(cfg.views, cfg.times).expand(n, -1, -1)
        batches.append(Batch(add_noise(clean, noise, sigma), sigma, seen, clean))
    return batches


@torch.no_grad()
def score(grids: Tensor, record: SceneRecord) -> dict[str, list | float]:
    """What every table is made of.

    all, moving, hidden: over those pixels of unknown cells (see `evaluation.moving_pixels`, `hidden_from_fixed_view`),
    three numbers per scene: the sum of squared errors, how many numbers it sums (three per pixel), and the sum of the
    structural similarity (the usual Gaussian window of 11 pixels, so a toy frame's neighbourhoods are wide).
    flicker, reprojection: one number each, see `evaluation`.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # slow to import: only here

    n, v, t = record.rgb.shape[:3]
    frames = (a.flatten(0, 2) for a in (grids, record.rgb))
    _, ssim = structural_similarity_index_measure(*frames, data_range=1.0, return_full_image=True)
    ssim = ssim.unflatten(0, (n, v, t)).mean(3, keepdim=True)
    regions = {
        "all": torch.ones_like(record.alpha, dtype=torch.bool),
        "moving": moving_pixels(record.alpha),
        "hidden": hidden_from_fixed_view(record),
    }
    result: dict[str, list | float] = {}
    for name, pixels in regions.items():
        error, count = squared_errors(grids, record.rgb, pixels)
        unknown = (~known_cells(v, t))[..., None, None, None] & pixels
        similar = torch.where(unknown, ssim, 0.0).flatten(1).sum(1)
        result[name] = [[float(f"{x:.6g}") for x in sums.tolist()] for sums in (error, count, similar)]
    return result | {"flicker": flicker(grids, record), "reprojection": reprojection_error(grids, record)}


def flops(model: FourRealVideo) -> int:
    """Floating-point operations of one evaluation on one grid: a multiplication and an addition are two."""
    config = model.config
    grid = torch.zeros(1, config.views, config.times, 3, *config.dit.image_size, device=next(model.parameters()).device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.denoise_grid(grid, torch.ones(1, device=grid.device), grid)  # fused attention would not be counted
    return counter.get_total_flops()


@dataclass(frozen=True)
class Ablation:
    """What is run, on what, and where it is kept."""

    preset: FourRealVideoPreset
    """Its seed, and the steps and rates of the stages on grids, are replaced by what stands below."""
    base: FourRealVideo
    folder: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 300
    rates: tuple[float, ...] = (7e-4, 2e-3, 6e-3)
    """Where each arm's search for its learning rate begins."""
    rate_steps: int = 150
    families: tuple[str, ...] = ("simple", "hard")
    scenes: int = 64
    sampler_steps: tuple[int, ...] = (1, 8)
    device: str | torch.device = "cpu"

    def run(self, arms: dict[str, Arm] = ARMS) -> Iterator[str]:
        """Do what is missing, yielding a line for whatever was done; refuses a folder of other settings."""
        self._check_settings(arms)
        yield from self._baselines()
        for name, arm in arms.items():
            if arm.pseudo is None:
                if not self._path(name, 0).exists():
                    model = FourRealVideo(replace(self.preset.model, sync=arm.design)).to(self.device)
                    model.base.load_state_dict(self.base.base.state_dict())
                    yield self._measure(name, 0, arm, model)
                continue
            yield from self._choose_rate(name, arm)
            rate = self._read(self._path(name, "rate"))["rate"]
            for seed in self.seeds:
                if not self._path(name, seed).exists():
                    preset = preset_of(arm, self.preset, self.steps, rate, seed)
                    with self._trained(arm, preset, f"{slug(name)}_{seed}") as last:
                        done = self._measure(name, seed, arm, last.averaged(), rate=rate, seconds=last.seconds)
                    yield done

    def results(self, arms: dict[str, Arm] = ARMS) -> dict[str, list[dict]]:
        """What is there so far of these arms and seeds: baseline or arm -> one entry per seed."""
        found = {}
        for name in ("truth", *TRIVIAL, *arms):
            paths = [self._path(name, seed) for seed in self.seeds]
            found[name] = [self._read(path) for path in paths if path.exists()]
        return {name: runs for name, runs in found.items() if runs}

    @cached_property
    def records(self) -> dict[str, SceneRecord]:
        """The test scenes."""
        cfg = self.preset.model
        shape = self.scenes, cfg.views, cfg.times, cfg.dit.image_size
        return {family: sample_scenes(*shape, HELD_OUT, family) for family in self.families}

    def _check_settings(self, arms: dict[str, Arm]) -> None:
        path = self.folder / "settings.json"
        numbers = {k: getattr(self, k) for k in ("steps", "rates", "rate_steps", "families", "scenes", "sampler_steps")}
        numbers |= dict(base=fingerprint(self.base.base), preset=asdict(self.preset))
        numbers |= {f"arm '{name}'": asdict(arm) for name, arm in arms.items()}
        now = json.loads(json.dumps(numbers))
        before = self._read(path) if path.exists() else {}
        changed = [k for k in now if k in before and now[k] != before[k]]
        if changed:
            raise ValueError(
                f"{self.folder} holds results of other settings ({', '.join(changed)} differ); use another folder."
            )
        self._write(path, before | now)

    def _baselines(self) -> Iterator[str]:
        candidates = {"truth": lambda grids: grids} | TRIVIAL
        for name, complete in candidates.items():
            if not self._path(name, 0).exists():
                by_family = {family: score(complete(r.rgb), r) for family, r in self.records.items()}
                scores = {f"{family}, {n}": s for family, s in by_family.items() for n in self.sampler_steps}
                yield self._write(self._path(name, 0), dict(arm=name, seed=0, scores=scores, parameters=0, flops=0))

    def _choose_rate(self, name: str, arm: Arm) -> Iterator[str]:
        path = self._path(name, "rate")
        if path.exists():
            return
        losses, batches, rates = {}, validation_batches(self.preset, self.families), [*self.rates]
        while rates:
            rate = rates.pop(0)
            preset = preset_of(arm, self.preset, self.rate_steps, rate, RATE_SEED)
            with self._trained(arm, preset, f"{slug(name)}_rate_{rate:g}") as last, torch.no_grad():
                losses[rate] = batch_loss(last.averaged(), batches, self.device).nan_to_num(torch.inf).item()
            if not rates and (wider := next_rate(losses)) and RATE_LIMITS[0] < wider < RATE_LIMITS[1]:
                rates = [wider]
        best = min(losses, key=losses.get)
        yield self._write(path, dict(arm=name, rate=best, losses={f"{k:g}": v for k, v in losses.items()}))

    @contextmanager
    def _trained(self, arm: Arm, preset: FourRealVideoPreset, name: str) -> Iterator[Step[FourRealVideo]]:
        """One training run, resumable until what it is for is done."""
        folder = self.folder / "running" / name
        every = max(1, preset.joint_steps // 5)
        *_, last = train(arm.part, preset, folder, self.base, checkpoint_every=every, device=self.device)
        yield last
        shutil.rmtree(folder)

    def _measure(self, name: str, seed: int, arm: Arm, model: FourRealVideo, **notes: float) -> str:
        scores = {}
        for family, record in self.records.items():
            for n in self.sampler_steps:
                scores[f"{family}, {n}"] = score(predict(model, record.rgb, n), record)
        cost = dict(parameters=sum(p.numel() for p in model.part(arm.part).parameters()), flops=flops(model))
        on = torch.cuda.get_device_name() if "cuda" in str(self.device) else "cpu"
        result = dict(arm=name, seed=seed, device=on, scores=scores)
        return self._write(self._path(name, seed), result | cost | notes)

    def _path(self, name: str, what: int | str) -> Path:
        return self.folder / f"{slug(name)}__{what}.json"

    @staticmethod
    def _read(path: Path) -> dict:
        return json.loads(path.read_text(encoding="utf-8"))

    @staticmethod
    def _write(path: Path, content: dict) -> str:
        with whole_file(path) as draft:
            draft.write_text(json.dumps(content), encoding="utf-8")
        return path.stem


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(c if c.isalnum() else "_" for c in name)
