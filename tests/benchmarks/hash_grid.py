"""How fast is the hash grid? Forward and backward, against nerfstudio's in plain torch, in one run.

16 levels of 2^19 entries, 65,536 points; nerfstudio has no grid in four dimensions, so ours stands alone there.

    pip install --no-deps nerfstudio==1.1.5 && python tests/benchmarks/hash_grid.py
"""

import torch
from einops import rearrange
from nerfstudio_parts import field_component
from timing import machine, seconds, trained

from fourd_minimal.configs.presets import device
from fourd_minimal.hash_grid import HashGrid, encode


def main(points: int = 65_536) -> None:
    torch.manual_seed(0)
    theirs = field_component("encodings").HashEncoding(16, 16, 4096, implementation="torch").to(device())
    three, four = HashGrid(3).to(device()), HashGrid(4).to(device())
    three.table.data = rearrange(theirs.hash_table.detach(), "(l e) f -> l f e", l=16).clone()
    x = torch.rand(points, 4, device=device())
    off = (three(x[:, :3]) - theirs(x[:, :3])).abs().max().item()
    calls = {
        "ours, 3-D": lambda: three(x[:, :3]),
        "ours in plain torch, 3-D": lambda: encode(x[:, :3], three.table, three.scales),
        "nerfstudio, 3-D": lambda: theirs(x[:, :3]),
        "ours, 4-D": lambda: four(x),
        "ours in plain torch, 4-D": lambda: encode(x, four.table, four.scales),
    }
    found = seconds(*map(trained, calls.values()), summary=min)
    print(f"{machine()}\n{points} points, 16 levels of 2^19 entries; outputs differ by at most {off:.1e}")
    for name, took in zip(calls, found, strict=True):
        print(f"{name:26} {1000 * took:7.0f} ms  {took / found[0]:5.1f}x")


if __name__ == "__main__":
    main()
