"""How fast is the hash grid? Forward and backward, against nerfstudio's in plain torch, in one run.

16 levels of 2^19 entries, 65,536 points; nerfstudio has no grid in four dimensions, so ours stands alone there.
Nothing here is a timed test.

    pip install --no-deps nerfstudio==1.1.5 && python tests/benchmarks/hash_grid.py
"""

import platform
import sys
import time
from collections.abc import Callable
from unittest.mock import MagicMock

import torch
from einops import rearrange

from fourd_minimal.configs.presets import device
from fourd_minimal.hash_grid import HashGrid, encode

UNUSED = {"viser", "viser.transforms", "rich", "rich.console", "rich.progress", "rich.text"} - set(sys.modules)
"""What nerfstudio imports on its way, and does not use here: stubs, for as long as that takes."""
sys.modules.update((name, MagicMock()) for name in UNUSED)
from nerfstudio.field_components.encodings import HashEncoding  # noqa: E402

for name in UNUSED:
    del sys.modules[name]


def seconds(call: Callable[[], torch.Tensor]) -> float:
    if device().type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call().square().sum().backward()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main(points: int = 65_536, repeats: int = 5) -> None:
    torch.manual_seed(0)
    theirs = HashEncoding(16, 16, 4096, implementation="torch").to(device())
    three, four = HashGrid(3).to(device()), HashGrid(4).to(device())
    three.table.data = rearrange(theirs.hash_table.detach(), "(l e) f -> l f e", l=16).clone()
    x = torch.rand(points, 4, device=device())
    with torch.no_grad():
        off = (three(x[:, :3]) - theirs(x[:, :3])).abs().max().item()
    calls = {
        "ours, 3-D": lambda: three(x[:, :3]),
        "ours in plain torch, 3-D": lambda: encode(x[:, :3], three.table, three.scales),
        "nerfstudio, 3-D": lambda: theirs(x[:, :3]),
        "ours, 4-D": lambda: four(x),
        "ours in plain torch, 4-D": lambda: encode(x, four.table, four.scales),
    }
    found = {name: min(seconds(call) for _ in range(repeats)) for name, call in calls.items()}
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {device()}")
    print(f"{points} points, 16 levels of 2^19 entries; outputs differ by at most {off:.1e}")
    for name, took in found.items():
        print(f"{name:26} {1000 * took:7.0f} ms  {took / found['ours, 3-D']:5.1f}x")


if __name__ == "__main__":
    main()
