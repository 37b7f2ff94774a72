"""Features of pictures by a network trained on ImageNet: a perceptual distance, features for metrics, image tokens.

    levels        f_1 ... f_6 of EfficientNet-Lite0: its last block at 1/2, 1/4, 1/8, 1/16, 1/32, and its head at 1/32
    distance      d(a, b) = mean over levels and places of |f(a) / |f(a)| - f(b) / |f(b)||^2          in [0, 4]
    features      the means over places of f_1 ... f_5, each of length 1, one after the other: 512 numbers
    of a video    the mean of its frames' features, and the mean size of their change to the next frame: 1024
    tokens        the places of one level, each scaled to a mean square of 1

The distance is LPIPS (Zhang et al. 2018, arXiv 1801.03924) without its learned weights and on another network, so it
is never called LPIPS; nor is a Frechet distance of these features FID or FVD, nor their cosine CLIP-I. `NAME` belongs
beside each number.

Chosen by measurement on 48 rendered characters of 64 pixels on white, by `tests/benchmarks/imagenet_features.py`:

    - All pictures get the same noise, of 0.02, since the network exaggerates invisible noise on flat backgrounds: noise
      of 0.01, 42 dB, costs 0.23 of what another character costs, more than a blur of one pixel, 0.18; with it 0.03 and
      0.21. (So has LPIPS been made robust: Kettunen et al. 2019, arXiv 1906.03973.) The same character 30, 60 or 90
      degrees further round is found among 48 in 85, 72, 57% of cases, without it in 88, 77, 64: `noise=0` is for
      pictures that have noise themselves.
    - Pictures are first brought to 128 pixels: 160 and 224 find more, 91, 80, 66%, and cost 1.7 and 3.5 times as much.
    - The change over time: a still video is 2.9 times as far as an unseen true one, by the means alone 1.7 times.
      A reversed video is as near as a true one.

Departures: those.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.pretrained.efficientnet_lite import EfficientNetLite

NAME = "EfficientNet-Lite0, ImageNet"
"""Belongs beside every number."""
SIZE = 128
"""Pixels to which a picture's shorter side is brought."""
STRIDE = 32
"""Of the coarsest level; sides are brought to a multiple of it."""
NOISE = 0.02
"""Standard deviation of what is added to every picture; the same for all."""


class ImageNetFeatures(nn.Module):
    """See above. Frozen, and differentiable with respect to pictures; in float32, under autocast too.

    Args:
        network: the published one, when left out.
        size: pixels to which a picture's shorter side is brought, a multiple of 32.
        noise: standard deviation of what all pictures get; 0 for pictures with noise of their own.
        at_once: pictures at a time, in all but `forward`.

    Raises:
        ValueError: another size, noise below 0; no network given and its package is not installed.
    """

    def __init__(
        self, network: EfficientNetLite | None = None, size: int = SIZE, noise: float = NOISE, at_once: int = 64
    ):
        super().__init__()
        if size < STRIDE or size % STRIDE:
            raise ValueError(f"size is {size}; expected a multiple of {STRIDE}.")
        if noise < 0:
            raise ValueError(f"noise is {noise}; expected 0 or more.")
        self.network = EfficientNetLite.from_pretrained() if network is None else network
        self.size, self.noise, self.at_once = size, noise, at_once
        strides = [stage[2] for stage in self.network.config.stages[1:]]
        self.last = [i for i, stride in enumerate([*strides, 2]) if stride > 1]
        """The last stage at each resolution."""

    def forward(self, pictures: Float[Tensor, "n *picture"]) -> list[Float[Tensor, "n c y x"]]:
        """Every level of pictures `(n, 3, h, w)` in [0, 1] of any size, the finest one first.

        Raises:
            ValueError: another shape, or values outside [0, 1].
        """
        check("pictures", pictures, 4)
        with torch.autocast(pictures.device.type, enabled=False):
            stages = self.network(self.prepare(pictures))
        return [stages[i].float() for i in (*self.last, -1)]

    def prepare(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 y x"]:
        """Pictures in [0, 1] as the network takes them: in [-1, 1], of its size, with noise."""
        scale = self.size / min(pictures.shape[-2:])
        sides = [max(1, round(side * scale / STRIDE)) * STRIDE for side in pictures.shape[-2:]]
        drawn = torch.randn(pictures.shape[1:], generator=torch.Generator().manual_seed(0))
        pictures = pictures.to(next(self.network.parameters()).dtype)
        pictures = pictures + self.noise * drawn.to(pictures)
        return F.interpolate(pictures, sides, mode="bilinear", antialias=True, align_corners=False) * 2 - 1

    def perceptual_distance(self, a: Float[Tensor, "n *picture"], b: Float[Tensor, "..."]) -> Float[Tensor, " n"]:
        """How different pictures `(n, 3, h, w)` in [0, 1] look, each pair: 0 for the same; about 1 for other things."""
        if a.shape != b.shape:
            raise ValueError(f"a has shape {tuple(a.shape)}, b has {tuple(b.shape)}; expected the same.")
        pairs = zip(a.split(self.at_once), b.split(self.at_once), strict=True)
        return torch.cat([self._distance(*pair) for pair in pairs])

    def _distance(self, a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        levels = [F.normalize(level, dim=1).chunk(2) for level in self(torch.cat([a, b]))]
        return torch.stack([(x - y).square().sum(1).mean((1, 2)) for x, y in levels]).mean(0)

    def embed(self, pictures: Float[Tensor, "n *picture"]) -> Float[Tensor, "n d"]:
        """Features of pictures `(n, 3, h, w)` in [0, 1], all of one length: for cosines and Frechet distances."""

        def pooled(some: Tensor) -> Tensor:
            return torch.cat([F.normalize(level.mean((-2, -1)), dim=-1) for level in self(some)[:-1]], -1)

        return torch.cat([pooled(some) for some in pictures.split(self.at_once)])

    def embed_video(self, videos: Float[Tensor, "n *video"]) -> Float[Tensor, "n d"]:
        """Features of videos `(n, t, 3, h, w)` in [0, 1]: their content, and how much it changes."""
        check("videos", videos, 5)
        if videos.shape[1] < 2:
            raise ValueError(f"videos have {videos.shape[1]} frame; expected at least 2.")
        frames = self.embed(videos.flatten(0, 1)).unflatten(0, videos.shape[:2])
        return torch.cat([frames.mean(1), frames.diff(dim=1).abs().mean(1)], -1)

    def tokens(self, pictures: Float[Tensor, "n *picture"], level: int = 3) -> Float[Tensor, "n m d"]:
        """Places of one level, row by row, as tokens to attend to: of square pictures 64 tokens of 112 numbers.

        Args:
            pictures: `(n, 3, h, w)` in [0, 1].
            level: 0 is the finest; 4 gives 16 tokens of 320 numbers, 5 gives 16 of 1280."""
        places = torch.cat([self(some)[level] for some in pictures.split(self.at_once)]).flatten(2).mT
        return F.normalize(places, dim=-1) * places.shape[-1] ** 0.5


def check(name: str, pictures: Tensor, axes: int) -> None:
    """One sentence for another shape, values outside [0, 1] by more than 0.01, or NaN."""
    if pictures.ndim != axes or pictures.shape[-3] != 3 or not pictures.numel():
        raise ValueError(f"{name} has shape {tuple(pictures.shape)}; expected (n, {'t, ' * (axes - 4)}3, h, w).")
    low, high = pictures.detach().aminmax()
    if not (low >= -0.01 and high <= 1.01):  # NaN fails too
        raise ValueError(f"{name} lies in [{low:.2f}, {high:.2f}]; expected pictures in [0, 1].")
