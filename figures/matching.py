"""How surely each pixel of one picture is found again in another: what the papers call GIM- and Dust3R-confidence.

A matcher is any `(a, b) -> sure`: two sets of pictures in [0, 1], and for each pixel of `a` how sure it is to have
found its place in `b`. `metrics.confidence` turns `sure` into the shares of pixels above thresholds. 4Real-Video names
the two metrics, not their thresholds nor which frames are paired.

    classical            optical flow f there and g back, no network     exp(-|f(x) + g(x + f(x))| / pixel)
    gim_confidence       GIM (Shen et al. 2024, arXiv 2402.11095)        the certainty of DKM or RoMa; mconf of LoFTR
    dust3r_confidence    DUSt3R (Wang et al. 2024, arXiv 2312.14132)     1 - 1 / conf, as conf >= 1; or conf itself

The networks' code and weights are not here: give the network, built and loaded by its own repository
(xuelunshen/gim, naver/dust3r), in evaluation mode and on the pictures' device. Numbers of different matchers, and of
`classical` and any network, do not compare.

Departures: DUSt3R's own loader crops to multiples of 16 pixels, here pictures are resized to them.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.cameras import look_up, pixel_grid
from fourd_minimal.systems.pixels import check_pixels

Matcher = Callable[[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]], Float[Tensor, "n h w"]]
"""Pairs of pictures to a confidence for each pixel of the first of each pair."""

SMALLEST = 16
"""Pixels per side, below which there is no patch to look for."""


def check_pairs(a: Tensor, b: Tensor) -> None:
    """Refuse what cannot be matched.

    Raises:
        ValueError: no pictures `(n, 3, h, w)`, different numbers or sizes, fewer than 16 pixels per side, or values
            that are not finite or not in [0, 1].

    >>> check_pairs(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 20))
    Traceback (most recent call last):
    ValueError: b has shape (1, 3, 16, 20); expected (1, 3, 16, 16), as of a,.
    """
    if a.ndim != 4 or a.shape[1] != 3 or min(a.shape[-2:]) < SMALLEST:
        raise ValueError(f"a has shape {tuple(a.shape)}; expected (n, 3, h, w), h and w at least {SMALLEST},.")
    if a.shape != b.shape:
        raise ValueError(f"b has shape {tuple(b.shape)}; expected {tuple(a.shape)}, as of a,.")
    check_pixels("a", a)
    check_pixels("b", b)


@torch.no_grad()
def classical(a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "..."], pixel: float = 1.0) -> Float[Tensor, "n h w"]:
    """Optical flow that comes back to where it started, by DIS (Kroeger et al. 2016); for machines without a network.

    With f the flow from a to b and g the flow from b to a

        sure(x) = exp(-|f(x) + g(x + f(x))| / pixel)          0 where x + f(x) is outside

    It is blind in known ways. Where nothing has texture, the flow is 0 there and back, so two blank walls match
    surely. It follows brightness, so a change of light is motion to it. Motion beyond about a quarter of the picture,
    thin things and what turns out of sight are lost. Of pictures that have nothing in common, a quarter of the pixels
    comes back by chance. Nothing is learned, nothing is downloaded, and the same pictures give the same numbers.

    Args:
        a: pictures in [0, 1].
        b: their partners, of the same shape.
        pixel: distance in pixels at which sureness has fallen to 1/e.

    Raises:
        ValueError: see `check_pairs`; or a distance that is not above 0.
    """
    check_pairs(a, b)
    if not pixel > 0:
        raise ValueError(f"pixel is {pixel}; expected a distance above 0.")
    there, back = _flow(a, b), _flow(b, a)
    (h, w), at = a.shape[-2:], pixel_grid(a.shape[-2:])[:, :, 0].to(a)
    target = at + rearrange(there, "n c h w -> n h w c")
    miss = (there + look_up(back, target)).norm(dim=1)
    inside = ((target >= 0) & (target <= torch.tensor([w, h]).to(a))).all(-1)
    return torch.exp(-miss / pixel) * inside


def _flow(a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2 h w"]:
    """Dense flow (x, y) in pixels at full resolution; OpenCV takes one pair at a time."""
    import cv2  # changes the environment when it is imported: only here

    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    one, two = (_grey(x).mul(255).round().byte()[:, 0].cpu().numpy() for x in (a, b))
    flow = np.stack([dis.calc(*pair, None) for pair in zip(one, two, strict=True)])
    return rearrange(torch.from_numpy(flow).to(a), "n h w c -> n c h w")


def _grey(pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    weights = torch.tensor([0.299, 0.587, 0.114]).to(pictures)
    return torch.einsum("nchw,c->nhw", pictures, weights)[:, None]


def gim_confidence(network: Callable) -> Matcher:
    """The certainty of GIM's matchers, dense or semi-dense, as xuelunshen/gim builds them.

    Dense (`DKMv3`, `RoMa`): a network with `match(a, b) -> (warp, certainty)` for one pair of `(1, 3, h, w)` in
    [0, 1], sizes `h_resized`, `w_resized`, and `symmetric`, if its certainty is a's beside b's. As in GIM's demo,
    pictures are padded with black to that aspect, and black pixels get certainty 0 by the network's own code.

    Semi-dense (`LoFTR`, GIM's or kornia's): called with a dict of `image0`, `image1` (grey) and `color0`, `color1`,
    it fills in or returns `mkpts0_f`, `mconf`, `m_bids` (kornia: `keypoints0`, `confidence`, `batch_indexes`), m
    matches with positions (x, y) in a. Each match makes the one pixel there as sure as it is, all others are 0. LoFTR
    matches at most one pixel of 8 x 8, so that the share of pixels cannot be above 1/64.

    Args:
        network: one of these; which one belongs beside the number.

    Raises:
        ValueError: when called, see `check_pairs`; or a network that answers something else.
    """

    @torch.no_grad()
    def matcher(a: Tensor, b: Tensor) -> Tensor:
        check_pairs(a, b)
        return (_dense if hasattr(network, "match") else _semi_dense)(network, a, b).clamp(0, 1)

    return matcher


def _dense(network: Callable, a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n h w"]:
    (h, w), aspect = a.shape[-2:], network.w_resized / network.h_resized
    rows, columns = max(h, round(w / aspect)) - h, max(w, round(h * aspect)) - w
    top, left = rows // 2, columns // 2
    padded = [F.pad(x, (left, columns - left, top, rows - top)) for x in (a, b)]
    found = []
    for one, two in zip(*(x.split(1) for x in padded), strict=True):  # upsampling refuses more than one pair
        certainty = network.match(one, two)[1]
        certainty = certainty.reshape(-1, certainty.shape[-1])
        if network.symmetric:
            certainty = certainty.chunk(2, dim=-1)[0]
        found.append(certainty)
    sure = F.interpolate(torch.stack(found)[:, None], padded[0].shape[-2:], mode="bilinear", antialias=True)
    return sure[:, 0, top : top + h, left : left + w].to(a.dtype)


def _semi_dense(network: Callable, a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n h w"]:
    n, (h, w) = len(a), a.shape[-2:]
    whole = h // 8 * 8, w // 8 * 8  # what LoFTR's pyramid divides
    one, two = (F.interpolate(x, whole, mode="bilinear", antialias=True).clamp(0, 1) for x in (a, b))
    given = dict(image0=_grey(one), image1=_grey(two), color0=one, color1=two)
    answer = network(given) or given
    for names in (("mkpts0_f", "mconf", "m_bids"), ("keypoints0", "confidence", "batch_indexes")):
        if all(name in answer for name in names):
            xy, certainty, pair = (answer[name] for name in names)
            break
    else:
        known = ", ".join(sorted(answer.keys() - given.keys())) or "nothing"
        raise ValueError(f"network answers {known}; expected mkpts0_f, mconf and m_bids, as LoFTR's,.")
    m = len(certainty)  # where it finds nothing, GIM's LoFTR returns a place all the same, with no certainty
    scale = torch.tensor([w / whole[1], h / whole[0]]).to(xy)
    x, y = ((xy[:m] + 0.5) * scale).long().unbind(-1)
    place = (pair[:m].long() * h + y.clamp(0, h - 1)) * w + x.clamp(0, w - 1)
    return a.new_zeros(n * h * w).scatter_reduce(0, place, certainty.to(a), "amax").view(n, h, w)


def dust3r_confidence(network: Callable, size: int = 512, raw: bool = False) -> Matcher:
    """DUSt3R's confidence in the point that it sees in each pixel of the first picture, given the second.

    The network is `AsymmetricCroCo3DStereo`, or any other called as `network(view1, view2) -> (pred1, pred2)`: a view
    has `img` `(n, 3, h, w)` in [-1, 1], `true_shape` `(n, 2)`, `idx` and `instance`; `pred1["conf"]` is `(n, h, w)`,
    at least 1 (it is 1 + exp of what the network says). To [0, 1]

        sure = 1 - 1 / conf

    which keeps the order, so that a threshold on conf, as the papers state them, is the threshold 1 - 1 / conf here.

    Args:
        network: which one belongs beside the number.
        size: of the pictures' longer side as the network sees them; both sides are multiples of 16.
        raw: conf itself instead, for thresholds on conf.

    Raises:
        ValueError: a size below 16; when called, see `check_pairs`, or a network that answers something else.
    """
    if size < SMALLEST:
        raise ValueError(f"size is {size}; expected at least {SMALLEST}.")

    @torch.no_grad()
    def matcher(a: Tensor, b: Tensor) -> Tensor:
        check_pairs(a, b)
        (h, w), n = a.shape[-2:], len(a)
        seen = [max(16, round(side * size / max(h, w) / 16) * 16) for side in (h, w)]
        views = []
        for number, x in enumerate((a, b)):
            img = F.interpolate(x, seen, mode="bicubic", antialias=True).clamp(0, 1) * 2 - 1
            names = [2 * pair + number for pair in range(n)]  # all different, so that no pair passes for its mirror
            shape = torch.tensor(seen, dtype=torch.int32).expand(n, 2)
            views.append(dict(img=img, true_shape=shape, idx=names, instance=[str(name) for name in names]))
        conf = network(*views)[0].get("conf")
        if conf is None or tuple(conf.shape) != (n, *seen):
            given = "no conf" if conf is None else f"conf of shape {tuple(conf.shape)}"
            raise ValueError(f"network answers {given}; expected pred1['conf'] of shape {(n, *seen)}.")
        if not conf.isfinite().all() or conf.min() < 1:
            raise ValueError(f"network answers a conf down to {conf.min():.3g}; expected finite values of at least 1.")
        conf = F.interpolate(conf[:, None].to(a), (h, w), mode="bilinear", antialias=True)[:, 0].clamp(min=1)
        return conf if raw else 1 - 1 / conf

    return matcher
