"""How fast is the motion module? Forward and backward, against diffusers' with the same weights, in one run.

python tests/benchmarks/motion_module.py
"""

import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from timing import machine, seconds, trained

from fourd_minimal.configs.presets import device
from fourd_minimal.motion_module import MotionModule


def main(frames: int = 16, channels: int = 64, side: int = 32) -> None:
    torch.manual_seed(0)
    kind = dict(activation_fn="geglu", attention_bias=False, double_self_attention=True)
    kind |= dict(positional_embeddings="sinusoidal", num_positional_embeddings=32)
    theirs = AnimateDiffTransformer3D(8, channels // 8, channels, norm_num_groups=32, **kind).to(device())
    torch.nn.init.normal_(theirs.proj_out.weight, std=0.1)  # it begins as the identity
    ours = MotionModule(channels, norm_over_clip=True).to(device())
    ours.load_animatediff(theirs.state_dict())
    x = torch.randn(frames, channels, side, side, device=device())
    calls = (lambda: ours(x[None])[0]), (lambda: theirs(x, num_frames=frames))
    off = (calls[0]() - calls[1]()).abs().max().item()
    a, b = seconds(*map(trained, calls), rounds=9, summary=min)
    print(f"{machine()}\n{frames} frames, {channels} channels, {side}x{side}; outputs differ by at most {off:.1e}")
    print(f"forward and backward: ours {1000 * a:.0f} ms, diffusers {1000 * b:.0f} ms, {a / b:.2f}x")


if __name__ == "__main__":
    main()
