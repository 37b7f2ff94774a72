"""Stable Diffusion's weights, 1 or 2, for the multi-view U-Net: where ImageDream, and so 4Diffusion, begin.

The names are those of diffusers' `UNet2DConditionModel` (`unet/diffusion_pytorch_model.safetensors` of a repository
such as stable-diffusion-2-1-base). What ImageDream adds, cameras, image tokens, their keys and values, keeps its start.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fourd_minimal.multiview_unet import MultiviewUNet

RES_BLOCK = {
    "norm1": "before.0",
    "conv1": "before.2",
    "time_emb_proj": "embedding.1",
    "norm2": "after.0",
    "conv2": "after.2",
    "conv_shortcut": "skip",
}
TRANSFORMER = {
    "norm": "norm",
    "proj_in": "proj_in",
    "proj_out": "proj_out",
    "transformer_blocks.0.norm1": "self_norm",
    "transformer_blocks.0.attn1.to_q": "self_attention.to_q",
    "transformer_blocks.0.attn1.to_out.0": "self_attention.to_out",
    "transformer_blocks.0.norm2": "cross_norm",
    "transformer_blocks.0.attn2.to_q": "cross_attention.to_q",
    "transformer_blocks.0.attn2.to_out.0": "cross_attention.to_out",
    "transformer_blocks.0.norm3": "feed_forward.norm",
    "transformer_blocks.0.ff.net.0.proj": "feed_forward.wide",
    "transformer_blocks.0.ff.net.2": "feed_forward.narrow",
}
KEYS = {
    "transformer_blocks.0.attn1.to_k": "self_attention.to_kv.0",
    "transformer_blocks.0.attn2.to_k": "cross_attention.to_kv.0",
    "transformer_blocks.0.attn2.to_k_ip": "cross_attention.to_kv.1",
}
"""Ours hold keys and values in one."""
WHOLE = {
    "conv_in": "conv_in",
    "time_embedding.linear_1": "of_step.0",
    "time_embedding.linear_2": "of_step.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def rename(
    state: Mapping[str, Tensor], place: Callable[[str], tuple[str, str]], parts: Mapping[str, str]
) -> dict[str, Tensor]:
    """Another code's names as ours, keys and values joined.

    Args:
        state: weights by their names there.
        place: from such a name, without ".weight", to our block and the rest of the name.
        parts: from that rest to ours.
    """
    found, parts = {}, {"": ""} | {theirs: f".{ours}" for theirs, ours in parts.items()}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        block, inside = place(stem)
        if inside in KEYS:
            values = state.get(name.replace(".to_k", ".to_v"))
            if values is not None:
                found[f"{block}.{KEYS[inside]}.{kind}"] = torch.cat([value, values])
        elif inside in parts:
            linear = inside in ("proj_in", "proj_out") and value.ndim == 4  # Stable Diffusion 1: of one pixel
            found[f"{block}{parts[inside]}.{kind}"] = value.flatten(1) if linear else value
        elif inside.replace(".to_v", ".to_k") not in KEYS:
            raise ValueError(f"state has {name}, which this U-Net has not.")
    return found


def load_fitting(unet: MultiviewUNet, found: Mapping[str, Tensor]) -> None:
    """Give a U-Net some of its tensors; a ValueError where one has no place in it or another shape."""
    own = unet.state_dict()
    for name, value in found.items():
        if name not in own or own[name].shape != value.shape:
            expected = tuple(own[name].shape) if name in own else "nothing of this name"
            raise ValueError(f"state's {name} is {tuple(value.shape)}; expected {expected}.")
    unet.load_state_dict(found, strict=False)


def _place(stem: str, n: int) -> tuple[str, str]:
    """Our block, and what of it; a level has `n` residual blocks on the way down."""
    if stem in WHOLE:
        return WHOLE[stem], ""
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", stem):
        side, level, kind, index, inside = match.groups()
        number = int(level) * (n if side == "down" else n + 1) + int(index)
        return f"{side}.{number}.{int(kind == 'attentions')}", inside
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv", stem):
        last = int(match[2]) + 1
        return f"shrink.{last * n}" if match[1] == "down" else f"grow.{last * (n + 1)}", ""
    if match := re.fullmatch(r"mid_block\.(resnets\.0|attentions\.0|resnets\.1)\.(.+)", stem):
        return {"resnets.0": "middle.0", "attentions.0": "middle.1", "resnets.1": "middle_out"}[match[1]], match[2]
    raise ValueError(f"state has {stem}, which no U-Net of Stable Diffusion has.")


def load_stable_diffusion(unet: MultiviewUNet, state: Mapping[str, Tensor]) -> list[str]:
    """Give a multi-view U-Net what it shares with Stable Diffusion: version 2, or 1 where it has 8 heads.

    Returns:
        the names of what keeps its start.

    Raises:
        ValueError: names or shapes that do not fit, or a model without text.
    """
    if unet.config.text_dim is None:
        raise ValueError("unet has no text; expected some, for Stable Diffusion's cross-attention.")
    found = rename(state, lambda stem: _place(stem, unet.config.n_res_blocks), RES_BLOCK | TRANSFORMER)
    load_fitting(unet, found)
    return sorted(unet.state_dict().keys() - found.keys())
