"""Features of toy pictures and videos for metrics, where the weights of CLIP and I3D are unavailable.

CLIP similarity (Radford et al. 2021, arXiv 2103.00020) and FVD (Unterthiner et al. 2018, arXiv 1812.01717) compare
features of networks trained on the real world. This one was trained on the procedural world alone, to classify the
shape, the colour and the motion in a video, as I3D classifies 400 actions:

    picture -> 32 numbers           convolutions, then one linear map of all places
    video   -> 16 numbers           the same of 8 frames, convolved along time; the mean and the largest over time

So a number from it is never CLIP-I, CLIP-C or FVD: it is "picture similarity, toy features", "Frechet distance, toy
features". It orders results of this world, and means nothing outside. The features of videos have mean 0 and covariance
1 over this world; compare distances by one file of weights only.

Departures: everything is small, and assumed. There are 16 features, not I3D's 400 or 2048, so that a covariance is well
conditioned from 32 videos on.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.metrics import check
from fourd_minimal.systems.weights import Pretrained


@dataclass(frozen=True)
class ToyFeaturesConfig:
    """The network, and its classes."""

    labels: tuple[tuple[str, tuple[str, ...]], ...]
    """Attributes, each with its classes; the last one is of videos only."""
    image_size: int = 32
    """To which every picture is resized."""
    frames: int = 8
    """To which every video is resampled."""
    widths: tuple[int, ...] = (24, 48, 96)
    """Channels of the convolutions, each at half the size of the one before."""
    picture_dim: int = 32
    time_width: int = 64
    video_dim: int = 16

    def __post_init__(self):
        if not self.labels or any(len(answers) < 2 for _, answers in self.labels):
            raise ValueError(f"labels is {self.labels}; expected at least one attribute, each of 2 classes or more.")
        if self.image_size % 2 ** len(self.widths) or any(width % 8 for width in self.widths):
            fits = f"a multiple of {2 ** len(self.widths)}, and multiples of 8"
            raise ValueError(f"image_size is {self.image_size}, widths are {self.widths}; expected {fits}.")
        if self.frames < 2:
            raise ValueError(f"frames is {self.frames}; expected at least 2.")


class ToyFeatures(Pretrained):
    """Pictures and videos in, features out.

    >>> ToyFeatures.from_pretrained("toy").config.video_dim
    16
    """

    config_class, shipped, file = ToyFeaturesConfig, "toy_features", "features.safetensors"

    def __init__(self, config: ToyFeaturesConfig):
        super().__init__()
        self.config = config
        layers, given = [], 3
        for width in config.widths:
            kernel = 5 if given == 3 else 3
            layers += [nn.Conv2d(given, width, kernel, 2, kernel // 2), nn.GroupNorm(8, width), nn.SiLU()]
            given = width
        places = (config.image_size // 2 ** len(config.widths)) ** 2
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(places * given, config.picture_dim))
        self.along_time = nn.Sequential(
            nn.Conv1d(config.picture_dim, config.time_width, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(config.time_width, config.time_width, 3, padding=1),
            nn.SiLU(),
        )
        self.to_video = nn.Linear(2 * config.time_width, config.video_dim)
        self.of_picture, self.of_video = (
            nn.ModuleDict({name: nn.Linear(dim, len(answers)) for name, answers in labels})
            for dim, labels in ((config.picture_dim, config.labels[:-1]), (config.video_dim, config.labels))
        )

    def pictures(self, pictures: Float[Tensor, "n *picture"]) -> Float[Tensor, "n d"]:
        """Features of pictures `(n, 3, h, w)` in [0, 1], of any size.

        Raises:
            ValueError: another shape, values outside [0, 1], NaN, or one colour everywhere.
        """
        _check("pictures", pictures, 4, "(n, 3, h, w)")
        return self._embed(pictures)

    def videos(self, videos: Float[Tensor, "n *video"]) -> Float[Tensor, "n d"]:
        """Features of videos `(n, t, 3, h, w)` in [0, 1], of any size; of t frames the nearest to 8 even moments count.

        Raises:
            ValueError: another shape, a single frame, values outside [0, 1], NaN, or one colour everywhere.
        """
        _check("videos", videos, 5, "(n, t, 3, h, w)")
        return self._pool(self._frames(videos))

    def forward(self, videos: Float[Tensor, "n t 3 h w"]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Attribute -> logits of its classes: of every frame `(n, t, classes)`, and of whole videos `(n, classes)`."""
        frames = self._frames(videos)
        video = self._pool(frames)
        of_frames = {name: head(frames) for name, head in self.of_picture.items()}
        return of_frames, {name: head(video) for name, head in self.of_video.items()}

    def _embed(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        side = self.config.image_size
        if pictures.shape[-2:] != (side, side):
            pictures = F.interpolate(pictures, (side, side), mode="bilinear", antialias=True, align_corners=False)
        return self.trunk(pictures * 2 - 1)

    def _frames(self, videos: Float[Tensor, "n t 3 h w"]) -> Float[Tensor, "n frames d"]:
        moments = torch.linspace(0, videos.shape[1] - 1, self.config.frames).round().long()
        return self._embed(videos[:, moments.to(videos.device)].flatten(0, 1)).unflatten(0, (len(videos), -1))

    def _pool(self, frames: Float[Tensor, "n t d"]) -> Float[Tensor, "n dim"]:
        found = self.along_time(rearrange(frames, "n t d -> n d t"))
        return self.to_video(torch.cat([found.mean(-1), found.amax(-1)], -1))


def _check(name: str, pictures: Tensor, axes: int, expected: str) -> None:
    if pictures.ndim != axes or pictures.shape[-3] != 3:
        raise ValueError(f"{name} has shape {tuple(pictures.shape)}; expected {expected}.")
    if axes == 5 and pictures.shape[1] < 2:
        raise ValueError(f"{name} have {pictures.shape[1]} frame; expected at least 2.")
    check(name, pictures)
