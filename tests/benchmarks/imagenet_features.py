"""Does the distance see what it should, at which size, and how fast? Creatures of 64 pixels; nothing is a timed test.

    python tests/benchmarks/imagenet_features.py
    python tests/benchmarks/imagenet_features.py --characters ../shared/data/characters         a slow renderer: minutes

1. The distance from the truth by kind and strength of what is wrong, as shares of another character's; beside it the
   same without the noise that all pictures get.
2. How often one is found among all by features from a view 30, 60 and 90 degrees further round at another moment; with
   and without noise, and by the head alone. Milliseconds for 64 pictures, one thread.
3. Frechet distances of videos that are corrupted, over that of true ones that were not seen; without what says how much
   they change, and without noise.
"""

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.data.corruptions import blur, colour_shift, noise
from fourd_minimal.data.gltf import render_asset
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.metrics import frechet_distance, psnr
from fourd_minimal.pretrained.efficientnet_lite import EfficientNetLite
from fourd_minimal.pretrained.imagenet_features import NOISE, SIZE, ImageNetFeatures
from fourd_minimal.training.tables import table

Grids = Float[Tensor, "n v t 3 h w"]
PIXELS, TURN_DEG = 64, 30


def shift(frames: Tensor, pixels: float) -> Tensor:
    """To the right; white comes in."""
    return F.pad(frames, (int(pixels), 0), value=1.0)[..., : frames.shape[-1]]


WRONG: dict[str, tuple[Callable, tuple[float, ...]]] = {
    "blur, pixels": (blur, (0.5, 1, 2)),
    "noise": (noise, (0.01, 0.02, 0.05, 0.1)),
    "shift, pixels": (shift, (1, 2, 4)),
    "colour shift": (colour_shift, (0.03, 0.1, 0.3)),
}


def creatures(n: int) -> Grids:
    """Four views, 30 degrees apart, of three moments."""
    return sample_scenes(n, 4, 3, PIXELS, HELD_OUT, "creature", geometry=False, sweep_deg=3 * TURN_DEG).rgb


def characters(folder: Path, n: int) -> Grids:
    """The same of the first asset of each rig family, as far as they can be drawn."""
    families: dict[str, dict] = {}
    for asset in json.loads((folder / "INDEX.json").read_bytes()):
        if asset["liveliest_clip"]:
            families.setdefault(asset["rig_family"], asset)
    look = dict(azimuth_sweep_deg=3 * TURN_DEG, time_range=(0, 0.66), radius=2.6, oversample=3)
    found = []
    for asset in families.values():
        try:
            drawn = render_asset(folder / asset["file"], 4, 3, PIXELS, asset["liveliest_clip"], **look)
            found.append(drawn.rgb)
        except (ValueError, RuntimeError) as reason:
            print(f"{asset['id']} is left out: {reason}")
        if len(found) == n:
            break
    return torch.cat(found)


def what_it_sees(network: EfficientNetLite, grids: Grids) -> str:
    truth = grids[:, 0, 0]
    distances = [ImageNetFeatures(network, noise=level).perceptual_distance for level in (NOISE, 0)]
    others = [distance(truth, truth.roll(1, 0)) for distance in distances]
    cases = [("another one", "", truth.roll(1, 0)), ("30 degrees further round", "", grids[:, 1, 0])]
    cases += [("a third of the clip later", "", grids[:, 0, 1])]
    cases += [(name, str(a), corrupt(truth[None], a)[0]) for name, (corrupt, amounts) in WRONG.items() for a in amounts]
    rows, before = [], {}
    for name, amount, made in cases:
        moving = (made != truth).flatten(1).any(1)
        found = [distance(made, truth) for distance in distances]
        shares = [d.mean() / other.mean() for d, other in zip(found, others, strict=True)]
        grows = (found[0] > before.get(name, torch.zeros(len(truth))))[moving].float().mean()
        near = (found[0] < others[0]).float().mean()
        before[name] = found[0]
        decibels = psnr(made[moving], truth[moving]).pooled
        rows.append((name, amount, *(f"{x:.2f}" for x in shares), f"{decibels:.1f}", f"{grows:.0%}", f"{near:.0%}"))
    head = ("What is wrong", "By", f"Distance, of {others[0].mean():.2f}", f"No noise, of {others[1].mean():.2f}")
    return table((*head, "PSNR, dB", "Above the one before", "Below another's"), rows)


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
        noisy, plain = (ImageNetFeatures(network, size, level) for level in (NOISE, 0))
        head = torch.cat([plain(some)[-1].mean((2, 3)) for some in frames.split(64)])
        seen = [x.unflatten(0, grids.shape[:3]) for x in (noisy.embed(frames), plain.embed(frames), head)]
        shares = (", ".join(f"{100 * found_among_all(x, turns):.0f}" for turns in (1, 2, 3)) for x in seen)
        rows.append((f"{size} pixels", *shares, f"{milliseconds(lambda plain=plain: plain.embed(frames[:64])):.0f}"))
    return table(("Brought to", "Found, %: features", "No noise", "Head alone, no noise", "ms for 64"), rows)


def milliseconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Of this process, the fastest of a few."""
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        taken.append(1000 * (time.process_time() - began))
    return min(taken)


def videos(network: EfficientNetLite, n: int, times: int = 8) -> str:
    """Half of the videos are the reference; the others are corrupted, or left alone."""
    drawn = [sample_scenes(n, 1, times, PIXELS, HELD_OUT + i, "creature", geometry=False).rgb[:, 0] for i in range(8)]
    reference, others = torch.cat(drawn)[::2], torch.cat(drawn)[1::2]
    order = torch.arange(times)
    shuffled = order[torch.randperm(times, generator=torch.Generator().manual_seed(0))]
    corrupted = {"true": others, "still": others[:, 0 * order], "a third as fast": others[:, order // 3]}
    corrupted |= {"shuffled": others[:, shuffled], "reversed": others[:, order.flip(0)]}
    corrupted |= {"noise of 0.01": noise(others, 0.01), "blur of 1 pixel": blur(others, 1)}
    found = {}
    for level in (NOISE, 0):
        features = ImageNetFeatures(network, noise=level)
        truth, half = features.embed_video(reference), 512
        for kind, made in corrupted.items():
            made = features.embed_video(made)
            found[kind, level] = frechet_distance(truth, made)
            found[kind, "means"] = frechet_distance(truth[:, :half], made[:, :half])
    rows = [(kind, *(f"{found[kind, of] / found['true', of]:.2f}" for of in (NOISE, "means", 0))) for kind in corrupted]
    return table(("Videos", "Frechet distance, over true ones'", "Means alone, no noise", "No noise"), rows)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=Path, help="folder with INDEX.json and assets")
    parser.add_argument("--n", type=int, default=48, help="creatures and characters")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*biased upwards")
    torch.set_num_threads(1)
    network = EfficientNetLite.from_pretrained()
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread\n")
    worlds = {"creatures": creatures(options.n)}
    if options.characters:
        worlds["characters"] = characters(options.characters, options.n)
    for name, grids in worlds.items():
        print(f"{len(grids)} {name}\n\n{what_it_sees(network, grids)}\n\n{sizes(network, grids)}\n")
    print(videos(network, options.n))


if __name__ == "__main__":
    main()
