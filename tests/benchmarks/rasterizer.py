"""How fast are characters drawn? Frames a minute, posing, memory, and against Blender; nothing is a timed test.

    python tests/benchmarks/rasterizer.py

It wants the collection (`fourd fetch-characters`). Times are of processor, one thread, the best of some. With
FOURD_BLENDER_PYTHON=/path/to/python, whose environment has `bpy==4.5.*` and `numpy<2`, eight assets are rendered by
Blender, too: silhouettes and processor time, in one run.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.data import gltf
from fourd_minimal.data.assets.document import Document
from fourd_minimal.data.assets.pose import pose
from fourd_minimal.data.characters import load, sample_characters
from fourd_minimal.data.collection import assets
from fourd_minimal.data.procedural import FOV_DEG, RADIUS

SIZE, OVERSAMPLE = 64, 3
AIMS = {"khronos_Fox": (18000, 12000), "kaykit_Knight": (9000, 7000)}
"""Frames a minute of thread time: pictures alone, and with depth, flow and visibility."""
WITH_BLENDER = ("khronos_Fox", "kaykit_Knight", "quaternius_robot_raylib", "raylib_greenman")
WITH_BLENDER += ("q_Triceratops", "q_Koi", "dcl_hummingbird", "kaykit_AnimatedCharacter")
"""Files at rest in their bind pose. Blender bakes the rest pose into the mesh, and of others, such as dcl_shark, moves
vertices between joints elsewhere than the specification says (IoU 0.97)."""


def best(call, repeats: int = 5) -> float:
    """Seconds of this thread."""
    found = []
    for _ in range(repeats):
        began = time.thread_time()
        call()
        found.append(time.thread_time() - began)
    return min(found)


def grid(path: Path, views: int, times: int) -> dict:
    """What `gltf.render` takes for an asset's liveliest clip, seen by cameras on an arc."""
    asset = load(path)
    clip = gltf.choose_clip(asset, None)
    times_s = gltf.moments(asset.clips[clip], times)
    c2w = circular_trajectory(torch.linspace(0, 50, views), 20.0, RADIUS)
    options = dict(fov_deg=FOV_DEG, size=SIZE, oversample=OVERSAMPLE)
    return dict(asset=asset, clip=clip, times_s=times_s, c2w=c2w, **options)


def speed(found: dict[str, Path]) -> None:
    print(f"\nframes a minute at {SIZE} px, {OVERSAMPLE} x {OVERSAMPLE} samples, 8 x 8 grid (aim)")
    for name, aims in AIMS.items():
        job = grid(found[name], 8, 8)
        pace = [60 * 64 / best(lambda job=job, g=g: gltf.render(**job, geometry=g)) for g in (False, True)]
        said = ", ".join(f"{p:,.0f} ({aim:,})" for p, aim in zip(pace, aims, strict=True))
        print(f"  {name}: {said}")


def posing(found: dict[str, Path]) -> None:
    """Milliseconds for one of eight times, of every asset's first clip."""
    before, began = memory(), time.thread_time()
    for path in found.values():
        load(path)
    print(f"\n{len(found)} assets: read in {time.thread_time() - began:.1f} s, ", end="")
    print(f"the process grew by {memory() - before:.0f} MB")
    costs = []
    for name, path in found.items():
        asset = load(path)
        if asset.clips:
            times_s = gltf.moments(asset.clips[0], 8)
            costs.append((1000 / 8 * best(lambda a=asset, t=times_s: pose(a, 0, t), 3), name))
    costs.sort()
    (median, _), (most, slowest) = costs[len(costs) // 2], costs[-1]
    print(f"posing, ms a time: median {median:.2f}, most {most:.2f} ({slowest})")


def memory() -> float:
    """MB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def batch(seed: int) -> int:
    torch.set_num_threads(1)
    sample_characters(2, 8, 8, SIZE, seed, geometry=False)
    return 2 * 64


def sampling() -> None:
    """Frames a minute of wall clock on all cores, as training draws them: batches made ahead, in processes."""
    cores, seeds = os.cpu_count() or 1, range(64)
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(batch, seeds))  # each process has read the assets then
        began = time.perf_counter()
        frames = sum(pool.map(batch, seeds))
        pace = 60 * frames / (time.perf_counter() - began)
    print(f"\nsampled by {cores} processes: {pace:,.0f} frames a minute (aim 25,000 on two cores)")
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"  load of the machine: {load_average:.1f}")


def single_clip(path: Path, index: int) -> bytes:
    """A .glb in which a clip is the only one: Blender mixes several."""
    document = Document(path)
    text = json.dumps({**document.json, "animations": [document.json["animations"][index]]}).encode()
    text += b" " * (-len(text) % 4)
    chunks = b"".join(
        len(part).to_bytes(4, "little") + kind + part for kind, part in ((b"JSON", text), (b"BIN\0", document.binary))
    )
    return b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunks)).to_bytes(4, "little") + chunks


def blender(python: str, job: dict, path: Path) -> dict[str, np.ndarray]:
    """Its frames, see `blender_render.py`."""
    with TemporaryDirectory() as folder:
        asset, described, frames = (Path(folder, name) for name in ("asset.glb", "job.json", "frames.npz"))
        asset.write_bytes(single_clip(path, job["clip"]))
        given = {name: job[name] for name in ("fov_deg", "size", "oversample")}
        arrays = {name: np.asarray(job[name]).tolist() for name in ("times_s", "c2w")}
        described.write_text(json.dumps(dict(asset=str(asset), threads=1, **given, **arrays)), encoding="utf-8")
        script = Path(__file__).with_name("blender_render.py")
        run = subprocess.run([python, "-I", script, described, frames], capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(run.stderr.strip().splitlines()[-1])
        with np.load(frames) as found:
            return {name: found[name] for name in found.files}


def against_blender(found: dict[str, Path], python: str) -> None:
    print("\nagainst Blender, 3 x 4 grid: silhouettes, depth where both see something, processor seconds a frame")
    ratios = []
    for name in WITH_BLENDER:
        job = grid(found[name], 3, 4)
        theirs, ours = blender(python, job, found[name]), gltf.render(**job)
        a, b = ours.alpha[0, :, :, 0].numpy() > 0.5, theirs["rgba"][..., 3] > 0.5
        depth, known = ours.depth[0, :, :, 0].numpy(), theirs["depth"][..., 0]
        apart = np.abs(depth - known)[(depth > 0) & (known > 0)]
        pace = best(lambda job=job: gltf.render(**job)) / 12
        start, rest = theirs["seconds"]
        ratios.append(rest / 12 / pace)
        print(
            f"  {name}: IoU {(a & b).sum() / (a | b).sum():.4f}, depth {np.median(apart):.1e}, "
            f"{pace:.4f} and {rest / 12:.4f} s: {ratios[-1]:.0f} times (and {start:.1f} s before)"
        )
    print(f"  {np.exp(np.mean(np.log(ratios))):.0f} times in the mean (aim 10)")


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores")
    found = {asset.id: asset.path for asset in assets()}
    posing(found)
    speed(found)
    sampling()
    if python := os.environ.get("FOURD_BLENDER_PYTHON"):
        against_blender(found, python)


if __name__ == "__main__":
    main()
