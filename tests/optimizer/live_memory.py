"""How much memory tensors take while something runs."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside and still there, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = self.largest = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.layout is torch.strided and x.untyped_storage()._cdata not in self.known:
                self.meet(x.untyped_storage())
        return out

    def meet(self, storage: torch.UntypedStorage) -> None:
        self.known.add(storage._cdata)
        self.live, self.largest = self.live + storage.nbytes(), max(self.largest, storage.nbytes())
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self.leave, storage._cdata, storage.nbytes())

    def leave(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size
