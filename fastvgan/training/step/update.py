"""One network's update: its optimiser, the scale of its loss, and what keeps a loss that is not finite out of it.

Nothing here waits for the device, so that an update can be captured in a CUDA graph.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from fastvgan.training.step.scalar import DeviceScalar
from fastvgan_kernels._torch import foreach_add_, foreach_norm
from fastvgan_kernels.finite import check_norms

_FIRST_SCALE, _GROWS_AFTER = 2.0**16, 2000  # as torch.amp.GradScaler's


class Update:
    """Adam for one network, with gradients that are checked on the device before they are used.

    A step whose loss or gradient is not finite changes no weight and no moment. With `scaled` the loss is multiplied
    before its backward pass by a scale that keeps float16 gradients from vanishing: halved where a gradient overflowed,
    doubled after 2,000 steps in which none did, as torch.amp.GradScaler does it (Micikevicius et al. 2018, section
    3.2).

    Args:
        network: what is trained. rate: Adam's learning rate; `share` of it, set by `set_share`, is used. betas: Adam's.
        scaled: whether the loss is scaled. any_rank: brings flags of this process together with those of all, in place.
        shared: whether DistributedDataParallel adds gradients up, where they are its own.
    """

    def __init__(
        self,
        network: nn.Module,
        rate: float,
        betas: tuple[float, float],
        scaled: bool,
        any_rank: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
        shared: bool = False,
    ):
        self._adds_itself = not shared
        self.parameters = list(network.parameters())
        device = self.parameters[0].device
        scalar = {"dtype": torch.float32, "device": device}
        self._full, self._any_rank, self.scaled = rate, any_rank, scaled
        self._rate = DeviceScalar(rate, device)
        self.rate = self._rate.tensor
        # Fused, Adam takes it unchecked that a parameter, its gradient and its moments share a memory layout, which
        # autograd and zeros_like see to.
        capturable = device.type == "cuda"
        self.optimizer = torch.optim.Adam(self.parameters, self.rate, betas, fused=True, capturable=capturable)
        for parameter in self.parameters:  # as Adam would at its first step; so that they have their place from now on
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": torch.zeros((), **scalar), **moments}
        self.found = torch.zeros((), **scalar)
        self._one = torch.ones((), **scalar)
        self.scale = torch.full((), _FIRST_SCALE if scaled else 1.0, **scalar)
        self.grown = torch.zeros((), dtype=torch.int32, device=device)
        self.in_a_row = torch.zeros((), dtype=torch.int32, device=device)

    def set_share(self, share: float) -> None:
        """Take this share of the full learning rate from now on."""
        self._rate.set(self._full * share)

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def backward(self, loss: torch.Tensor, retain_graph: bool = False) -> None:
        """Add the gradients of a scalar loss to those that are there."""
        scaled = loss * self.scale if self.scaled else loss
        # Autograd would fill a tensor with ones for each pass.
        first = self._one if scaled.dtype == self._one.dtype else None
        if self._adds_itself:
            earlier = [parameter.grad for parameter in self.parameters]
            self.clear()
        scaled.backward(first, retain_graph=retain_graph)
        if self._adds_itself:
            self._add(earlier)

    @torch.no_grad()
    def _add(self, earlier: list[torch.Tensor | None]) -> None:
        """Add earlier gradients to those of the last backward pass, all at once."""
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
        """Let the optimiser take its step, if the loss () and all gradients are finite; gives the gradients' norm ().

        `found` is then 1 where they were not, `in_a_row` counts such steps, leaving out those that a smaller scale can
        mend.
        """
        loss, of_loss = loss.detach().float(), None
        if self.scaled:
            norm = gradient_norm(self.parameters) / self.scale
            flags = self._any_rank((~torch.isfinite(torch.stack([norm + loss, loss]))).float())
            self.found.copy_(flags[0])
            of_loss = flags[1]
        else:
            alone = self._adds_itself
            norm = check_norms(_norms(self.parameters), loss, self.found, self.in_a_row if alone else None)
            if not alone:
                self._any_rank(self.found)
                self.in_a_row.add_(1).mul_(self.found > 0)
        self.optimizer.grad_scale, self.optimizer.found_inf = self.scale if self.scaled else None, self.found
        self.optimizer.step()
        if self.scaled:
            bad = self.found > 0
            hopeless = bad & ((self.scale <= 1) | (of_loss > 0))
            self.in_a_row.copy_(torch.where(hopeless, self.in_a_row + 1, self.in_a_row * bad))
            self._rescale(bad)
        return norm

    def _rescale(self, bad: torch.Tensor) -> None:
        grown = self.grown + 1
        grows = grown >= _GROWS_AFTER
        self.grown.copy_(torch.where(bad | grows, 0, grown))
        self.scale.copy_(torch.where(bad, self.scale / 2, torch.where(grows, self.scale * 2, self.scale)))

    @torch.no_grad()
    def reset(self) -> None:
        """Forget, in place, all that was learned of gradients."""
        for slots in self.optimizer.state.values():
            for slot in slots.values():
                slot.zero_()
        self.scale.fill_(_FIRST_SCALE if self.scaled else 1.0)
        self.grown.zero_()
        self.in_a_row.zero_()

    def state(self) -> dict[str, torch.Tensor]:
        """What an exact resumption needs beside weights and moments, by name."""
        return {"scale": self.scale, "grown": self.grown, "in_a_row": self.in_a_row}


def gradient_norm(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """The Euclidean norm () of all gradients together; not finite where one of their values is not."""
    return torch.linalg.vector_norm(_norms(parameters))


@torch.no_grad()
def _norms(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """The Euclidean norm of each gradient, float32 (number of gradients,)."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.stack([norm.float() for norm in foreach_norm(grads)])
