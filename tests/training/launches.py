"""Counts what one train step would launch on a GPU, on a machine without one.

The step runs on CPU tensors, in bfloat16, with the Triton implementations. Their host code runs as it is, for a GPU of
132 multiprocessors and sm_90, but a kernel that it launches is counted and not run, so that results are garbage.
Every other operation of PyTorch is counted by the rules below. So what is counted are the calls; how many kernels one
call takes on a GPU is a rule. For the step of commit 9cd0ec5 the rules give 275 launches for `reference` and 486 for
`clips-64`, where a profile of that step, replayed on an H100, has 274 and 489, among them 2 copies of the batch each.

Rules, by PyTorch 2.11's CUDA sources:
- No launch: views, `empty`, `set_` and whatever else computes nothing.
- One launch: every other operation; `_to_copy`, `clone` and `copy_` too, as a kernel or as a copy engine's node.
- `_foreach_*` and `_fused_adam_`: multi_tensor_apply takes 110, 64, 48, 36 or 30 tensors of 1 to 5 lists in a launch
  (`depth_to_max_tensors` of MultiTensorApply.cuh) and 320 blocks of 65,536 elements (`depth_to_max_blocks`,
  `kChunkSize`). Lists that do not fit one another (dtype, size or strides, `can_use_fast_route` of ForeachUtils.h)
  take one launch for each tensor. `_foreach_norm` fills its parts and adds them up, two launches more.
- What autograd computes is seen like all else.
"""

import contextlib
import functools
import math
import sys
from collections import Counter
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastvgan_kernels import choice
from fastvgan_kernels.dispatch import Operation
from fastvgan_kernels.triton import support as triton_support
from fastvgan_kernels.triton import tuning

_NOTHING = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "lift_fresh", "is_same_size",
    "_local_scalar_dense", "is_pinned", "resize_", "promote_types", "_unsafe_view",
}  # fmt: skip
_TENSORS_AT_ONCE = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
_BLOCKS_AT_ONCE, _BLOCK = 320, 65536
# Adam's states are its own list of launches: parameter, gradient and both moments in each.
_LISTS_OF_ADAM = 4


class Launches(TorchDispatchMode):
    """Within it every launch is counted, in `names` by kernel or operation."""

    def __init__(self):
        super().__init__()
        self.names: Counter = Counter()
        self.order: list[str] = []
        self._patches, self._depth = contextlib.ExitStack(), 0

    def __enter__(self):
        if self._depth == 0:  # it is entered again for what an operation calls
            try:
                for patch in _on_an_h100(self._launch):
                    self._patches.enter_context(patch)
            except BaseException:
                self._patches.close()  # a patch that fails leaves no others behind, which break the tests after it
                raise
        self._depth += 1
        return super().__enter__()

    def __exit__(self, *args):
        self._depth -= 1
        if self._depth == 0:
            self._patches.close()
        return super().__exit__(*args)

    @property
    def count(self) -> int:
        return sum(self.names.values())

    def _launch(self, name: str, times: int = 1) -> None:
        self.names[name] += times
        self.order += [name] * times

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.namespace == "fastvgan":
            # Its own launches, and PyTorch's operations beside them, are what counts.
            with self:
                return _kernels()[function](*args, **kwargs)
        # Below autograd, where the operations' kernels are, what is made of other operations comes here undone.
        with self:
            made = function.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
        self._launch(function._schema.name.removeprefix("aten::"), launches_of(function, args, kwargs))
        return function(*args, **kwargs)


def launches_of(function, args, kwargs) -> int:
    """How many launches an operation of PyTorch takes on a GPU."""
    name = function._schema.name.removeprefix("aten::")
    if function.namespace != "aten" or name in _NOTHING or _is_view(function):
        return 0
    if name == "copy_" and args[0].numel() == 0 or name in ("_to_copy", "clone") and args[0].numel() == 0:
        return 0
    if name == "_fused_adam_":
        return _launches_over([args[0]] * _LISTS_OF_ADAM)
    if name.startswith("_foreach_"):
        lists = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, (list, tuple))]
        lists = [tensors for tensors in lists if tensors and isinstance(tensors[0], torch.Tensor)]
        own = not name.endswith("_") and name != "_foreach_norm"  # a list of results
        return _launches_over(lists + lists[:1] * own, name == "_foreach_copy_") + 2 * (name == "_foreach_norm")
    return 1


def _is_view(function) -> bool:
    returns = function._schema.returns
    return bool(returns) and returns[0].alias_info is not None and not returns[0].alias_info.is_write


def _launches_over(lists, copies: bool = False) -> int:
    if not _fits(lists, copies):
        return len(lists[0])
    most = _TENSORS_AT_ONCE[len(lists)]
    launches = tensors = blocks = 0
    for tensor in lists[0]:
        tensors += 1
        for rest in range(math.ceil(tensor.numel() / _BLOCK) - 1, -1, -1):
            blocks += 1
            if blocks == _BLOCKS_AT_ONCE or (tensors == most and not rest):
                # A tensor of which blocks are left is the first of the next launch.
                launches, blocks, tensors = launches + 1, 0, min(rest, 1)
    return launches + (blocks > 0)


def _fits(lists, copies: bool) -> bool:
    for tensors in zip(*lists, strict=True):
        if any(t.shape != tensors[0].shape or t.stride() != tensors[0].stride() for t in tensors):
            return False
    each = [{t.dtype for t in tensors} for tensors in lists]
    # Only copies may go from one dtype to another.
    return all(len(dtypes) == 1 for dtypes in each) and (copies or len(set.union(*each)) == 1)


@functools.cache
def _kernels() -> dict:
    """Each registered operation's own code, below autograd."""
    modules = [module for name, module in sys.modules.items() if name.startswith("fastvgan_kernels")]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Operation)]
    return {operation.overload: operation.kernel for operation in found}


def _on_an_h100(launch):
    """What makes the Triton implementations serve CPU tensors, as on an H100, and launch by `launch`."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    def run(self, *args, grid, warmup, **kwargs):
        launch(self.fn.__name__)

    yield mock.patch.object(InterpretedFunction, "run", run)
    yield mock.patch.object(JITFunction, "run", run)
    yield mock.patch.dict("os.environ", {choice.ENVIRONMENT: "triton"})
    for implementations in choice._registry.values():
        if "triton" not in implementations:
            continue
        yield mock.patch.dict(implementations["triton"].__dict__, {"refusal": lambda x: None})
    yield mock.patch.object(triton_support, "is_interpreting", lambda: False)
    yield mock.patch.object(tuning, "processors", lambda device: 132)
    yield mock.patch.object(tuning, "architecture", lambda device: 90)
    yield mock.patch.object(tuning, "device_name", lambda device: "NVIDIA H100 80GB HBM3")
    yield mock.patch.dict(tuning._chosen, clear=True)
    # What is decided by the device's type, and what is left out where a mode looks on, as this one does.
    yield mock.patch("fastvgan.layers.deferred.count_dispatch_modes", lambda: 0)
    yield mock.patch("fastvgan.training.step.adversarial.reads_copies", lambda device: True)
    yield mock.patch("fastvgan_kernels.lists.reference.lists_are_fast", lambda device: True)
