"""Does the distance see what it should, at which size, and how fast? Creatures or characters of 64 pixels.

    python tests/benchmarks/imagenet_features.py
    python tests/benchmarks/imagenet_features.py --characters              the collection of animated characters

1. The distance from the truth by kind and strength of what is wrong, as shares of another's distance; beside it the
   same without the noise that all pictures get.
2. How often one is found among all by features from a view 30, 60 and 90 degrees further round at another moment; with
   and without noise. Milliseconds for 64 pictures, one thread.
3. Frechet distances of corrupted videos, over that of true ones that were not seen.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timing import machine, seconds
from torch import Tensor

from fourd_minimal.data.characters import sample_characters
from fourd_minimal.data.corruptions import blur, colour_shift, noise
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.metrics import frechet_distance
from fourd_minimal.pretrained.efficientnet_lite import EfficientNetLite
from fourd_minimal.pretrained.imagenet_features import NOISE, SIZE, ImageNetFeatures
from fourd_minimal.training.tables import table

Grids = Float[Tensor, "n v t 3 h w"]
PIXELS, TURN_DEG = 64, 30


def shift(frames: Tensor, pixels: float) -> Tensor:
    """To the right; background comes in."""
    return F.pad(frames, (int(pixels), 0), value=1.0)[..., : frames.shape[-1]]


WRONG: dict[str, tuple[Callable, tuple[float, ...]]] = {
    "blur, pixels": (blur, (0.5, 1, 2)),
    "noise": (noise, (0.01, 0.02, 0.05, 0.1)),
    "shift, pixels": (shift, (1, 2, 4)),
    "colour shift": (colour_shift, (0.03, 0.1, 0.3)),
}


def what_it_sees(network: EfficientNetLite, grids: Grids) -> str:
    truth = grids[:, 0, 0]
    distances = [ImageNetFeatures(network, noise=level).perceptual_distance for level in (NOISE, 0)]
    others = [distance(truth, truth.roll(1, 0)).mean() for distance in distances]
    cases = [("30 degrees further round", "", grids[:, 1, 0]), ("a third of the clip later", "", grids[:, 0, 1])]
    cases += [(name, str(a), corrupt(truth[None], a)[0]) for name, (corrupt, amounts) in WRONG.items() for a in amounts]
    rows = [
        (name, amount, *(f"{d(made, truth).mean() / other:.2f}" for d, other in zip(distances, others, strict=True)))
        for name, amount, made in cases
    ]
    return table(("What is wrong", "By", f"Distance, of {others[0]:.2f}", f"No noise, of {others[1]:.2f}"), rows)


def found_among_all(features: Float[Tensor, "n v t d"], turns: int) -> float:
    """The share of views, this many turns further round at another moment, whose nearest is the right one."""
    unit, (n, v, t) = F.normalize(features, dim=-1), features.shape[:3]
    pairs = [(a, b) for a in range(v) for b in range(v) if abs(a - b) == turns]
    moments = [(i, j) for i in range(t) for j in range(t) if i != j]
    right = [(unit[:, a, i] @ unit[:, b, j].T).argmax(1) == torch.arange(n) for a, b in pairs for i, j in moments]
    return torch.stack(right).float().mean().item()


def sizes(network: EfficientNetLite, grids: Grids, asked: tuple[int, ...] = (64, 96, SIZE, 160, 224)) -> str:
    rows, frames = [], grids.flatten(0, 2)
    for size in asked:
        kinds = [ImageNetFeatures(network, size, level) for level in (NOISE, 0)]
        seen = [features.embed(frames).unflatten(0, grids.shape[:3]) for features in kinds]
        shares = (", ".join(f"{100 * found_among_all(x, turns):.0f}" for turns in (1, 2, 3)) for x in seen)
        (took,) = seconds(lambda plain=kinds[1]: plain.embed(frames[:64]), clock=time.process_time, summary=min)
        rows.append((f"{size} pixels", *shares, f"{1000 * took:.0f}"))
    return table(("Brought to", "Found, %: features", "No noise", "ms for 64"), rows)


def videos(network: EfficientNetLite, n: int, times: int = 8) -> str:
    """Half of the videos are the reference; the others are corrupted, or left alone."""
    drawn = sample_scenes(8 * n, 1, times, PIXELS, HELD_OUT, "creature", geometry=False).rgb[:, 0]
    (reference, others), order = (drawn[::2], drawn[1::2]), torch.arange(times)
    corrupted = {"true": others, "still": others[:, 0 * order], "a third as fast": others[:, order // 3]}
    corrupted |= {"reversed": others[:, order.flip(0)], "noise of 0.01": noise(others, 0.01), "blur": blur(others, 1)}
    rows = [[kind] for kind in corrupted]
    for features in (ImageNetFeatures(network, noise=level) for level in (NOISE, 0)):
        truth = features.embed_video(reference)
        found = [frechet_distance(truth, features.embed_video(made)) for made in corrupted.values()]
        for row, distance in zip(rows, found, strict=True):
            row.append(f"{distance / found[0]:.2f}")
    return table(("Videos", "Frechet distance, over true ones'", "No noise"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", action="store_true", help="take characters instead of creatures")
    parser.add_argument("--n", type=int, default=48, help="how many of them")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*biased upwards")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    network, views = EfficientNetLite.from_pretrained(), dict(geometry=False, sweep_deg=3 * TURN_DEG)
    if options.characters:
        grids = sample_characters(options.n, 4, 3, PIXELS, 0, background="white", **views).rgb
    else:
        grids = sample_scenes(options.n, 4, 3, PIXELS, HELD_OUT, "creature", **views).rgb
    print(f"{machine()}\n\n{what_it_sees(network, grids)}\n\n{sizes(network, grids)}\n\n{videos(network, options.n)}")
