"""CUDA graphs' stand-in where there is no GPU: records what a function does to tensors, and does it again.

As in a captured graph, only operations on tensors are repeated, on the very same tensors: whatever Python decided while
it was recorded stays as it was, and a value read by the host is an error.
"""

from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}


# A graph is captured from what runs without a mode: within this the layers do not see that a mode notes them.
UNSEEN = mock.patch("fastvgan.layers.deferred.count_dispatch_modes", lambda: 0)


class Recorder:
    """A backend for `StepRunner`: what it captures has not happened until it is replayed."""

    stream = None

    def __init__(self):
        self.captured = 0

    def capture(self, function):
        self.captured += 1
        mode = _Mode()
        with mode, UNSEEN:
            made = function()
        mode.undo()
        return Recording(mode.operations), made


# Operations that launch nothing on a GPU.
_VIEWS = """
    alias as_strided detach empty empty_like empty_strided expand permute select slice split split_with_sizes squeeze t
    transpose unbind unsqueeze view _unsafe_view
""".split()


class Operations(TorchDispatchMode):
    """Within it, notes which operations are called that compute something."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.partition("::")[2]
        if name not in _VIEWS:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


class _Mode(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations, self._before, self._own = [], {}, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in _READS:
            raise RuntimeError(f"the host waits for {function}")
        kwargs = kwargs or {}
        for tensor in _find_written(function, args, kwargs):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._before and storage.data_ptr() not in self._own:
                self._before[storage.data_ptr()] = storage, storage.clone()
        made = function(*args, **kwargs)
        if not function._schema.returns or function._schema.returns[0].alias_info is None:
            self._own |= {_place(t) for t in tree_leaves(made) if isinstance(t, torch.Tensor)}
        self.operations.append((function, args, kwargs, made))
        return made

    def undo(self):
        """Bring back what was there before: nothing has run."""
        for storage, old in self._before.values():
            storage.copy_(old)


def _find_written(function, args, kwargs):
    schema = function._schema
    given = {a.name: v for a, v in zip(schema.arguments, args, strict=False)} | kwargs
    for argument in schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from (t for t in tree_leaves(given.get(argument.name)) if isinstance(t, torch.Tensor))


class Recording:
    def __init__(self, operations):
        self._operations = operations

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, made in self._operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and _place(old) != _place(new):
                    old.copy_(new)


def _place(tensor):
    return tensor.untyped_storage().data_ptr()
