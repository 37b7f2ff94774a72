"""How fast is the motion module? Forward and backward, against diffusers' with the same weights, in one run.

16 frames, 64 channels, 32x32 places. `pip install -e ".[test]"` first; nothing here is a timed test.

    python tests/benchmarks/motion_module.py
"""

import platform
import time
from collections.abc import Callable

import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

from fourd_minimal.configs.presets import device
from fourd_minimal.motion_module import MotionModule


def seconds(call: Callable[[], torch.Tensor]) -> float:
    began = time.perf_counter()
    call().square().mean().backward()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main(frames: int = 16, channels: int = 64, side: int = 32, repeats: int = 9) -> None:
    torch.manual_seed(0)
    theirs = AnimateDiffTransformer3D(
        num_attention_heads=8,
        attention_head_dim=channels // 8,
        in_channels=channels,
        norm_num_groups=32,
        cross_attention_dim=None,
        activation_fn="geglu",
        attention_bias=False,
        double_self_attention=True,
        positional_embeddings="sinusoidal",
        num_positional_embeddings=32,
    ).to(device())
    torch.nn.init.normal_(theirs.proj_out.weight, std=0.1)  # it begins as the identity
    ours = MotionModule(channels, norm_over_clip=True).to(device())
    ours.load_animatediff(theirs.state_dict())
    x = torch.randn(frames, channels, side, side, device=device())
    off = (ours(x[None])[0] - theirs(x, num_frames=frames)).abs().max().item()
    found = {"ours": [], "diffusers": []}
    for _ in range(repeats + 2):  # alternating, so that a busy machine is busy for both
        found["ours"].append(seconds(lambda: ours(x[None])))
        found["diffusers"].append(seconds(lambda: theirs(x, num_frames=frames)))
    a, b = (min(times[2:]) for times in found.values())
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {device()}")
    print(f"{frames} frames, {channels} channels, {side}x{side}; outputs differ by at most {off:.1e}")
    print(f"forward and backward: ours {1000 * a:.0f} ms, diffusers {1000 * b:.0f} ms, {a / b:.2f}x")


if __name__ == "__main__":
    main()
