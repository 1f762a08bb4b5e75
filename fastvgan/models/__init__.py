"""The networks. `build(config)` returns a generator and a discriminator, called as G(z, c) and D(x, c)."""

from typing import TYPE_CHECKING, Any

from fastvgan.models.config import ModelConfig

if TYPE_CHECKING:
    from fastvgan.models.conditions import Condition
    from fastvgan.models.networks import build, build_generator

__all__ = ["Condition", "ModelConfig", "build", "build_generator"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # Loaded at first use: a command parses its flags, the fields of ModelConfig, before it imports torch.
    if name in __all__:
        from fastvgan.models import networks

        return getattr(networks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
