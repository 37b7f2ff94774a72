"""AnimateDiff's published motion weights in our U-Net, and joint attention over views in diffusers' U-Net.

4Diffusion trains motion modules inside a frozen multi-view model (`four_diffusion.py`), and publishes neither. What is
public: Stable Diffusion, and AnimateDiff's motion modules for it (Guo et al. 2024). Two ways to bring them together:

    `load_motion_adapter`   ours: a whole AnimateDiff checkpoint into the places of `MultiviewUNet`
    `joint_views`           theirs: diffusers' `UNetMotionModel`, whose self-attention then reads all views of a frame

The places are the same 21: after each residual block and its transformer on the way down (8) and up (12), and one in
the middle, between the transformer and the second residual block. AnimateDiff v2 fills all of them; v1 and v3 have none
in the middle, where the module stays the identity.

Limits:

-   Published motion modules are for Stable Diffusion 1.5, which is `MultiviewUNetConfig(n_heads=8, text_dim=768)`. They
    load into 2.1 without complaint, where they were never trained.
-   AnimateDiff and 4Diffusion take the motion module's group norm frame by frame; diffusers' port takes it over the
    clip (`MotionModule(norm_over_clip=True)` is the same).
-   A model that was never trained on views knows no cameras: joined views agree in colour and style, not in shape.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from fourd_minimal.motion_module import MotionModule
from fourd_minimal.multiview_unet import MultiviewUNet

PLACE = re.compile(r"(?:.*\.)?((down_blocks|mid_block|up_blocks)\.(?:(\d+)\.)?motion_modules\.(\d+))\.(.+)")


def place_names(unet: MultiviewUNet) -> list[str]:
    """What AnimateDiff calls each of the U-Net's places, in the order of `unet.places`."""
    levels, n = len(unet.config.widths), unet.config.n_res_blocks
    down = [f"down_blocks.{i}.motion_modules.{j}" for i in range(levels) for j in range(n)]
    up = [f"up_blocks.{i}.motion_modules.{j}" for i in range(levels) for j in range(n + 1)]
    return [*down, "mid_block.motion_modules.0", *up]


def load_motion_adapter(unet: MultiviewUNet, state: Mapping[str, Tensor]) -> list[str]:
    """Give the motion modules of a U-Net the weights of a whole AnimateDiff checkpoint, in place.

    Clips longer than the checkpoint has positions for are refused from then on.

    Args:
        unet: with motion modules (`four_diffusion.add_motion_modules`).
        state: with the names of its authors, of diffusers' `MotionAdapter`, or of `UNetMotionModel`, of which all that
            is no motion module is skipped.

    Returns:
        the places that the checkpoint lacks, by AnimateDiff's names: their modules become the identity.

    Raises:
        ValueError: a U-Net without motion modules; no motion module in the checkpoint, or one that does not fit.
    """
    if not all(isinstance(module, MotionModule) for module in unet.temporal):
        raise ValueError("unet has no motion modules; expected add_motion_modules(unet) first.")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if match := PLACE.fullmatch(name):
            parts.setdefault(match[1], {})[match[5]] = value
    names = place_names(unet)
    if strange := sorted(parts.keys() - set(names)):
        raise ValueError(f"state has {strange[0]}, a place that this U-Net of {len(names)} has not.")
    if not parts:
        raise ValueError("state has no motion modules; expected a checkpoint of AnimateDiff.")
    for name, module in zip(names, unet.temporal, strict=True):
        if name not in parts:
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
            continue
        try:
            module.load_animatediff(parts[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        known = next((v.shape[-2] for k, v in parts[name].items() if k.endswith(".pe")), module.max_frames)
        module.max_frames = known
    return [name for name in names if name not in parts]


class JointViews:
    """Diffusers' self-attention over the places of all views of a frame: one sequence in place of `views`.

    The rows are (objects, views, frames), as a motion U-Net lays out a batch of views.
    """

    def __init__(self, own: Any, views: int):
        self.own, self.views, self.frames = own, views, 1

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sizes = dict(v=self.views, f=self.frames)
        joined = rearrange(hidden_states, "(b v f) l c -> (b f) (v l) c", **sizes)
        return rearrange(self.own(attn, joined, *args, **kwargs), "(b f) (v l) c -> (b v f) l c", **sizes)


@contextmanager
def joint_views(unet: nn.Module, views: int) -> Iterator[nn.Module]:
    """Inside the block, every spatial self-attention of a U-Net of diffusers reads all views of a frame at once.

    `unet` is a `UNetMotionModel`, whose batch is then (objects * views), each a clip; or a `UNet2DConditionModel`,
    whose batch is (pictures * views). Everything else treats each view by itself, so that views may have captions of
    their own. After the block the processors are the library's again.

    Raises:
        ValueError: no views, a U-Net that already joins some, and, when it runs, a batch that is no multiple of views.
    """
    if views < 1:
        raise ValueError(f"views is {views}; expected at least 1.")
    own = unet.attn_processors
    if any(isinstance(processor, JointViews) for processor in own.values()):
        raise ValueError("unet joins views already; expected one block at a time.")
    if views == 1:
        yield unet
        return
    spatial = [n for n in own if n.endswith("attn1.processor") and ".motion_modules." not in n]
    joint = {name: JointViews(own[name], views) for name in spatial}

    def count_frames(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        if len(sample) % views:
            raise ValueError(f"sample has a batch of {len(sample)}; expected a multiple of {views} views.")
        for processor in joint.values():
            processor.frames = sample.shape[2] if sample.ndim == 5 else 1

    hook = unet.register_forward_pre_hook(count_frames, with_kwargs=True)
    unet.set_attn_processor({**own, **joint})
    try:
        yield unet
    finally:
        hook.remove()
        unet.set_attn_processor(dict(own))
