"""The metrics of a table of results, of pictures and of features of pictures; every picture in [0, 1].

Of pixels, where the truth is known (E: squared error)

    PSNR            -10 log10 E: of the mean error over all pictures (pooled), or the mean over pictures of each one's.
                    By Jensen's inequality the second is never lower, and one perfect picture lifts it without end
    SSIM            mean structural similarity over pictures                 `anchor_loss.ssim`, given as an argument
    LPIPS           mean perceptual distance over pictures                   the network gets [-1, 1], as it expects

Of features f of pictures or videos, by whatever network `embed` is (its name belongs beside the number)

    CLIP-I          mean over pairs of cos(f(made), f(true))                 is the content the same?
    CLIP-C          mean over pairs of frames of one video of cos(f, f')     a still picture scores 1
                    "adjacent": each frame and the next; "all": each and every other. Papers do not say
    CLIP score      100 max(0, cos(f(picture), f(caption)))                  (Hessel et al. 2021 scale by 2.5)
    Frechet         |m - m'|^2 + tr(C + C' - 2 (C C')^1/2)                   of two SETS: mean and covariance of each
    FVD             the same of features of whole videos

One video has no covariance: a Frechet distance of one against one, which some published scripts print, is
undefined. With fewer videos than features the covariance is singular and the distance biased upwards; that warns.

Of a matcher, which finds the pixels of one picture in another, each with a confidence

    confidence      the share of pixels whose confidence is above a threshold, for each threshold

Flicker and reprojection want true flow, depth and cameras: `training/evaluation.py`. Networks:
`pretrained/perceptual.py` (LPIPS), `pretrained/clip.py`. A matcher without one: `figures/optical_flow.py`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Embed = Callable[[Float[Tensor, "n *picture"]], Float[Tensor, "n d"]]
"""Pictures `(n, 3, h, w)` or videos `(n, t, 3, h, w)` to one feature each."""
Compare = Callable[[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]], Float[Tensor, "n *any"]]
"""Pictures and what they should be to one number, or map of numbers, for each pair."""


class Psnr(NamedTuple):
    """In dB, two ways."""

    pooled: float
    """Of the mean error over all pictures."""
    mean: float
    """Of each picture, averaged."""


def check(name: str, pictures: Float[Tensor, "*b c h w"]) -> None:
    """Refuse what no metric should score.

    Raises:
        ValueError: values that are not finite or not in [0, 1], nothing at all, or one colour everywhere.

    >>> check("made", torch.linspace(-1, 1, 48).view(3, 4, 4))
    Traceback (most recent call last):
    ValueError: made lies in [-1.00, 1.00]; expected pictures in [0, 1] (from [-1, 1]: (x + 1) / 2).
    """
    if pictures.ndim < 3 or not pictures.numel():
        raise ValueError(f"{name} has shape {tuple(pictures.shape)}; expected pictures (..., c, h, w).")
    if not pictures.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values; expected pictures in [0, 1].")
    low, high = pictures.min().item(), pictures.max().item()
    if low < -1e-4 or high > 1 + 1e-4:
        hint = " (from [-1, 1]: (x + 1) / 2)" if low >= -1.001 and high <= 1.001 else ""
        hint = " (from bytes: x / 255)" if low >= 0 and 2 < high <= 255 else hint
        raise ValueError(f"{name} lies in [{low:.2f}, {high:.2f}]; expected pictures in [0, 1]{hint}.")
    if low == high:
        raise ValueError(f"{name} is {low:.2f} everywhere; expected pictures of more than one colour.")


def check_pair(made: Tensor, truth: Tensor, truth_name: str = "truth") -> None:
    """Refuse what cannot be compared picture by picture."""
    check("made", made)
    check(truth_name, truth)
    if made.shape != truth.shape:
        given = f"{tuple(made.shape)} and {truth_name} {tuple(truth.shape)}"
        raise ValueError(f"made has shape {given}; expected the same (resize one of them).")


def psnr(made: Float[Tensor, "*b c h w"], truth: Float[Tensor, "..."]) -> Psnr:
    """Peak signal-to-noise ratio of pictures against the truth.

    Raises:
        ValueError: see `check`; or a picture without any error, whose PSNR is infinite.

    >>> truth = torch.rand(2, 3, 8, 8) * 0.5
    >>> off = torch.tensor([0.1, 0.5])[:, None, None, None]             # two pictures: 20 dB and 6 dB
    >>> [round(value, 1) for value in psnr(truth + off, truth)]
    [8.9, 13.0]
    """
    check_pair(made, truth)
    error = (made - truth).square().flatten(-3).mean(-1)
    if (error == 0).any():
        raise ValueError("made equals truth in at least one picture, whose PSNR is infinite; leave out known pictures.")
    return Psnr(-10 * error.mean().log10().item(), (-10 * error.log10()).mean().item())


def ssim(made: Float[Tensor, "*b c h w"], truth: Float[Tensor, "..."], similarity: Compare) -> float:
    """Structural similarity, mean over pictures; 1 for the same, and `similarity` says how to compare two.

    Raises:
        ValueError: see `check`; whatever `similarity` refuses.

    >>> made, truth = torch.rand(2, 3, 8, 8).unbind()
    >>> ssim(made, truth, lambda a, b: (a == b).float()) < ssim(truth, truth, lambda a, b: (a == b).float())
    True
    """
    check_pair(made, truth)
    return similarity(*(x.reshape(-1, *x.shape[-3:]) for x in (made, truth))).mean().item()


def lpips(made: Float[Tensor, "*b 3 h w"], truth: Float[Tensor, "..."], distance: Compare) -> float:
    """Perceptual distance, mean over pictures; 0 for the same. LPIPS is the name for its published networks' alone.

    Args:
        made, truth: in [0, 1], as everywhere here. A known slip is to feed the network these as they are.
        distance: as `lpips.LPIPS`, of pictures in [-1, 1].

    Raises:
        ValueError: see `check`.

    >>> black, grey = torch.linspace(0, 0.1, 48).view(1, 3, 4, 4), torch.linspace(0.5, 0.6, 48).view(1, 3, 4, 4)
    >>> round(lpips(black, grey, lambda a, b: (a - b).abs()), 3)                                 # 0.5 of 1 is 1 of 2
    1.0
    """
    check_pair(made, truth)
    with torch.no_grad():
        return distance(*(x.reshape(-1, *x.shape[-3:]) * 2 - 1 for x in (made, truth))).mean().item()


def embedded(name: str, pictures: Tensor, embed: Embed) -> Float[Tensor, "n d"]:
    """Features of length 1."""
    if pictures.ndim != 4:
        raise ValueError(f"{name} has shape {tuple(pictures.shape)}; expected pictures (n, 3, h, w).")
    check(name, pictures)
    return F.normalize(embed(pictures), dim=-1)


def clip_i(made: Float[Tensor, "n *picture"], truth: Float[Tensor, "..."], embed: Embed) -> float:
    """Cosine similarity of pictures and truth, mean over pairs; 1 at best. Called CLIP-I if `embed` is CLIP.

    >>> colours = lambda pictures: pictures.mean((2, 3))
    >>> red, green = torch.eye(3)[:2, :, None, None].expand(-1, -1, 4, 4).unbind()
    >>> clip_i(red[None], green[None], colours), clip_i(red[None], red[None], colours)
    (0.0, 1.0)
    """
    check_pair(made, truth)
    a, b = (embedded(name, pictures, embed) for name, pictures in (("made", made), ("truth", truth)))
    return (a * b).sum(-1).mean().item()


def clip_c(video: Float[Tensor, "t 3 h w"], embed: Embed, pairs: str = "adjacent") -> float:
    """Cosine similarity of the frames of one video; a still video scores 1, so more is not always better.

    Args:
        video: at least two frames.
        embed: features of pictures.
        pairs: "adjacent" frames, or "all" pairs, which scores motion lower.

    Raises:
        ValueError: see `check`; a single frame, or other pairs.
    """
    if pairs not in ("adjacent", "all"):
        raise ValueError(f"pairs is {pairs!r}; expected 'adjacent' or 'all'.")
    if len(video) < 2:
        raise ValueError(f"video has {len(video)} frame; expected at least 2.")
    f = embedded("video", video, embed)
    cosine = f @ f.T
    found = cosine.diagonal(1) if pairs == "adjacent" else cosine[torch.ones_like(cosine).triu(1) > 0]
    return found.mean().item()


def clip_score(pictures: Float[Tensor, "n 3 h w"], captions: Float[Tensor, "m d"], embed: Embed) -> float:
    """100 times the cosine similarity of pictures and their captions, at least 0; 100 at best.

    Args:
        pictures: one for each caption.
        captions: their features, by the text half of the same network.
        embed: features of pictures.

    Raises:
        ValueError: see `check`; another number of captions, or features of another size.
    """
    f = embedded("pictures", pictures, embed)
    if f.shape != captions.shape:
        raise ValueError(f"captions has shape {tuple(captions.shape)}; expected {tuple(f.shape)}, as of pictures.")
    return 100 * (f * F.normalize(captions, dim=-1)).sum(-1).clamp(min=0).mean().item()


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m e"]) -> float:
    """Between two sets of features, as if both were Gaussian; not negative, 0 for the same mean and covariance.

    The trace of the square root of C C' is the sum of the square roots of the eigenvalues of C^1/2 C' C^1/2, which is
    symmetric, so that no imaginary part arises.

    Raises:
        ValueError: a set of fewer than 2, features of different sizes, or values that are not finite.

    >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> round(frechet_distance(x, x + 3), 6)                                        # only means differ: 4 x 3^2
    36.0
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected (n, d) and (m, d).")
    fewest, d = min(len(a), len(b)), a.shape[1]
    if fewest < 2:
        raise ValueError(f"a set has {fewest} member; expected at least 2, since one has no covariance.")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features hold NaN or infinite values; expected finite ones.")
    if fewest < 2 * d:
        warnings.warn(f"{fewest} members for {d} features: the distance is biased upwards below {2 * d}.", stacklevel=2)
    means, covariances = zip(*((x.double().mean(0), x.double().T.cov()) for x in (a, b)), strict=True)
    first, second = (c.reshape(d, d) for c in covariances)
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return ((means[0] - means[1]).square().sum() + first.trace() + second.trace() - 2 * shared).clamp(min=0).item()


def fvd(
    made: Float[Tensor, "n t 3 h w"], references: Mapping[str, Float[Tensor, "m t 3 h w"]], embed: Embed
) -> dict[str, float]:
    """Frechet distance of videos to each set of references; 4Real-Video names two: a large real set, its own inputs.

    Args:
        made: videos.
        references: label -> videos.
        embed: features of videos; FVD is the name for I3D's alone.

    Raises:
        ValueError: see `check` and `frechet_distance`; tensors that are not videos, or no references.
    """
    if not references:
        raise ValueError("references is empty; expected at least one set of videos.")
    for name, videos in {"made": made, **references}.items():
        if videos.ndim != 5:
            raise ValueError(f"{name} has shape {tuple(videos.shape)}; expected videos (n, t, 3, h, w).")
        check(name, videos)
    features, found = embed(made), {}
    for name, videos in references.items():
        found[name] = frechet_distance(features, embed(videos))
    return found


def confidence(sure: Float[Tensor, "*b h w"], thresholds: Sequence[float] = (0.5, 0.7, 0.9)) -> dict[float, float]:
    """The share of pixels whose matching confidence is above each threshold, as papers use GIM's and Dust3R's.

    >>> confidence(torch.tensor([[0.2, 0.6], [0.8, 1.0]]))
    {0.5: 0.75, 0.7: 0.5, 0.9: 0.25}
    """
    if not sure.isfinite().all():
        raise ValueError("sure holds NaN or infinite values; expected finite ones.")
    return {threshold: (sure > threshold).float().mean().item() for threshold in thresholds}
