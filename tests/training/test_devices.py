"""One step on several devices: two processes end where one does, shared out or not, stopped and gone on or not."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from refused import refused
from safetensors.torch import load_file
from torch.testing import assert_close

from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.weights import save_weights
from fourd_minimal.training.devices import Devices, Scale, recompute
from fourd_minimal.training.four_diffusion import make_batch
from fourd_minimal.training.four_real_video import base_batch, batch_loss, grid_batch, train
from fourd_minimal.training.loop import seeded

PRESET = replace(PRESETS["smoke"], base_steps=6, sync_steps=6, base_batch=8, sync_batch=4, parts=4)
RUN = """
import gc, json, sys
from pathlib import Path
import torch
from torch.distributed.fsdp import FSDPModule
from fourd_minimal.configs.four_real_video import FourRealVideoConfig, FourRealVideoPreset
from fourd_minimal.training.devices import Scale, leave, world
from fourd_minimal.training.four_real_video import train
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.weights import load_weights
out, stage, scale, until = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
_, preset, _ = load_weights(out / "preset.safetensors", FourRealVideoPreset)
torch.manual_seed(7)
base = FourRealVideo(preset.model)
losses = []
for step in train(stage, preset, out, base if stage == "sync" else None, checkpoint_every=2, scale=Scale(**scale)):
    losses.append(step.loss)
    assert world()[1] == 1 or torch.distributed.get_world_size() == world()[1]
    sharded = any(isinstance(o, FSDPModule) for o in gc.get_objects() if isinstance(o, torch.nn.Module))
    assert sharded == scale.get("shard", False)
    if step.number == until:
        break
averaged = step.averaged()
if world()[0] == 0:
    averaged.save_pretrained(out / f"result", stage, dtype=torch.float32)
    (out / "losses.json").write_text(json.dumps(losses))
leave()
"""


def run(folder, stage, processes, until=6, **scale):
    """Train in processes of their own, until a step; losses, and weights of the result."""
    folder.mkdir(exist_ok=True)
    save_weights(folder / "preset.safetensors", {"none": torch.zeros(1)}, PRESET)
    (folder / "run.py").write_text(RUN)
    arguments = [str(folder / "run.py"), str(folder), stage, json.dumps(scale), str(until)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run(
        [sys.executable, *launcher, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    name = "base" if stage == "base" else "soft_sync"
    return json.loads((folder / "losses.json").read_text()), load_file(folder / f"result/{name}.safetensors")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One process, this one."""
    torch.manual_seed(7)
    base = FourRealVideo(PRESET.model)
    found = {}
    for stage in ("base", "sync"):
        steps = [*train(stage, PRESET, None, base if stage == "sync" else None)]
        result = steps[-1].averaged()
        found[stage] = [s.loss for s in steps], result.part(stage).state_dict()
    return found


@pytest.mark.parametrize(("stage", "shard"), [("base", False), ("base", True), ("sync", True)])
def test_two_processes_are_one(one, stage, shard, tmp_path):
    pytest.importorskip("accelerate", reason="needs Accelerate: pip install 'fourd-minimal[scale]'")
    losses, weights = run(tmp_path, stage, 2, shard=shard)
    assert_close(losses, one[stage][0], rtol=1e-5, atol=0)
    assert_close(weights, dict(one[stage][1]), rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_with_another_number_of_processes(one, tmp_path):
    """Two, sharded, stopped one step behind their last checkpoint; then one."""
    pytest.importorskip("accelerate", reason="needs Accelerate: pip install 'fourd-minimal[scale]'")
    run(tmp_path, "base", 2, until=3, shard=True)
    losses, weights = run(tmp_path, "base", 1)
    assert_close(losses, one["base"][0][2:], rtol=1e-5, atol=0)
    assert_close(weights, dict(one["base"][1]), rtol=1e-4, atol=1e-5)


def test_parts_are_different_and_their_mean_is_the_step():
    first, second = (base_batch(PRESET, 3, part) for part in (0, 1))
    assert len(first[0].clean) == 1 and not torch.equal(first[0].clean, second[0].clean)
    other = (grid_batch(PRESET, "sync", 3, part)[0].clean for part in (0, 1))
    assert not torch.equal(*other)
    four_dm = replace(FOUR_DM["smoke"], motion_batch=2, parts=2)
    assert not torch.equal(*(make_batch("motion", four_dm, 3, part).clean for part in (0, 1)))
    torch.manual_seed(PRESET.seed)
    model = FourRealVideo(PRESET.model)
    expected = sum(batch_loss(model, base_batch(PRESET, 0, part)).item() for part in range(4)) / 4
    assert next(train("base", PRESET)).loss == pytest.approx(expected, rel=1e-6)


def test_every_part_of_every_step_has_numbers_of_its_own():
    """torch's generator reads 32 bits of a seed: parts may not lie 2^32 apart."""
    which = [(run, number, part) for run in (0, 3) for number in range(20) for part in range(200)]
    draws = {tuple(torch.rand(3, generator=seeded(*numbers)).tolist()) for numbers in which}
    assert len(draws) == len(which)
    assert seeded(3, 5).initial_seed() == 30_000_005 != seeded(3, 5, of="shards").initial_seed()


def test_what_is_recomputed_has_the_same_gradients():
    torch.manual_seed(0)
    model = FourRealVideo(PRESET.model)
    batch, kept = grid_batch(PRESET, "sync", 0), []

    def gradients():
        stored, saved = (
            [],
            torch.autograd.graph.saved_tensors_hooks(lambda x: stored.append(x.numel()) or x, lambda x: x),
        )
        with saved:
            loss = batch_loss(model, batch)
        kept.append(sum(stored))
        return torch.autograd.grad(loss, [*model.streams.sync.parameters()])

    before = gradients()
    recompute(model)
    assert_close(gradients(), before)
    assert kept[1] < kept[0] / 2


def test_half_precision_is_near():
    exact, half = ([s.loss for s in train("base", PRESET, scale=Scale(precision=p))] for p in ("fp32", "bf16"))
    assert exact != half
    assert_close(half, exact, rtol=0.05, atol=0)


def test_processes_share_parts_evenly(monkeypatch):
    devices = Devices()
    devices.rank, devices.count = 1, 2
    assert [*devices.mine(6)] == [1, 3, 5]
    refused(lambda: devices.mine(5), "parts", 5, 2)
    refused(lambda: Devices(Scale(shard=True)), "shard", "torchrun")
