"""The paper's ablation on equal terms: every design over one frozen base, against the whole truth.

Equal for all arms: the base, the scenes and noise of every training step, the number of steps, the sampler, the test
scenes. Chosen for each arm: the learning rate, by the loss on validation scenes after a short run. Each trained arm
runs once per seed; a seed changes the data and the noise of training. `compare` turns the results into a table.

Everything finished is a file in the folder, so a second call goes on where the first one stopped.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchmetrics.functional.image import structural_similarity_index_measure

from fourd_minimal.configs.four_real_video import FourRealVideoPreset
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.lab.consistency import flicker, hidden_from_fixed_view, reprojection_error
from fourd_minimal.lab.evaluation import TRIVIAL, moving_pixels, predict, squared_errors
from fourd_minimal.lab.training import Batch, batch_loss, noise_levels, train
from fourd_minimal.rectified_flow import add_noise
from fourd_minimal.systems.designs import Design
from fourd_minimal.systems.four_real_video import FourRealVideo, Part, fingerprint, known_cells
from fourd_minimal.systems.weights import whole_file

VALIDATION = HELD_OUT + 500_000
"""First seed of the scenes that choose learning rates: neither trained on nor tested on."""
STUDENT_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Half width of a 95% interval of the mean of n runs, in standard errors (Student's t)."""


@dataclass(frozen=True)
class Arm:
    """One line of the ablation."""

    design: Design
    pseudo: float | None = None
    """Share of the steps on pseudo-4D, the first ones; None: nothing is trained."""
    part: Part = "sync"


SCHEDULE = 0.85
"""The share of pseudo-4D where an arm has both: the paper's 20k of 23k, rounded so that totals stay equal."""
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
    """The one preset of all arms, with what this arm and this run change."""
    assert arm.pseudo is not None
    counts = dict(sync_steps=steps, sync_pseudo_steps=round(arm.pseudo * steps), joint_steps=steps)
    return replace(
        preset, model=replace(preset.model, sync=arm.design), seed=seed, sync_lr=rate, joint_lr=rate, **counts
    )


def validation_batches(preset: FourRealVideoPreset, families: Sequence[str], n: int = 16) -> list[Batch]:
    """One batch of true grids per family, at noise levels as in training."""
    batches, generator = [], torch.Generator().manual_seed(VALIDATION)
    for family in families:
        model = preset.model
        size = model.dit.image_size
        clean = sample_scenes(n, model.views, model.times, size, VALIDATION, family, geometry=False).rgb * 2 - 1
        sigma = noise_levels(preset, n, generator)
        noise = torch.randn(clean.shape, generator=generator)
        seen = known_cells(model.views, model.times).expand(n, -1, -1)
        batches.append(Batch(add_noise(clean, noise, sigma), sigma, seen, clean))
    return batches


def trained(
    arm: Arm, preset: FourRealVideoPreset, base: FourRealVideo, folder: Path, device: str | torch.device
) -> FourRealVideo:
    """One run, resumable while it lasts."""
    *_, last = train(arm.part, preset, folder, base, device=device)
    return last.averaged().to(device)


@torch.no_grad()
def score(grids: Tensor, record: SceneRecord) -> dict[str, list]:
    """What every table is made of: per scene, sums of squared errors and of SSIM over three sets of pixels, and counts.

    all: of unknown cells; moving: see `evaluation`; hidden: surfaces that the fixed view does not show at that time.
    """
    truth = record.rgb
    n, v, t = truth.shape[:3]
    frames = (a.flatten(0, 2) for a in (grids, truth))
    _, ssim = structural_similarity_index_measure(*frames, data_range=1.0, return_full_image=True)
    ssim = ssim.unflatten(0, (n, v, t)).mean(3, keepdim=True)
    everywhere = torch.ones_like(record.alpha, dtype=torch.bool)
    regions = {
        "all": everywhere,
        "moving": moving_pixels(record.alpha),
        "hidden": hidden_from_fixed_view(record),
    }
    result = {}
    for name, pixels in regions.items():
        error, count = squared_errors(grids, truth, pixels)
        chosen = (~known_cells(v, t))[..., None, None, None] & pixels
        similar = torch.where(chosen, ssim, 0.0).flatten(1).sum(1)
        result[name] = [[float(f"{x:.6g}") for x in sums.tolist()] for sums in (error, count, similar)]
    return result | {"flicker": flicker(grids, record), "reprojection": reprojection_error(grids, record)}


@dataclass(frozen=True)
class Ablation:
    """What is run, on what, and where it is kept."""

    preset: FourRealVideoPreset
    base: FourRealVideo
    folder: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 300
    rates: tuple[float, ...] = (7e-4, 2e-3, 6e-3)
    rate_steps: int = 60
    families: tuple[str, ...] = ("simple", "hard")
    scenes: int = 64
    sampler_steps: tuple[int, ...] = (1, 8)
    device: str | torch.device = "cpu"

    def run(self, arms: dict[str, Arm] = ARMS) -> Iterator[str]:
        """Do what is missing, yielding a line for whatever was done.

        Raises:
            ValueError: the folder holds results of other settings.
        """
        self._check_settings()
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
                    folder = self.folder / "running" / f"{slug(name)}_{seed}"
                    yield self._measure(name, seed, arm, trained(arm, preset, self.base, folder, self.device))
                    for file in folder.iterdir():  # the checkpoint, no longer needed
                        file.unlink()

    def records(self) -> dict[str, SceneRecord]:
        """The test scenes."""
        model = self.preset.model
        size = model.dit.image_size
        return {f: sample_scenes(self.scenes, model.views, model.times, size, HELD_OUT, f) for f in self.families}

    def results(self) -> dict[str, list[dict]]:
        """What is there so far: arm or baseline -> one entry per seed."""
        found: dict[str, list[dict]] = {}
        for path in sorted(self.folder.glob("*__*.json")):
            if "scores" in (result := self._read(path)):
                found.setdefault(result["arm"], []).append(result)
        return found

    def _check_settings(self) -> None:
        path, base = self.folder / "settings.json", fingerprint(self.base.base)
        numbers = {k: getattr(self, k) for k in ("steps", "rates", "rate_steps", "families", "scenes", "sampler_steps")}
        now = json.loads(json.dumps(numbers | dict(base=base, preset=asdict(self.preset))))
        before = self._read(path) if path.exists() else now
        changed = [k for k in now if now[k] != before[k]]
        if changed:
            raise ValueError(
                f"{self.folder} holds results of other settings ({', '.join(changed)} differ); use another folder."
            )
        self._write(path, now)

    def _baselines(self) -> Iterator[str]:
        candidates = TRIVIAL | {"truth": lambda grids: grids}
        for name, complete in candidates.items():
            if not self._path(name, 0).exists():
                by_family = {family: score(complete(r.rgb), r) for family, r in self.records().items()}
                scores = {f"{family}, {n}": s for family, s in by_family.items() for n in self.sampler_steps}
                yield self._write(self._path(name, 0), dict(arm=name, seed=0, scores=scores, parameters=0, flops=0))

    def _choose_rate(self, name: str, arm: Arm) -> Iterator[str]:
        path = self._path(name, "rate")
        if path.exists():
            return
        losses = {}
        batches = validation_batches(self.preset, self.families)
        for rate in self.rates:
            preset = preset_of(arm, self.preset, self.rate_steps, rate, seed=len(self.seeds) + 100)
            folder = self.folder / "running" / f"{slug(name)}_rate_{rate:g}"
            model = trained(arm, preset, self.base, folder, self.device)
            with torch.no_grad():
                losses[rate] = batch_loss(model, batches, self.device).item()
        best = min(losses, key=losses.get)
        yield self._write(path, dict(arm=name, rate=best, losses={f"{k:g}": v for k, v in losses.items()}))

    def _measure(self, name: str, seed: int, arm: Arm, model: FourRealVideo) -> str:
        scores = {}
        for family, record in self.records().items():
            for n in self.sampler_steps:
                scores[f"{family}, {n}"] = score(predict(model, record.rgb, n), record)
        parameters = sum(p.numel() for p in model.part(arm.part).parameters())
        result = dict(arm=name, seed=seed, scores=scores, parameters=parameters, flops=flops(model))
        return self._write(self._path(name, seed), result)

    def _path(self, name: str, what: int | str) -> Path:
        return self.folder / f"{slug(name)}__{what}.json"

    @staticmethod
    def _read(path: Path) -> dict:
        return json.loads(path.read_text())

    @staticmethod
    def _write(path: Path, content: dict) -> str:
        with whole_file(path) as draft:
            draft.write_text(json.dumps(content))
        return path.stem


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(c if c.isalnum() else "_" for c in name)


def flops(model: FourRealVideo) -> int:
    """Floating-point operations of one evaluation on one grid: a multiplication and an addition are two."""
    config = model.config
    grid = torch.zeros(1, config.views, config.times, 3, *config.dit.image_size, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.denoise_grid(grid, torch.ones(1, device=grid.device), grid)
    return counter.get_total_flops()


def pooled_ssim(entry: list) -> float:
    """Mean structural similarity over one seed's pixels; three colours share one value."""
    _, count, similar = entry
    return 3 * sum(similar) / sum(count)


def pooled_psnr(entry: list) -> float:
    """PSNR in dB of one seed's pooled error; `entry` as `score` makes it."""
    error, count, _ = entry
    return -10 * torch.tensor(sum(error) / sum(count)).log10().item()


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and half the width of its 95% interval (Student's t); 0 for a single value."""
    if len(values) < 2:
        return mean(values), 0.0
    return mean(values), STUDENT_95.get(len(values), 2.6) * stdev(values) / len(values) ** 0.5


def paired_gain(ours: list[dict], other: list[dict], setting: str, region: str) -> tuple[float, float, float]:
    """PSNR gained over another arm on the same scenes: the gain, and its 95% interval over scenes (paired bootstrap).

    The errors of an arm's seeds are summed first, so the interval speaks of scenes; `interval` speaks of seeds.
    """
    a, b = (torch.tensor([r["scores"][setting][region][0] for r in runs]).mean(0) for runs in (ours, other))
    pick = torch.randint(len(a), (4000, len(a)), generator=torch.Generator().manual_seed(0))
    gains = 10 * (b[pick].sum(1) / a[pick].sum(1)).log10()
    low, high = gains.quantile(torch.tensor([0.025, 0.975])).tolist()
    return 10 * (b.sum() / a.sum()).log10().item(), low, high
