"""Stable Diffusion's weights, 1 or 2, for the multi-view U-Net: where ImageDream, and so 4Diffusion, begin.

The names are those of diffusers' `UNet2DConditionModel` (`unet/diffusion_pytorch_model.safetensors` of a repository
such as stable-diffusion-2-1-base). What ImageDream adds, cameras, image tokens, their keys and values, keeps its start.
"""

import re
from collections.abc import Mapping

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
WHOLE = {
    "conv_in": "conv_in",
    "time_embedding.linear_1": "of_step.0",
    "time_embedding.linear_2": "of_step.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def translate(state: Mapping[str, Tensor], n_res_blocks: int) -> dict[str, Tensor]:
    """Diffusers' names as ours; keys and values are joined."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        stem, kind = name.rsplit(".", 1)
        if stem in WHOLE:
            found[f"{WHOLE[stem]}.{kind}"] = value
            continue
        block, inside = _place(stem, n_res_blocks)
        if inside is None:
            found[f"{block}.{kind}"] = value
        elif inside.startswith("resnet:"):
            found[f"{block}.{RES_BLOCK[inside[7:]]}.{kind}"] = value
        elif inside.endswith((".to_k", ".to_v")):
            continue  # below, together
        elif inside in ("proj_in", "proj_out"):  # in Stable Diffusion 1, convolutions of one pixel
            found[f"{block}.{inside}.{kind}"] = value.flatten(1) if kind == "weight" else value
        else:
            found[f"{block}.{TRANSFORMER[inside]}.{kind}"] = value
    for name in (n for n in state if n.endswith(".to_k.weight")):
        block, inside = _place(name.removesuffix(".weight"), n_res_blocks)
        which = "self_attention" if ".attn1." in name else "cross_attention"
        found[f"{block}.{which}.to_kv.0.weight"] = torch.cat([state[name], state[name.replace("to_k", "to_v")]])
    return found


def _place(stem: str, n: int) -> tuple[str, str | None]:
    """Our block, and what of it."""
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", stem)
    if match:
        side, level, kind, index = match[1], int(match[2]), match[3], int(match[4])
        per_level = n if side == "down" else n + 1
        if kind == "downsamplers":
            return f"shrink.{(level + 1) * n}", None
        if kind == "upsamplers":
            return f"grow.{(level + 1) * (n + 1)}", None
        block = f"{side}.{level * per_level + index}"
        return (f"{block}.0", f"resnet:{match[5]}") if kind == "resnets" else (f"{block}.1", match[5])
    match = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", stem)
    if match and match[1] == "attentions":
        return "middle.1", match[3]
    if match:
        return ("middle.0", "middle_out")[int(match[2])], f"resnet:{match[3]}"
    raise ValueError(f"state has {stem}, which no U-Net of Stable Diffusion has.")


def load_stable_diffusion(unet: MultiviewUNet, state: Mapping[str, Tensor]) -> list[str]:
    """Give a multi-view U-Net what it shares with Stable Diffusion: version 2, or 1 where it has 8 heads.

    Returns:
        the names of what keeps its start.

    Raises:
        ValueError: names or shapes that do not fit, or a model without text.
    """
    if unet.config.text_dim is None:
        raise ValueError("unet has no text; Stable Diffusion's cross-attention needs some.")
    found, own = translate(state, unet.config.n_res_blocks), unet.state_dict()
    for name, value in found.items():
        if name not in own or own[name].shape != value.shape:
            expected = tuple(own[name].shape) if name in own else "nothing of this name"
            raise ValueError(f"state's {name} is {tuple(value.shape)}; expected {expected}.")
    unet.load_state_dict(found, strict=False)
    return sorted(own.keys() - found.keys())
