"""Synchronisation: after every block the two token streams of 4Real-Video exchange information.

The view stream models the columns of the grid, the time stream its rows. Section 3.2.3 reads the blocks as steps of
an optimiser, min C_v(x^v) + C_t(x^t) such that x^v = x^t (eqs. 6, 7). Projecting onto the constraint after every step
gives the hard layer; moving the streams towards each other gives the soft one.

    eq. 8       x' = W^v y^v + W^t y^t                          both streams become x';  W = 1/2 I at the start
    eqs. 9, 10  (dy^v, dy^t) = ModLinear(y^v, y^t; sigma),  x^v = y^v + dy^v,  x^t = y^t + dy^t
    eq. 12      x' = 1/2 (y^v + y^t)                            without training
    eq. 13      x^v = (1 - w_l) y^v + w_l y^t, and mirrored     without training;  w_l = 0.1 + 0.4 l / L

Departures. The paper prints no formula for the modulation by sigma. Ours scales the channels that enter the linear map,
W ((1 + a(sigma)) y) + b(sigma), with a and b starting at 0, so eq. 8 starts as the exact average and eq. 10 as the
identity. No normalisation: it would break 1/2 I. The base of the index l in eq. 13 is not stated: ours counts from 0.

Two layers are not in the paper; they make its comparisons fair. `WideHardSync` has as many parameters as `SoftSync`.
`SequentialAdapter` gives eq. 5, which has one stream and nothing to synchronise, a linear layer of the same kind.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Grid = Float[Tensor, "b v t n d"]
"""Tokens of a grid: n tokens of d channels for every view v and time t."""
Condition = Float[Tensor, "b v t k"]
"""One embedding of sigma for every cell of the grid, of any kind: your base model has one."""


def average_sync(y_view: Grid, y_time: Grid) -> Grid:
    """Eq. 12: 1/2 (y^v + y^t), the new tokens of both streams."""
    return (y_view + y_time) / 2


def weighted_sync(y_view: Grid, y_time: Grid, w: float) -> tuple[Grid, Grid]:
    """Eq. 13: each stream moves a share `w` towards the other; w = 0 changes nothing, w = 1/2 is eq. 12.

    >>> x_view, x_time = weighted_sync(torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1), 0.25)
    >>> x_view.item(), x_time.item()
    (0.25, 0.75)
    """
    return torch.lerp(y_view, y_time, w), torch.lerp(y_time, y_view, w)


def sync_weight(layer: int, n_layers: int) -> float:
    """The share of eq. 13, w_l = 0.1 + 0.4 l / L: it grows with depth. `layer` counts from 0.

    >>> [round(sync_weight(layer, 4), 3) for layer in range(4)]
    [0.1, 0.2, 0.3, 0.4]
    """
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer is {layer}; expected a value in [0, {n_layers}).")
    return 0.1 + 0.4 * layer / n_layers


class ModLinear(nn.Module):
    """A linear map modulated by sigma: W ((1 + a(sigma)) y) + b(sigma); a and b are linear and start at 0."""

    def __init__(self, dim_in: int, dim_out: int, cond_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim_out, dim_in))
        self.scale = nn.Linear(cond_dim, dim_in)
        self.shift = nn.Linear(cond_dim, dim_out)
        for layer in (self.scale, self.shift):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, y: Float[Tensor, "b v t n i"], cond: Condition) -> Float[Tensor, "b v t n o"]:
        a, b = self.scale(cond)[..., None, :], self.shift(cond)[..., None, :]
        return ((1 + a) * y) @ self.weight.T + b


class HardSync(nn.Module):
    """Eq. 8: one linear mixture of the streams replaces both. The exact average at the start.

    >>> sync = HardSync(dim=4, cond_dim=8)
    >>> y_view, y_time, cond = torch.randn(1, 2, 3, 5, 4), torch.randn(1, 2, 3, 5, 4), torch.randn(1, 2, 3, 8)
    >>> x_view, x_time = sync(y_view, y_time, cond)
    >>> x_view is x_time, torch.allclose(x_view, average_sync(y_view, y_time))
    (True, True)
    """

    def __init__(self, dim: int, cond_dim: int):
        super().__init__()
        self.linear = ModLinear(2 * dim, dim, cond_dim)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(dim).repeat(1, 2) / 2)

    def forward(self, y_view: Grid, y_time: Grid, cond: Condition) -> tuple[Grid, Grid]:
        x = self.linear(torch.cat([y_view, y_time], -1), cond)
        return x, x


class WideHardSync(HardSync):
    """Eq. 8 with a hidden layer beside it, as wide as it takes to reach the parameters of `SoftSync`. Not in the paper.

    >>> [sum(p.numel() for p in layer(96, 96).parameters()) for layer in (HardSync, WideHardSync, SoftSync)]
    [46368, 74016, 74112]
    """

    def __init__(self, dim: int, cond_dim: int):
        super().__init__(dim, cond_dim)
        hidden = round((2 * dim + cond_dim + 1) / 3)  # 3 d h weights make up for 2 d^2 + d k + d
        self.beside = nn.Sequential(
            nn.Linear(2 * dim, hidden, bias=False), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim, bias=False)
        )
        nn.init.zeros_(self.beside[-1].weight)

    def forward(self, y_view: Grid, y_time: Grid, cond: Condition) -> tuple[Grid, Grid]:
        x, _ = super().forward(y_view, y_time, cond)
        x = x + self.beside(torch.cat([y_view, y_time], -1))
        return x, x


class SoftSync(nn.Module):
    """Eqs. 9, 10: each stream adds its own update, predicted from both. The identity at the start.

    `start_at(w)` starts at eq. 13 instead, which is the same layer with W = w [[-I, I], [I, -I]].

    >>> sync = SoftSync(dim=4, cond_dim=8)
    >>> y_view, y_time, cond = torch.randn(1, 2, 3, 5, 4), torch.randn(1, 2, 3, 5, 4), torch.randn(1, 2, 3, 8)
    >>> x_view, x_time = sync(y_view, y_time, cond)
    >>> torch.equal(x_view, y_view) and torch.equal(x_time, y_time)
    True
    """

    def __init__(self, dim: int, cond_dim: int):
        super().__init__()
        self.linear = ModLinear(2 * dim, 2 * dim, cond_dim)

    def start_at(self, w: float) -> "SoftSync":
        """Set the weights so that the layer is eq. 13 with share `w`, for every sigma."""
        eye = torch.eye(self.linear.weight.shape[0] // 2)
        with torch.no_grad():
            self.linear.weight.copy_(w * torch.cat([torch.cat([-eye, eye], 1), torch.cat([eye, -eye], 1)]))
            for layer in (self.linear.scale, self.linear.shift):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        return self

    def forward(self, y_view: Grid, y_time: Grid, cond: Condition) -> tuple[Grid, Grid]:
        updates = self.linear(torch.cat([y_view, y_time], -1), cond)
        d_view, d_time = rearrange(updates, "b v t n (stream d) -> stream b v t n d", stream=2)
        return y_view + d_view, y_time + d_time


class SequentialAdapter(nn.Module):
    """For eq. 5: x' + ModLinear(y, x'; sigma) after both updates of a layer. Starts as the identity. Not in the paper.

    >>> adapter = SequentialAdapter(dim=4, cond_dim=8)
    >>> y, x, cond = torch.randn(1, 2, 3, 5, 4), torch.randn(1, 2, 3, 5, 4), torch.randn(1, 2, 3, 8)
    >>> torch.equal(adapter(y, x, cond), x)
    True
    """

    def __init__(self, dim: int, cond_dim: int):
        super().__init__()
        self.linear = ModLinear(2 * dim, dim, cond_dim)

    def forward(self, y: Grid, x: Grid, cond: Condition) -> Grid:
        return x + self.linear(torch.cat([y, x], -1), cond)
