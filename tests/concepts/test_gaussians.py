"""Gaussians: projection as gsplat's, compositing as nerfacc's, tiles as one dense picture; and what is refused."""

import math

import pytest
import torch
from parity import assert_same
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.gaussians import BLUR, NEAR, TemporalDeformation, composite, project, render

FOV_DEG, RADIUS = 40.0, 4.0


def cloud(n=300):
    return (torch.rand(n, 3) - 0.5) * 1.6, 0.02 + 0.08 * torch.rand(n), torch.rand(n, 3), 0.05 + 0.9 * torch.rand(n)


def cameras(n=3):
    return circular_trajectory(torch.linspace(0, 300, n), torch.linspace(10, 40, n), RADIUS)


def drawn(points, *look, c2w=None, size=(16, 16), **options):
    return render(
        points[None] if points.ndim == 2 else points, *look, cameras() if c2w is None else c2w, FOV_DEG, size, **options
    )


def dense(points, radius, colour, opacity, c2w, size):
    """All Gaussians at all pixels, one camera, written from the equations: J Sigma J^T, cumulative product."""
    (h, w), focal = size, size[0] / (2 * math.tan(math.radians(FOV_DEG) / 2))
    local = torch.linalg.inv(c2w.double()) @ torch.cat([points, torch.ones_like(points[:, :1])], 1).double().T
    x, y, z = local[0], -local[1], -local[2]
    order = z.argsort()
    jacobian = torch.zeros(len(z), 2, 3, dtype=torch.double)
    jacobian[:, 0, 0] = jacobian[:, 1, 1] = focal / z
    jacobian[:, 0, 2], jacobian[:, 1, 2] = -focal * x / z**2, -focal * y / z**2
    covariance = jacobian @ jacobian.mT * radius.double()[:, None, None] ** 2 + BLUR * torch.eye(2)
    rows, columns = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    centre = torch.stack([w / 2 + focal * x / z, h / 2 + focal * y / z], -1)
    d = torch.stack([columns, rows], -1) - centre[:, None, None]
    alpha = opacity[:, None, None] * torch.exp(-0.5 * torch.einsum("nhwi,nij,nhwj->nhw", d, covariance.inverse(), d))
    alpha = (alpha * (z > NEAR)[:, None, None])[order]
    seen = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha[:-1]]), 0) * alpha
    what = torch.cat([colour.double(), z[:, None], torch.ones_like(z)[:, None]], 1)[order]
    return torch.einsum("nhw,nc->chw", seen, what)


def test_projection_is_gsplats():
    """In plain PyTorch, loaded by itself; the package's own import would look for CUDA."""
    from importlib.util import find_spec, module_from_spec, spec_from_file_location
    from pathlib import Path

    file = Path(find_spec("gsplat").origin).parent / "cuda" / "_torch_impl.py"
    spec = spec_from_file_location("gsplat_torch", file)
    spec.loader.exec_module(gsplat := module_from_spec(spec))
    (h, w), points = (30, 40), cloud()[0]
    points = torch.cat([points, torch.tensor([[3.0, 0.5, 0.2], [0.0, -2.0, 0.0]])])  # far outside of the picture
    radius, c2w = torch.linspace(0.01, 0.3, len(points)), cameras()
    focal = h / (2 * math.tan(math.radians(FOV_DEG) / 2))
    intrinsics = torch.tensor([[focal, 0, w / 2], [0, focal, h / 2], [0, 0, 1]]).expand(3, 3, 3)
    world_to_camera = torch.linalg.inv(c2w @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])))
    covariance = radius[:, None, None] ** 2 * torch.eye(3)
    theirs = gsplat._fully_fused_projection(points, covariance, world_to_camera, intrinsics, w, h, eps2d=BLUR)
    _, xy, depth, conic, _ = theirs
    ours = project(points[None], radius, c2w, FOV_DEG, (h, w))
    assert_close(ours.xy, xy, atol=1e-3, rtol=1e-4)
    assert_close(ours.depth, depth, atol=1e-4, rtol=1e-5)
    assert_close(ours.conic, conic, atol=1e-5, rtol=1e-3)
    matrix = torch.stack([conic[..., [0, 1]], conic[..., [1, 2]]], -2)
    assert_close(ours.spread.square(), torch.linalg.inv(matrix).diagonal(dim1=-2, dim2=-1), atol=1e-2, rtol=1e-3)


def test_compositing_is_nerfaccs():
    nerfacc = pytest.importorskip("nerfacc")
    alpha = (torch.rand(5, 40, 7) * 0.98).requires_grad_()  # (batch, layers, pixels)
    expected, _ = nerfacc.render_weight_from_alpha(alpha.movedim(1, -1).reshape(35, 40))
    expected = expected.reshape(5, 7, 40).movedim(-1, 1)
    assert_same(composite(alpha), expected, [alpha], dict(atol=1e-5, rtol=1e-3), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(24, 24), (17, 30)])
def test_tiles_are_one_dense_picture(size):
    """Pixels within 2e-3, gradients within 1%; sizes that tiles do not divide."""
    own, c2w, weight = [a.requires_grad_() for a in cloud()], cameras(), torch.randn(3, 5, *size)
    seen = drawn(*own, size=size)
    tiled = torch.cat([seen.rgb, seen.depth * seen.alpha, seen.alpha], 1)
    whole = torch.stack([dense(*own, camera, size) for camera in c2w]).float()
    difference = (tiled - whole).abs()
    assert difference[:, [0, 1, 2, 4]].max() < 2e-3 and difference[:, 3].max() < 2e-3 * RADIUS * 2
    of_tiled, of_whole = (torch.autograd.grad(picture, own, weight) for picture in (tiled, whole))
    for ours, theirs in zip(of_tiled, of_whole, strict=True):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_chunks_and_tiles_of_another_size_change_nothing(monkeypatch):
    own = cloud()
    whole = drawn(*own)
    assert_close(drawn(*own, tile=5).rgb, whole.rgb, atol=2e-3, rtol=0)
    monkeypatch.setattr("fourd_minimal.gaussians.AT_ONCE", 5000)
    assert_close(drawn(*own).rgb, whole.rgb)


def test_what_is_in_front_hides_what_is_behind_and_order_of_storage_does_not_matter():
    camera = cameras(1)
    points = torch.cat([0.5 * camera[:, :3, 2], -0.5 * camera[:, :3, 2]])
    look = torch.tensor([0.3, 0.3]), torch.eye(3)[:2], torch.tensor([0.99, 0.99])
    seen = drawn(points, *look, c2w=camera)
    assert seen.rgb[0, 0, 8, 8] > 0.9 and seen.rgb[0, 1, 8, 8] < 0.1
    assert seen.depth[0, 0, 8, 8].item() == pytest.approx(RADIUS - 0.5, abs=0.1)
    assert_close(drawn(points.flip(0), *(a.flip(0) for a in look), c2w=camera).rgb, seen.rgb)


def test_what_is_behind_the_camera_is_not_drawn():
    camera = cameras(1)
    look = torch.tensor([0.1]), torch.ones(1, 3), torch.tensor([0.9])
    seen = drawn(camera[:, None, :3, 3] * 1.2, *look, c2w=camera)
    assert seen.alpha.max() == 0 and seen.depth.max() == 0


def test_every_camera_has_its_own_points():
    points, *look = cloud()
    both = drawn(torch.stack([points, points + 0.1, points - 0.1]), *look)
    assert_close(both.rgb[1:2], drawn(points + 0.1, *look, c2w=cameras()[1:2]).rgb)


def test_a_deformation_is_none_at_first_and_moves_points_over_time_once_trained():
    deform, points = TemporalDeformation(8), torch.rand(5, 3)
    assert not deform(points, torch.tensor([0.0, 0.7])).any()
    torch.nn.init.normal_(deform.mlp[-1].weight)
    first, last, again = deform(points, torch.tensor([0.0, 1.0, 0.0]))
    assert_close(first, again)
    assert ((first - last).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(points=torch.zeros(1, 0, 3), radius=torch.zeros(0), colour=torch.zeros(0, 3), opacity=torch.zeros(0)),
         ("points", "Gaussians")),
        (dict(radius=torch.ones(3)), ("radius", (300, 3, 300, 300))),
        (dict(radius=torch.zeros(300)), ("radius", 0)),
        (dict(c2w=2 * cameras()), ("c2w", "rotations")),
        (dict(c2w=cameras() * torch.tensor([-1.0, 1, 1, 1])), ("c2w", "rotations")),
        (dict(fov_deg=180.0), ("fov_deg", 180)),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, said):
    points, radius, colour, opacity = cloud()
    given = dict(points=points[None], radius=radius, colour=colour, opacity=opacity, c2w=cameras(), fov_deg=FOV_DEG)
    refused(lambda: render(**(given | change), size=(8, 8)), *said)
