"""One network's update: its optimiser, the scale of its loss, and the check that its gradients are finite.

Nothing here waits for the device, so that an update can be captured in a CUDA graph.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from fastvgan.training.step.scalar import DeviceScalar
from fastvgan_kernels._torch import adam_, foreach_add_
from fastvgan_kernels.finite import check_norms
from fastvgan_kernels.lists import norms

_INITIAL_SCALE, _GROWTH_INTERVAL = 2.0**16, 2000  # torch.amp.GradScaler's defaults


class Update:
    """Adam for one network, with gradients that are checked on the device before they are used.

    A step whose loss or gradient is not finite changes no weight and no moment. With `is_scaled` the loss is multiplied
    before its backward pass by a scale that keeps float16 gradients from underflowing: halved where a gradient
    overflowed, doubled after 2,000 steps without an overflow, as in torch.amp.GradScaler (Micikevicius et al. 2018,
    section 3.2).

    Args:
        network: the network to train.
        rate: Adam's full learning rate; `set_share` sets the share of it that is used.
        betas: Adam's decay rates.
        is_scaled: whether the loss is scaled.
        any_rank: function that replaces flags of this process, in place, by their maximum over all processes.
        is_shared: whether DistributedDataParallel accumulates gradients.

    Attributes:
        rate: learning rate in use, float32 () on the device, as are the following.
        found: 1 if the last step was not finite.
        scale: scale of the loss.
        grown: steps since the scale last changed, int32.
        in_a_row: number of last steps that were not finite and that no smaller scale can fix, int32.
    """

    def __init__(
        self,
        network: nn.Module,
        rate: float,
        betas: tuple[float, float],
        is_scaled: bool,
        any_rank: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
        is_shared: bool = False,
    ):
        self._is_shared = is_shared
        self.parameters = list(network.parameters())
        device = self.parameters[0].device
        self._full, self._any_rank, self.is_scaled = rate, any_rank, is_scaled
        self._rate = DeviceScalar(rate, device)
        self.rate = self._rate.tensor
        capturable = device.type == "cuda"
        # It holds settings and moments, as a checkpoint names them; `_step` does what its step() would. Fused Adam does
        # not check that a parameter, its gradient and its moments share a memory layout; autograd and zeros_like ensure
        # it.
        self.optimizer = torch.optim.Adam(self.parameters, self.rate, betas, fused=True, capturable=capturable)

        def zero(dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros((), dtype=dtype, device=device)

        # Like Adam's first step, but before any graph is captured, so that no address changes. One tensor has the steps
        # of all parameters, so that one operation counts them.
        self._steps = torch.zeros(len(self.parameters), device=device)
        for parameter, step in zip(self.parameters, self._steps, strict=True):
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": step, **moments}
        self.found = zero()
        self._one = zero() + 1
        self.scale = torch.full_like(self.found, _INITIAL_SCALE if is_scaled else 1.0)
        self.grown = zero(torch.int32)
        self.in_a_row = zero(torch.int32)

    def set_share(self, share: float) -> None:
        """Set the share of the full learning rate that is used from now on."""
        self._rate.set(self._full * share)

    def set_beta2(self, value: float) -> None:
        """Set Adam's decay rate of the squared gradients from now on; a captured graph keeps the value it had."""
        for group in self.optimizer.param_groups:
            group["betas"] = group["betas"][0], value

    def clear(self) -> None:
        """Set the gradients to None."""
        for parameter in self.parameters:
            parameter.grad = None

    def backward(self, loss: torch.Tensor, retain_graph: bool = False) -> None:
        """Add the gradients of a loss, a scalar (), to the existing ones."""
        scaled = loss * self.scale if self.is_scaled else loss
        # Autograd would fill a tensor with ones for each pass.
        first = self._one if scaled.dtype == self._one.dtype else None
        if self._is_shared:
            scaled.backward(first, retain_graph=retain_graph)
            return
        earlier = [parameter.grad for parameter in self.parameters]
        self.clear()
        scaled.backward(first, retain_graph=retain_graph)
        self._add(earlier)

    @torch.no_grad()
    def _add(self, earlier: list[torch.Tensor | None]) -> None:
        """Add earlier gradients to those of the last backward pass in one launch."""
        sums, terms = [], []
        for parameter, grad in zip(self.parameters, earlier, strict=True):
            if parameter.grad is None:
                parameter.grad = grad
            elif grad is not None:
                sums.append(parameter.grad)
                terms.append(grad)
        if sums:
            foreach_add_(sums, terms)

    def apply(self, loss: torch.Tensor) -> torch.Tensor:
        """Take the optimiser's step if the loss, a scalar (), and all gradients are finite.

        Sets `found` to 1 if they are not, and counts such steps in `in_a_row`, except those that a smaller scale fixes.

        Returns:
            The norm () of all gradients.
        """
        loss = loss.detach().float()
        if self.is_scaled:
            return self._apply_scaled(loss)
        counters = (self.in_a_row, self._steps) if not self._is_shared else (None, None)
        norm = check_norms(_norms(self.parameters), loss, self.found, *counters)
        if self._is_shared:
            self._any_rank(self.found)
            self.in_a_row.add_(1).mul_(self.found > 0)
            self._steps.add_(1 - self.found)
        self._step(None)
        return norm

    def _step(self, scale: torch.Tensor | None) -> None:
        """Take Adam's step unless `found` is set, with gradients that were multiplied by `scale`."""
        group, state = self.optimizer.param_groups[0], self.optimizer.state
        grads = {parameter: parameter.grad for parameter in self.parameters if parameter.grad is not None}
        first, second, steps = ([state[p][name] for p in grads] for name in ("exp_avg", "exp_avg_sq", "step"))
        settings = self.rate, *group["betas"], group["eps"]
        adam_([*grads], [*grads.values()], (first, second), steps, settings, scale, self.found)

    def _apply_scaled(self, loss: torch.Tensor) -> torch.Tensor:
        norm = gradient_norm(self.parameters) / self.scale
        flags = self._any_rank((~torch.isfinite(torch.stack([norm + loss, loss]))).float())
        self.found.copy_(flags[0])
        self._steps.add_(1 - self.found)
        self._step(self.scale)
        bad = self.found > 0
        is_hopeless = bad & ((self.scale <= 1) | (flags[1] > 0))
        self.in_a_row.copy_(torch.where(is_hopeless, self.in_a_row + 1, self.in_a_row * bad))
        self._rescale(bad)
        return norm

    def _rescale(self, bad: torch.Tensor) -> None:
        grown = self.grown + 1
        grows = grown >= _GROWTH_INTERVAL
        self.grown.copy_(torch.where(bad | grows, 0, grown))
        self.scale.copy_(torch.where(bad, self.scale / 2, torch.where(grows, self.scale * 2, self.scale)))

    @torch.no_grad()
    def reset(self) -> None:
        """Reset moments, scale and counters in place."""
        for slots in self.optimizer.state.values():
            for slot in slots.values():
                slot.zero_()
        self.scale.fill_(_INITIAL_SCALE if self.is_scaled else 1.0)
        self.grown.zero_()
        self.in_a_row.zero_()

    def state(self) -> dict[str, torch.Tensor]:
        """Return the state that exact resumption needs besides weights and moments: scalars () by name."""
        return {"scale": self.scale, "grown": self.grown, "in_a_row": self.in_a_row}


def gradient_norm(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Return the Euclidean norm () of all gradients together; not finite if any value is not."""
    return torch.linalg.vector_norm(_norms(parameters))


def _norms(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Return Euclidean norms of all parts of the gradients, float32 (P,)."""
    return norms([parameter.grad for parameter in parameters if parameter.grad is not None])
