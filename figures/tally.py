"""What a piece of PyTorch would compute, move and keep, counted while it runs on tensors that have no storage.

torch's FlopCounterMode counts floating-point operations alone. A roofline (Williams et al. 2009) needs each operation's
bytes beside them, and a plan needs the peak of memory; so every operation below autograd is noted here: its flops
(torch's own formulas), the bytes it reads and writes, and the storages it makes, which count until nobody holds them.

    seconds = max(flops / rate, bytes / bandwidth)

Departures: only products, convolutions and attention have flops; a look-up reads as many bytes as it returns; no
kernel's workspace is known, nor what an allocator loses. The value of an empty tensor is False, or 0: checks pass.
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def _attention(q, k, v, *args, out_val=None, **kwargs) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward(grad, q, k, v, *args, out_val=None, **kwargs) -> int:
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)


FLOPS = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""torch counts flash attention on CUDA; on a CPU it is the same."""
LOOK_UPS = {aten.index_select, aten.index, aten.embedding, aten.gather}
SCATTERS = {aten.scatter_add_, aten.index_put_, aten.index_add_, aten.scatter_}
MAKERS = {aten.empty_like, aten.zeros_like, aten.ones_like, aten.full_like, aten.rand_like, aten.randn_like}
MAKERS |= {aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty_strided}
"""They look at a tensor's shape only."""
EMPTY = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}


class Operation(NamedTuple):
    """Floating-point operations, bytes read and written, bytes of new storages among them, and the type of numbers."""

    flops: float
    moved: float
    made: float
    dtype: torch.dtype


class Tally(TorchDispatchMode):
    """A mode under which operations are counted; beneath `FakeTensorMode`, or with real tensors.

    >>> from torch._subclasses.fake_tensor import FakeTensorMode
    >>> with FakeTensorMode():
    ...     a, b = torch.empty(8, 4), torch.empty(4, 2)
    ...     with Tally() as tally:
    ...         c = a @ b
    >>> tally.flops, tally.operations[0].moved, tally.peak          # 2 x 8 x 4 x 2; 4 bytes x (32 + 8 + 16); 4 x 16
    (128.0, 224.0, 64)
    """

    def __init__(self):
        super().__init__()
        self.operations: list[Operation] = []
        self.live = self.peak = 0
        """Bytes of the storages made under the mode: those alive, and the most that were at any time."""
        self._times = 1.0
        self._storages: dict[int, int] = {}

    @property
    def flops(self) -> float:
        """Of all operations."""
        return sum(o.flops for o in self.operations)

    @contextmanager
    def times(self, n: float) -> Iterator[None]:
        """Operations inside the block count `n` times, the memory once: a loop, of which one turn is run."""
        before, self._times = self._times, self._times * n
        yield
        self._times = before

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 0.0 if args[0].is_floating_point() else False if args[0].dtype == torch.bool else 0
        out = func(*args, **kwargs)
        if func.namespace == "aten":
            inputs = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
            for tensor in inputs:
                self._is_new(tensor, size=0)  # what was there before is not counted
            self._count(func, args, kwargs, inputs, out)
        return out

    def _count(self, func, args: tuple, kwargs: dict, inputs: list[Tensor], out: Any) -> None:
        outputs = [o for o in tree_leaves(out) if isinstance(o, Tensor)]
        made = [o for o in outputs if self._is_new(o)]
        specs = (spec.alias_info for spec in func._schema.arguments)
        written = [a for a, alias in zip(args, specs, strict=False) if alias is not None and alias.is_write]
        written = [a for a in tree_leaves(written) if isinstance(a, Tensor)]
        if not made and not written:
            return  # a view
        packet = func.overloadpacket
        reads, writes = sum(map(_bytes, inputs)), sum(map(_bytes, [*made, *written]))
        if packet in MAKERS:
            reads = 0
        if packet in LOOK_UPS:
            reads += sum(map(_bytes, outputs)) - _bytes(inputs[0])
        if packet in SCATTERS:
            reads, writes = 2 * _bytes(inputs[-1]) + sum(map(_bytes, inputs[1:-1])), _bytes(inputs[-1])
        if packet in EMPTY:
            writes = 0
        if packet in (aten.copy_, aten.zero_, aten.fill_):
            reads -= _bytes(inputs[0])
        flops = FLOPS[packet](*args, **kwargs, out_val=out) if packet in FLOPS else 0
        fresh = 0 if packet in EMPTY else sum(map(_bytes, made))
        dtype = (inputs or outputs)[0].dtype
        counts = (n * self._times for n in (flops, reads + writes, fresh))
        self.operations.append(Operation(*counts, dtype))

    def _is_new(self, tensor: Tensor, size: int | None = None) -> bool:
        """Whether its storage was not met before; from now on it counts, for as long as it lives."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._storages:
            return False
        self._storages[storage._cdata] = size = storage.nbytes() if size is None else size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, storage._cdata)
        return True

    def _forget(self, key: int) -> None:
        self.live -= self._storages.pop(key)


def _bytes(tensor: Tensor) -> int:
    """An expanded tensor is no larger than what it shows again and again."""
    return tensor.element_size() * math.prod(n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step)
