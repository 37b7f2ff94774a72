"""What a training run will cost, before it starts: memory, hours, and what to change where it does not fit.

    python -m figures.plan --system four_real_video --stage sync --devices 24 --kind A100-80GB
    python -m figures.plan --all --out figures                        every full configuration, on the papers' devices

Nothing is trained and no device is needed: `cost.py` says what is counted, `stages.py` of what, `hardware.py` how fast.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from figures.cost import Cost, Precision, cost, cure
from figures.hardware import EFFICIENCY, Device, KindName, find_device
from figures.page import Page
from figures.stages import MAKERS, PresetName, Stage, StageName, System, find_stage
from fourd_minimal.cli.main import program
from fourd_minimal.training.tables import made_by, table

PAPER = {
    ("four_real_video", "base"): (24, 12 * 24.0),
    ("four_real_video", "sync"): (24, None),
    ("upsampler", None): (24, None),
    ("four_diffusion", "motion"): (16, 2 * 24.0),
    ("scene_distillation", None): (1, 12.0),
}
"""How many A100 the papers had, and for how many hours (4Real-Video, section 4.1; 4Diffusion, section 4)."""
HEAD = [
    "stage", "devices", "parameters (trained)", "micro-batch", "memory as it is, GB", "to fit",
    "weights, gradients, optimiser, average, exchange", "activations", "together, GB", "TFLOP a step", "s a step",
    "waiting for memory", "hours", "the paper",
]  # fmt: skip
NOTES = [
    "Memory, operations and seconds are each device's. A GB is 10^9 bytes. `figures/cost.py` says what is "
    "counted and what is not; `plan_check.md` holds such numbers against measured ones.",
    f"ASSUMED: kernels reach {EFFICIENCY:.0%} of a datasheet's peaks, of products and of memory alike; nothing waits "
    "for data or for another device. The papers' hours are of their code, their data and, where they say nothing, of "
    "other batches and sizes than are assumed here.",
]


@dataclass(frozen=True)
class Plan:
    """What a training run will cost in memory and time, before it starts."""

    system: System = "four_real_video"
    """The system whose training is planned."""
    stage: StageName | None = None
    """The stage to plan: base, sync (the default) or joint of four_real_video; base or motion (the default) of
    four_diffusion."""
    preset: PresetName = "full"
    """The settings come from this preset."""
    devices: int = 1
    """The run uses this many devices."""
    kind: KindName = "A100-80GB"
    """The kind of device; "this" is this machine, measured in a few seconds."""
    precision: Precision = "fp32"
    """The precision of products and attention, as of `--scale.precision`."""
    recompute: bool = False
    """Activations are recomputed, as by `--scale.recompute`."""
    shard: bool = False
    """Weights, gradients and moments are shared out, as by `--scale.shard`."""
    parts: int | None = None
    """A batch is divided into this many parts; by default the preset's."""
    all: bool = False
    """Every stage of the full preset is planned, on as many A100 as the papers had, in bf16; what does not fit is made
    to."""
    out: Path | None = None
    """`plan.md` and `plan.json` go into this folder; by default the plan is only printed."""

    def run(self) -> None:
        """Print the plan, and write it where asked.

        Raises:
            ValueError: a stage that is not there or has no steps, and whatever `cost` raises.
        """
        text, numbers = self._everything() if self.all else self._one()
        print(text)
        if self.out:
            command = f"python -m figures.plan --all --out {self.out}" if self.all else "python -m figures.plan"
            page = Page("plan", self.out)
            page.parts += [text, f"{made_by(command)} Torch {torch.__version__}; no device needed."]
            page.write(numbers)

    def _one(self, settings: Any = None) -> tuple[str, dict]:
        """A plan of the preset, or of these settings of it."""
        stage, device = find_stage(self.system, self.stage, settings or self.preset), find_device(self.kind)
        options = dict(devices=self.devices, precision=self.precision, again=self.recompute)
        options |= dict(shard=self.shard, parts=self.parts)
        found = cost(stage, device, **options)
        name = self.stage or MAKERS[self.system][2]
        what = " ".join(filter(None, (self.system, name)))
        lines = [f"{what}, preset {self.preset}, {self.precision}, on {self.devices} x {device.name}", ""]
        lines.append(report(stage, device, self.devices, found))
        many, known = PAPER.get((self.system, name), (0, None)) if self.preset == "full" else (0, None)
        if known:
            lines.append(f"{'the paper':14}{hours(known)} on {many} x A100")
        if found.memory > device.memory:
            cured = cure(stage, device, options)
            if cured:
                lines.append(f"It fits with {cured[0]}: {cured[1].memory / 1e9:.1f} GB, {hours(cured[1].hours)}.")
            else:
                lines.append("Neither recomputing nor smaller parts nor sharding makes it fit; expected more memory.")
        return "\n".join([*lines, stage.says]).rstrip(), asdict(found)

    def _everything(self) -> tuple[str, list[dict]]:
        device, rows, numbers = find_device("A100-80GB"), [], []
        for (system, name), (devices, known) in PAPER.items():
            stage, what = find_stage(system, name), " ".join(filter(None, (system, name)))
            options = dict(devices=devices, precision="bf16", again=False, shard=False, parts=None)
            given = cost(stage, device, **options)
            fits = given.memory <= device.memory
            words, found = ("", given) if fits else cure(stage, device, options) or ("nothing", given)
            kept = found.weights + found.gradients + found.optimiser + found.average + found.exchange
            row = [what, f"{devices}", f"{millions(found.parameters)} ({millions(found.trained)})"]
            row += [f"{found.times} x {found.micro_batch}", f"{given.memory / 1e9:.1f}", f"`{words}`" if words else "–"]
            row += [f"{part / 1e9:.1f}" for part in (kept, found.activations, found.memory)]
            row += [f"{found.flops / 1e12:.0f}", f"{found.seconds:.2f}", f"{found.memory_bound:.0%}"]
            rows.append([*row, hours(found.hours), hours(known) if known else "not said"])
            numbers.append(dict(stage=what, devices=devices, to_fit=words, as_it_is=asdict(given), cost=asdict(found)))
        says = {stage.says for key in PAPER if (stage := find_stage(*key)).says}
        title = f"The full configurations on {device.name}, bf16, as many as the papers had."
        return "\n\n".join([title, table(HEAD, rows), *NOTES, *sorted(says)]), numbers


def report(stage: Stage, device: Device, devices: int, found: Cost) -> str:
    """What a run costs, line by line."""
    fits = "it fits" if found.memory <= device.memory else "it does NOT fit"
    lines = {
        "parameters": f"{millions(found.parameters)}, of which {millions(found.trained)} are trained",
        "a step": f"{found.times} micro-batch{'es' * (found.times > 1)} of {found.micro_batch} on each device",
    }
    for name in ("weights", "gradients", "optimiser", "average", "activations", "exchange"):
        lines[name] = f"{getattr(found, name) / 1e9:8.2f} GB"
    lines |= {
        "together": f"{found.memory / 1e9:8.2f} GB of {device.memory / 1e9:.0f}: {fits}",
        "operations": f"{found.flops / 1e12:8.2f} TFLOP a step and device",
        "time": f"{found.seconds:8.3g} s a step, {found.memory_bound:.0%} of it waiting for memory, the rest computing",
        f"{stage.steps} steps": f"{hours(found.hours)}, {found.hours * devices:.0f} device-hours",
    }
    return "\n".join(f"{name:14}{value}" for name, value in lines.items())


def millions(n: int) -> str:
    """A number of parameters."""
    return f"{n / 1e6:.0f}M" if n >= 1e6 else f"{n / 1e3:.0f}k"


def hours(n: float) -> str:
    """A time."""
    return f"{n * 60:.0f} min" if n < 1 else f"{n:.1f} h" if n < 48 else f"{n / 24:.1f} days"


if __name__ == "__main__":
    program(Plan)
