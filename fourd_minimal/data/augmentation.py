"""Other scenes from one: mirrored, played backwards, in other colours. Plain functions.

Each takes a record and gives one of the same shape, in which all that stays known is right; `augmented` draws them.
"""

from dataclasses import replace

import torch

from fourd_minimal.data.scene_record import SceneRecord


def mirrored(record: SceneRecord) -> SceneRecord:
    """Left and right exchanged: pictures, flow, and the world's x axis with the cameras in it."""
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])).to(record.c2w)
    pictures = ("rgb", "alpha", "depth", "visible", "in_fixed_view")
    turned = {n: None if getattr(record, n) is None else getattr(record, n).flip(-1) for n in pictures}
    flow = record.flow
    if flow is not None:
        flow = flow.flip(-1) * torch.tensor([-1.0, 1.0]).to(flow)[:, None, None]
    return replace(record, **turned, flow=flow, c2w=flip @ record.c2w @ flip)


def reversed_in_time(record: SceneRecord) -> SceneRecord:
    """Played backwards; flow and visibility, which lead to the next time, are unknown then."""
    pictures = ("rgb", "alpha", "depth", "in_fixed_view")
    turned = {n: None if getattr(record, n) is None else getattr(record, n).flip(2) for n in pictures}
    return replace(record, **turned, flow=None, visible=None)


def with_hue(record: SceneRecord, turn: float) -> SceneRecord:
    """Colours turned about the grey axis by `turn` of the circle; grey stays."""
    angle = 2 * torch.pi * torch.as_tensor(turn, dtype=torch.float32, device=record.rgb.device)
    c, s = angle.cos(), angle.sin() / 3**0.5
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]).to(record.rgb)
    matrix = c * torch.eye(3).to(record.rgb) + (1 - c) / 3 + s * cross  # Rodrigues, about (1, 1, 1)
    return replace(record, rgb=torch.einsum("ij,nvtjhw->nvtihw", matrix, record.rgb).clamp(0, 1))


def augmented(
    record: SceneRecord, draw: torch.Generator, mirror: float = 0.5, backwards: float = 0.5, hue: float = 0.3
) -> SceneRecord:
    """Each with a chance of its own, drawn once for all scenes."""
    chances = torch.rand(4, generator=draw).tolist()
    if chances[0] < mirror:
        record = mirrored(record)
    if chances[1] < backwards:
        record = reversed_in_time(record)
    return with_hue(record, chances[3]) if chances[2] < hue else record
