"""Numbers against torchmetrics, scipy and closed forms; what is refused."""

import math
from functools import partial

import pytest
import torch
from refused import refused, says
from scipy.linalg import sqrtm
from torch.testing import assert_close
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import _compute_fid

from fourd_minimal import anchor_loss
from fourd_minimal.metrics import clip_c, clip_i, clip_score, confidence, frechet_distance, fvd, lpips, psnr, ssim


def pictures(n=4, seed=0, side=8):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def colours(pictures):
    """Stands for a network: the mean colour."""
    return pictures.mean((-2, -1)).flatten(1)


def test_psnr_is_torchmetrics_both_ways():
    made, truth = pictures(), pictures(seed=1)
    made[0] = truth[0] + 0.01
    found = psnr(made.clamp(0, 1), truth)
    pooled = peak_signal_noise_ratio(made.clamp(0, 1), truth, data_range=1.0)
    mean = peak_signal_noise_ratio(made.clamp(0, 1), truth, data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
    assert_close(torch.tensor(found), torch.stack([pooled, mean]), atol=1e-4, rtol=0)
    assert found.mean > found.pooled + 3  # one good picture lifts the mean, hardly the other


def test_ssim_is_torchmetrics():
    made, truth = (pictures(seed=seed, side=16).unflatten(0, (2, 2)) for seed in (0, 1))
    theirs = structural_similarity_index_measure(made.flatten(0, 1), truth.flatten(0, 1), data_range=1.0)
    assert ssim(made, truth, anchor_loss.ssim) == pytest.approx(theirs.item(), abs=2e-3)  # borders differ
    assert ssim(truth, truth, anchor_loss.ssim) == pytest.approx(1)
    one = ssim(made[0, 0], truth[0, 0], anchor_loss.ssim)
    assert one == pytest.approx(anchor_loss.ssim(made[0, :1], truth[0, :1]).item())  # a single picture is one, too


def test_lpips_gets_pictures_from_minus_one_to_one():
    """A distance that differs between [0, 1] and [-1, 1]."""
    made, truth = pictures().unflatten(0, (2, 2)), pictures(seed=1).unflatten(0, (2, 2))
    found = lpips(made, truth, lambda a, b: (a * a - b * b).abs().mean((1, 2, 3), keepdim=True))
    a, b = made * 2 - 1, truth * 2 - 1
    assert found == pytest.approx((a * a - b * b).abs().mean().item())


def test_similarities_of_features_turned_by_a_known_angle():
    """The mean colour of frame k is turned by k x 20 degrees: cosines of neighbours, and of all pairs, are known."""
    angles = torch.deg2rad(torch.arange(4) * 20.0)
    video = torch.stack([angles.cos(), angles.sin(), torch.zeros(4)], 1)[:, :, None, None].expand(-1, -1, 4, 4)
    cosines = [math.cos(math.radians(20 * k)) for k in range(4)]
    assert clip_c(video, colours) == pytest.approx(cosines[1])
    assert clip_c(video, colours, "all") == pytest.approx((3 * cosines[1] + 2 * cosines[2] + cosines[3]) / 6)
    assert clip_i(video[1:], video[:-1], colours) == pytest.approx(cosines[1])
    still = pictures(1).expand(5, -1, -1, -1)
    assert clip_c(still, colours, "all") == pytest.approx(1)
    captions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    known = 100 * (cosines[0] + math.sin(math.radians(20)) + 0 + 0) / 4  # what points away counts as nothing
    assert clip_score(video, captions, colours) == pytest.approx(known)


def test_frechet_distance_is_torchmetrics_and_scipys():
    a = torch.randn(200, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    b = torch.randn(150, 6, dtype=torch.float64) + 0.3
    means, covariances = (a.mean(0), b.mean(0)), (a.T.cov(), b.T.cov())
    theirs = _compute_fid(means[0], covariances[0], means[1], covariances[1])
    assert frechet_distance(a, b) == pytest.approx(theirs.item(), rel=1e-6)
    root = torch.from_numpy(sqrtm((covariances[0] @ covariances[1]).numpy()).real)
    whole = (means[0] - means[1]).square().sum() + (covariances[0] + covariances[1] - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(whole.item(), rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_few_members_warn_and_singular_ones_are_a_number():
    with pytest.warns(UserWarning, match=says(5, 8, 16)):
        found = frechet_distance(torch.randn(5, 8), torch.randn(40, 8))
    assert math.isfinite(found) and found > 0


def test_fvd_is_against_every_reference():
    videos = torch.rand(3, 6, 2, 3, 4, 4).unbind()
    embed = lambda v: v.mean((1, 3, 4))[:, :2]  # noqa: E731
    found = fvd(videos[0], {"real": videos[1], "inputs": videos[2]}, embed)
    assert found == {n: frechet_distance(embed(videos[0]), embed(v)) for n, v in zip(found, videos[1:], strict=True)}


def test_confidence_is_a_share_for_every_threshold():
    sure = torch.linspace(0.005, 0.995, 100).view(10, 10)
    assert confidence(sure, (0.25, 0.9)) == pytest.approx({0.25: 0.75, 0.9: 0.1})


@pytest.mark.parametrize(
    "made, said",
    [
        (pictures() * 2 - 1, ("made", "[-1, 1]")),
        (pictures() * 255, ("made", 255)),
        (pictures().index_fill(0, torch.tensor(0), float("nan")), ("made", "NaN")),
        (torch.full((4, 3, 8, 8), 0.5), ("made", "0.50")),
        (pictures(side=9), ("made", (4, 3, 9, 9), "truth")),
        (torch.zeros(0, 3, 8, 8), ("made", (0, 3, 8, 8))),
    ],
)
def test_what_is_no_picture_gets_no_number(made, said):
    truth = pictures(seed=1)
    by = dict(ssim=(ssim, anchor_loss.ssim), lpips=(lpips, torch.dist), clip_i=(clip_i, colours))
    for metric in (psnr, *(lambda a, b, m=m, how=how: m(a, b, how) for m, how in by.values())):
        refused(partial(metric, made, truth), *said)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: psnr(x, x), ("made", "truth")),
        (lambda x: clip_c(x[:1], colours), ("video", 1)),
        (lambda x: clip_c(x, colours, "every"), ("pairs", "every")),
        (lambda x: frechet_distance(x[:1, 0, 0], x[:, 0, 0]), ("set", 1)),
        (lambda x: frechet_distance(x[:, 0, 0], x[:, 0, 0, :3]), ((4, 8), (4, 3))),
        (lambda x: frechet_distance(x[:, 0, 0] / 0, x[:, 0, 0]), ("features", "NaN")),
        (lambda x: clip_score(x, torch.randn(3, 3), colours), ("captions", (3, 3))),
        (lambda x: clip_i(x[0], x[1], colours), ("made", (3, 8, 8))),
        (lambda x: fvd(x[:, None], {}, colours), ("references",)),
        (lambda x: confidence(x[0, 0] / 0), ("sure", "NaN")),
    ],
)
def test_what_has_no_number_is_named(call, said):
    refused(lambda: call(pictures()), *said)
