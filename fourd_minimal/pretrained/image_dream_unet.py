"""ImageDream's weights for the multi-view U-Net: the base that 4Diffusion freezes (section 3.1).

The names are those of its own code (Wang and Shi 2023, bytedance/ImageDream), with a `model.diffusion_model.` in front
or without. The file it was published as, `sd-v2.1-base-4view-ipmv.pt`, is a pickle, which nothing here opens; the file
`unet/diffusion_pytorch_model.safetensors` of `ashawkey/imagedream-ipmv-diffusers` holds the same names.

Its world has z up and ours has y, c' = R c for a camera-to-world c. Cameras enter by a linear layer, so that R goes
into its weights, and the U-Net takes our cameras:

    sum_ik W_ik (R c)_ik = sum_jk W'_jk c_jk,    W'_jk = sum_i R_ij W_ik

They are those of ImageDream's training, in the object's own frame: azimuth 0 sees its front, wherever the reference was
taken from.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from fourd_minimal.multiview_unet import MultiviewUNet
from fourd_minimal.pretrained.stable_diffusion_unet import TRANSFORMER, load_fitting, rename

BEFORE = "model.diffusion_model."
RES_BLOCK = {
    "in_layers.0": "before.0",
    "in_layers.2": "before.2",
    "emb_layers.1": "embedding.1",
    "out_layers.0": "after.0",
    "out_layers.3": "after.2",
    "skip_connection": "skip",
}
RESAMPLER = {
    "0.norm1": "norm_tokens",
    "0.norm2": "norm_queries",
    "0.to_q": "to_q",
    "0.to_kv": "to_kv",
    "0.to_out": "to_out",
    "1.0": "feed_forward.0",
    "1.1": "feed_forward.1",
    "1.3": "feed_forward.3",
}
WHOLE = {
    "time_embed.0": "of_step.0",
    "time_embed.2": "of_step.2",
    "camera_embed.0": "of_camera.0",
    "camera_embed.2": "of_camera.2",
    "image_embed.proj_in": "resampler.proj_in",
    "image_embed.proj_out": "resampler.proj_out",
    "image_embed.norm_out": "resampler.norm_out",
    "input_blocks.0.0": "conv_in",
    "out.0": "out.0",
    "out.2": "out.2",
}
Z_UP = ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, -1.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
"""R: ours (x, y, z) is theirs (x, -z, y)."""


def is_image_dreams(state: Mapping[str, Tensor]) -> bool:
    """Whether these are names of ImageDream, or of another U-Net in the code that Stable Diffusion first came with."""
    return any(name.removeprefix(BEFORE).startswith("input_blocks.") for name in state)


def _place(stem: str, n: int) -> tuple[str, str]:
    """Our block, and what of it; a level has `n` residual blocks on the way down."""
    if stem in WHOLE:
        return WHOLE[stem], ""
    if match := re.fullmatch(r"image_embed\.layers\.(\d+)\.(.+)", stem):
        return f"resampler.layers.{match[1]}", match[2]
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", stem):
        return ("middle.0", "middle.1", "middle_out")[int(match[1])], match[2]
    match = re.fullmatch(r"(in|out)put_blocks\.(\d+)\.([012])\.(.+)", stem)
    if not match:
        raise ValueError(f"state has {stem}.weight, which ImageDream's U-Net has not.")
    side, i, part, inside = match[1], int(match[2]), int(match[3]), match[4]
    if side == "out":
        return (f"grow.{i + 1}", "") if inside == "conv" else (f"up.{i}.{part}", inside)
    level, k = divmod(i - 1, n + 1)
    return (f"shrink.{(level + 1) * n}", "") if inside == "op" else (f"down.{level * n + k}.{part}", inside)


def load_image_dream(unet: MultiviewUNet, state: Mapping[str, Tensor]) -> None:
    """Give a multi-view U-Net all of ImageDream.

    Args:
        unet: of its configuration; motion modules in it keep what they are.
        state: of ImageDream's U-Net, or a whole checkpoint of ImageDream.

    Raises:
        ValueError: names or shapes that do not fit, or tensors that are missing.
    """
    if any(name.startswith(BEFORE) for name in state):  # the whole checkpoint, with autoencoder and CLIP
        state = {name.removeprefix(BEFORE): value for name, value in state.items() if name.startswith(BEFORE)}
    latents = "image_embed.latents"
    others = {name: value for name, value in state.items() if name != latents}
    parts = RES_BLOCK | TRANSFORMER | RESAMPLER
    found = rename(others, lambda stem: _place(stem, unet.config.n_res_blocks), parts)
    if latents in state:
        found["resampler.queries"] = state[latents][0]
    if "of_camera.0.weight" in found:  # turned by R
        weight = found["of_camera.0.weight"].float()
        turned = torch.einsum("oik,ij->ojk", weight.unflatten(1, (4, 4)), torch.tensor(Z_UP).to(weight))
        found["of_camera.0.weight"] = turned.flatten(1)
    expected = {name for name in unet.state_dict() if not name.startswith("temporal.")}
    if missing := sorted(expected - found.keys()):
        raise ValueError(f"state lacks {len(missing)} tensors of ImageDream, such as our {missing[0]}.")
    load_fitting(unet, found)
