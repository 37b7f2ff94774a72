"""Every concept file as it is copied into another project: alone, in half precision, compiled, differentiated.

A new concept joins by one line of `CALLS`.
"""

import sys
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from tiny import shaken
from torch import nn
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

import fourd_minimal

FOLDER = Path(fourd_minimal.__file__).parent
STEP, CAMERA = torch.tensor([500]), torch.eye(4) + 4 * torch.eye(4)[2][:, None] * torch.eye(4)[3]
rand = partial(torch.rand, requires_grad=True)  # what takes a gradient; other inputs do not


def drawn_by(m):
    return lambda *cloud: m.render(*cloud, CAMERA[None].to(cloud[0]), 40.0, (64, 8)).rgb


def distilled_by(m):
    seeded = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    return lambda x, abar: m.score_distillation(x, lambda z, t: (z, z / 2), abar, STEP[0] // 100, generator=seeded())


def rendered_by(m):
    ball = lambda points, times, directions: (torch.relu(2 - points.norm(dim=-1) - times), directions)  # noqa: E731
    return lambda *rays: m.render_rays(ball, *rays, 16)[:2]


def unet(m):
    return shaken(m.MultiviewUNet(m.MultiviewUNetConfig(3, 2, (8,), 0, (0,), 8, 4, None, 12, 2, 8, 1, 1)))


def images_and_tokens():
    return rand(1, 3, 4, 4), rand(1, 5, 12)


CALLS = {  # "file.what": its module -> (a function or a network, its inputs)
    "anchor_loss": lambda m: (m.ssim, rand(1, 3, 12, 11), rand(1, 3, 12, 11)),
    "cameras.look_up": lambda m: (m.look_up, rand(1, 1, 128, 128), 120 * rand(1, 40, 40, 2)),
    "cameras.project": lambda m: (partial(m.project, fov_deg=40.0, size=(512, 9)), rand(9, 3), CAMERA + rand(4, 4) / 9),
    "cameras.rays": lambda m: (partial(m.rays, fov_deg=40.0, size=(512, 2)), rand(4, 4)),
    "ddpm.add_noise": lambda m: (m.NoiseSchedule().add_noise, rand(1, 4), rand(1, 4), STEP),
    "ddpm.ddim": lambda m: (lambda z: [*m.ddim(lambda z, t: z / 2, z, m.NoiseSchedule(), 3)][-1], rand(4)),
    "fused_attention": lambda m: (m.fused_attention, *rand(3, 1, 2, 3, 2, 4, 8)),
    "gaussians.deform": lambda m: (shaken(m.TemporalDeformation(8)), rand(3, 3), rand(2)),
    "gaussians.render": lambda m: (drawn_by(m), rand(1, 9, 3), 0.1 + rand(9) / 5, rand(9, 3), rand(9) / 2),
    "hash_grid": lambda m: (shaken(m.HashGrid(2, 4, 2, 9, 4, 2.0)), (torch.arange(8).view(4, 2) + rand(8, 2)[4:]) / 32),
    "metrics.frechet_distance": lambda m: (m.frechet_distance, rand(9, 2), rand(9, 2) + 1),
    "metrics.psnr": lambda m: (m.psnr, rand(2, 3, 4, 4), rand(2, 3, 4, 4)),
    "motion_module": lambda m: (shaken(m.MotionModule(8, 2, norm_groups=2)), rand(1, 3, 8, 2, 2)),
    "multiview_unet": lambda m: (unet(m), rand(1, 2, 3, 4, 4), STEP, CAMERA.expand(1, 2, 4, 4), *images_and_tokens()),
    "pseudo_4d.maps_along": lambda m: (m.maps_along, rand(1, 3, 3) / 4, rand(2)),
    "pseudo_4d.pseudo_grid": lambda m: (m.pseudo_grid, rand(1, 2, 3, 64, 64), torch.eye(3) + rand(1, 2, 3, 3) / 9),
    "rectified_flow.add_noise": lambda m: (m.add_noise, rand(2, 4), rand(2, 4), rand(2)),
    "rectified_flow.euler": lambda m: (lambda x: [*m.euler(lambda x, s: s * x, x, 3)][-1], rand(4)),
    "sds": lambda m: (distilled_by(m), rand(2, 3, 4, 4), rand(9)),
    "sliding_window": lambda m: (lambda x: [*m.slide(x, lambda c, known: c + c[:1], (2, 2))][-1], rand(3, 3, 1, 2, 2)),
    "sync": lambda m: (shaken(m.SoftSync(4, 3)), rand(1, 2, 3, 5, 4), rand(1, 2, 3, 5, 4), rand(1, 2, 3, 3)),
    "two_stream": lambda m: (m.TwoStream([torch.sin] * 2, [lambda a, b, c: (b, a)] * 2), *rand(2, 1, 2, 2, 3, 4)),
    "video_dit": lambda m: (shaken(m.VideoDiT(m.VideoDiTConfig((4, 4), 2, 12, 1, 2))), rand(1, 3, 3, 4, 4), rand(1, 3)),
    "volume_rendering.composite": lambda m: (m.composite, 9 * rand(2, 64), rand(2, 64, 3), rand(2, 64) / 64),
    "volume_rendering.render": lambda m: (rendered_by(m), -1 - rand(2, 3), 1 + rand(2, 3), rand(2)),
}
NO_GRADIENT = {"metrics.frechet_distance", "metrics.psnr", "sds", "sliding_window"}
"""Plain numbers, a sampler, and a loss that stops its gradient on purpose."""
NO_GRAPH = NO_GRADIENT | {"ddpm.ddim", "rectified_flow.euler", "gaussians.render", "volume_rendering.render"}
"""Loops that belong to the caller, and sizes that come from values."""
FAILS = {  # what -> which checks do not hold yet, and why
    "cameras.look_up": ("bf16 fp16", "positions in half precision"),
    "ddpm.add_noise": ("compile", "a check of t branches on its value"),
    "hash_grid": ("compile", "its backward calls autograd"),
    "pseudo_4d.maps_along": ("bf16 fp16", "the matrix exponential has no gradient in half precision"),
    "pseudo_4d.pseudo_grid": ("bf16 fp16 autocast", "positions and their inverse maps in half precision"),
}


def each(check, but=()):
    """Every call but these; one that fails today must fail."""
    found = []
    for name in sorted(CALLS.keys() - but):
        checks, reason = FAILS.get(name, ("", ""))
        fails = [pytest.mark.xfail(strict=True, reason=reason)] if check in checks.split() else []
        found.append(pytest.param(name, marks=fails))
    return pytest.mark.parametrize("name", found)


@cache
def copied(stem):
    """A concept from its file alone, without the shape checker of these tests."""
    spec = spec_from_file_location(f"copied_{stem}", FOLDER / f"{stem}.py")
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def loaded(name, seed):
    """What is called, and its inputs."""
    call, *inputs = CALLS[name](copied(name.split(".")[0]))
    return call, [a.detach().requires_grad_(a.requires_grad) for a in inputs]


def cast(call, inputs, dtype):
    call = call.to(dtype) if isinstance(call, nn.Module) else call
    inputs = [(a.detach().to(dtype) if a.is_floating_point() else a, a.requires_grad) for a in inputs]
    return call, [a.detach().requires_grad_(takes) for a, takes in inputs]


def run(call, inputs, backward=True):
    """All outputs; gradients must be finite."""
    outputs = [torch.as_tensor(out) for out in tree_leaves(call(*inputs))]
    if backward:
        weights = [*call.parameters()] if isinstance(call, nn.Module) else []
        leaves = [a for a in (*inputs, *weights) if a.requires_grad]
        total = sum(out.float().sum() for out in outputs if out.requires_grad)
        assert all(g is None or g.isfinite().all() for g in torch.autograd.grad(total, leaves, allow_unused=True))
    return outputs


def assert_near(found, expected, dtype):
    """Within 8 units in the last place of the largest number of each output."""
    for a, b in zip(found, expected, strict=True):
        within = 8 * torch.finfo(dtype).eps * b.abs().max().item() if b.is_floating_point() else 0
        assert_close(a.to(b), b, atol=within, rtol=0)


def test_every_concept_is_here():
    found = {file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("__")}
    assert {name.split(".")[0] for name in CALLS} == found


def check_half(name, loaded, dtype):
    """As float64 finds it from the same rounded inputs and weights."""
    call, inputs = cast(*loaded, dtype)
    found = run(call, inputs, name not in NO_GRADIENT)
    assert_near(found, run(*cast(call, inputs, torch.float64), False), dtype)


@each("bf16")
def test_bf16(name, loaded):
    check_half(name, loaded, torch.bfloat16)


@each("fp16")
def test_fp16(name, loaded):
    check_half(name, loaded, torch.float16)


@each("autocast")
def test_autocast(name, loaded):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(*loaded, name not in NO_GRADIENT)
    assert_near(found, run(*loaded, False), torch.bfloat16)


@each("compile", NO_GRAPH)
def test_compile(name, loaded):
    call, inputs = loaded
    torch._dynamo.reset()
    compiled = torch.compile(lambda *a: call(*a), backend="eager", fullgraph=True)
    assert_close(run(compiled, inputs, False), run(call, inputs, False))


@each("gradcheck", NO_GRADIENT)
def test_gradcheck(name, loaded):
    """In float64, along one direction of all inputs and weights at once."""
    call, inputs = cast(*loaded, torch.float64)
    weights = dict(call.named_parameters()) if isinstance(call, nn.Module) else {}
    moving = [a for a in (*inputs, *weights.values()) if a.requires_grad]
    towards = [torch.randn_like(a) for a in moving]

    def along(s):
        moved = iter([a.detach() + s * u for a, u in zip(moving, towards, strict=True)])
        given = tuple(next(moved) if a.requires_grad else a for a in inputs)
        own = dict(zip(weights, moved, strict=True))
        out = torch.func.functional_call(call, own, given) if own else call(*given)
        return tuple(a for a in tree_leaves(out) if a.is_floating_point())

    assert torch.autograd.gradcheck(along, torch.zeros(1, dtype=torch.float64, requires_grad=True), fast_mode=True)
