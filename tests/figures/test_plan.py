"""The planner: what it counts, against closed forms, torch's counters and the trainers' batches; what it says."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from figures.cost import cost, cure
from figures.hardware import KINDS, Device, find_device
from figures.plan import Plan
from figures.stages import MAKERS, Case, Stage, find_stage
from figures.tally import Tally
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.training import four_diffusion as multiview
from fourd_minimal.training import four_real_video as training
from fourd_minimal.training import text_to_video as text
from fourd_minimal.training import upsampler as upsampling

TOY = Device("toy", fp32=1e9, bf16=2e9, bandwidth=1e8, memory=1e9)


def moved(tally):
    return sum(operation.moved for operation in tally.operations)


def counted(call, *shapes, **options):
    """The tally of a call on empty tensors."""
    with FakeTensorMode():
        tensors = [torch.empty(shape, requires_grad=True) for shape in shapes]
        with Tally() as tally:
            call(*tensors)
    return tally


def test_flops_and_bytes_of_attention():
    shape = b, h, n, d = 2, 3, 16, 8
    forward = counted(F.scaled_dot_product_attention, shape, shape, shape)
    assert forward.flops == 4 * b * h * n**2 * d
    assert moved(forward) == 4 * (4 * b * h * n * d + b * h * n)  # never b h n^2: that matrix stays in the kernel
    both = counted(lambda *qkv: F.scaled_dot_product_attention(*qkv).sum().backward(), shape, shape, shape)
    assert both.flops == (4 + 10) * b * h * n**2 * d


def test_bytes_of_plain_operations():
    n = 1000
    assert moved(counted(lambda x: x + x[:1], (n,))) == 4 * (2 * n + 1)
    assert moved(counted(lambda x: x.detach().view(10, -1).T, (n,))) == 0
    assert moved(counted(lambda x: x.detach().add_(1), (n,))) == 8 * n
    assert moved(counted(lambda x: torch.empty_like(x), (n,))) == 0
    assert moved(counted(lambda x: torch.zeros_like(x), (n,))) == 4 * n
    assert moved(counted(lambda x: x.detach()[:1].expand(n).clone(), (n,))) == 4 * (1 + n)


def test_a_look_up_moves_what_it_finds_not_the_table():
    index = 5 * 8  # five numbers of the table
    tally = counted(lambda x: x[torch.zeros(5, dtype=torch.long)], (1000,))
    assert tally.operations[-1].moved == index + 2 * 5 * 4
    tally = counted(lambda x, v: x.detach().scatter_add_(0, torch.zeros(5, dtype=torch.long), v), (1000,), (5,))
    assert tally.operations[-1].moved == index + 3 * 5 * 4


def test_the_peak_of_a_chain():
    # exp keeps its result b, and so does sin; backward: b, cos b, and their product
    n = 10_000

    def chain(x):
        with Tally() as tally:
            (x * 2).exp().sin().sum().backward()
        assert tally.live == 4 * n  # the gradient
        assert 3 * 4 * n <= tally.peak < 3 * 4 * n + 100

    counted(chain, (n,))
    with torch.no_grad():
        without = counted(lambda x: (x * 2).exp().sin().sum(), (n,))
    assert 2 * 4 * n <= without.peak < 2 * 4 * n + 100


BATCHES = {
    ("four_real_video", "base"): (training, lambda p, m: training.base_batch(p, 0)),
    ("upsampler", None): (upsampling, lambda p, m: upsampling.make_batch(p, 0)),
    ("text_to_video", None): (text, lambda p, m: text.make_batch(p, m.encode, 0)),
    ("four_diffusion", "motion"): (multiview, lambda p, m: multiview.make_batch("motion", p, 0)),
}


@pytest.mark.parametrize("key", BATCHES, ids=lambda key: "-".join(filter(None, key)))
def test_forward_flops_are_those_of_the_trainers_batch(key):
    preset, (trainer, make) = MAKERS[key[0]][1]["smoke"], BATCHES[key]
    stage = find_stage(*key, preset)
    model = stage.model()
    batch = make(preset, model)
    with sdpa_kernel(SDPBackend.MATH):  # torch's counter knows no flash attention on CPUs
        with FlopCounterMode(display=False) as counter:
            trainer.batch_loss(model, batch)
        with FakeTensorMode(), Tally() as tally:
            stage.cases[0].loss(stage.model(), stage.batch, tally)
    assert tally.flops == counter.get_total_flops() > 0


def test_parameters_are_the_models():
    model = FourRealVideo(PRESETS["smoke"].model)
    found = cost(find_stage("four_real_video", "sync", "smoke"), TOY)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.trained == sum(p.numel() for p in model.part("sync").parameters()) < found.parameters
    assert found.weights == 4 * found.parameters + sum(b.numel() * b.element_size() for b in model.buffers())
    assert (found.gradients, found.optimiser, found.average) == tuple(n * found.trained for n in (4, 8, 4))


class Stack(nn.Module):
    """Eight layers, the outer ones frozen."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Sigmoid()) for _ in range(8))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


CASE = Case(1.0, lambda m, n, tally: m(torch.empty(n, 100, 8)).sum())
STACK = Stage(Stack, lambda m: m.layers[1:7], [CASE], steps=10, batch=8, parts=4, averaged=True)


def of_stack(**options):
    return cost(STACK, TOY, **options)


def test_sharding_divides_what_is_kept():
    whole, shared = of_stack(devices=2), of_stack(devices=2, shard=True)
    for name in ("weights", "gradients", "optimiser", "average"):
        assert getattr(shared, name) == getattr(whole, name) / 2 > 0
    assert shared.activations == whole.activations and shared.flops == whole.flops
    assert shared.exchange == 2 * 4 * (8 * 8 + 8) and whole.exchange == whole.gradients and of_stack().exchange == 0
    assert shared.memory == whole.memory - whole.weights / 2 - 3 * whole.gradients + shared.exchange


def test_recomputing_keeps_what_goes_into_each_block():
    kept, again = of_stack(), of_stack(again=True)
    row = 4 * 2 * 100 * 8
    assert kept.activations > 2 * 7 * row  # of each layer that is differentiated, the results of tanh and sigmoid
    assert 7 * row < again.activations < 12 * row  # its input; and one block at work
    forward = 2 * (2 * 100 * 8 * 8) * 4  # of a layer, in the four parts
    assert again.flops - kept.flops == 7 * forward


def test_parts_and_devices_share_the_work():
    in_four, in_eight, on_two = of_stack(), of_stack(parts=8), of_stack(devices=2)
    assert in_eight.flops == in_four.flops == 2 * on_two.flops
    assert in_eight.activations < 0.6 * in_four.activations
    assert (in_four.micro_batch, in_four.times) == (2, 4) and (on_two.micro_batch, on_two.times) == (2, 2)
    assert in_four.hours == pytest.approx(10 * in_four.seconds / 3600)


def square():
    return nn.Linear(100, 100, bias=False)


def test_seconds_by_hand():
    case = Case(0.5, lambda m, n, tally: m(torch.empty(n, 100)).sum())
    stage = Stage(square, lambda m: m, [case] * 2, steps=1, batch=100, parts=1, averaged=True)
    device = Device("slow products", fp32=1e6, bf16=None, bandwidth=1e30, memory=1)
    found = cost(stage, device)
    assert found.seconds == pytest.approx(2 * 2 * 100**3 / 1e6) and found.memory_bound < 1e-9
    assert found.flops == 2 * 2 * 100**3
    device = Device("slow memory", fp32=1e30, bf16=None, bandwidth=1e6, memory=1)
    found, n = cost(stage, device), 4 * 100**2
    moved = 3 * n + n + 2 * n + 13 * n  # product, sum, gradient (of a sum: one number); clipping, AdamW, average
    assert found.seconds == pytest.approx(moved / 1e6, rel=1e-3) and found.memory_bound == 1


def test_what_does_not_fit_is_made_to():
    options = dict(devices=2, precision="fp32", again=False, shard=False, parts=None)
    again, small = of_stack(devices=2, again=True), of_stack(devices=2, again=True, parts=8)
    shared = of_stack(devices=2, again=True, parts=8, shard=True)

    def found(memory):
        return cure(STACK, replace(TOY, memory=memory), options)

    assert shared.memory < small.memory < again.memory < of_stack(devices=2).memory
    assert found(again.memory) == ("--recompute", again)
    assert found(again.memory - 1) == ("--recompute --parts 8", small)
    assert found(small.memory - 1) == ("--recompute --parts 8 --shard", shared)
    assert found(shared.memory - 1) is None


def test_the_command_prints_and_writes(tmp_path, capsys):
    Plan("four_real_video", "sync", "smoke", kind="T4", out=tmp_path).run()
    said = capsys.readouterr().out.strip()
    assert "T4" in said and said in (tmp_path / "plan.md").read_text()


def test_bad_input_is_named():
    for given, *said in (
        (("upsampler", "base"), "stage", "base", "upsampler"),
        (("four_real_video", "motion"), "stage", "motion", "four_real_video"),
        (("four_real_video", "joint"), "stage", "joint", "four_real_video"),
        (("four_diffusion", "base"), "stage", "base", "four_diffusion"),
    ):
        refused(partial(find_stage, *given), *said)
    refused(lambda: find_device("B300"), "kind", "B300")
    for name, value in (("devices", 0), ("parts", 3)):
        refused(partial(of_stack, **{name: value}), name, value)
    refused(lambda: of_stack(devices=3), "parts", 4, 3)
    refused(lambda: cost(find_stage("four_real_video", "base", "smoke"), TOY, parts=4), "parts", 4)
    refused(lambda: cost(find_stage("upsampler", preset="smoke"), KINDS["T4"], precision="bf16"), "T4", "bf16")
