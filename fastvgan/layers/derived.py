"""Classes that are somebody's and ours at once, which fuse() gives to instances of a subclass of torch.nn's.

Such a class has the subclass's name, and whatever the subclass has holds in it. It cannot be found by that name, so
that copies and pickles of its instances make it again from the two.
"""

import copyreg
from typing import Any

from torch import nn

# (a subclass of torch.nn's, ours) → the class that is both.
_made: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}
# That class → ours.
_ours: dict[type[nn.Module], type[nn.Module]] = {}


def derived_class(theirs: type[nn.Module], ours: type[nn.Module], *, ours_first: bool = False) -> type[nn.Module]:
    """The class of the name of `theirs` that inherits from both; one and the same at every call.

    Args:
        theirs: a class whose own code does not run where one inherits from it (`is_told_of_subclasses`).
        ours: a subclass of the class of torch.nn's that `theirs` is a subclass of.
        ours_first: which of the two is asked first for what both have.
    """
    made = _made.get((theirs, ours))
    if made is not None:
        return made

    def __reduce_ex__(self, protocol):
        how, arguments, *rest = super(made, self).__reduce_ex__(max(protocol, 2))
        if how is copyreg.__newobj__ and type(self) is made:
            return _new, (theirs, ours, ours_first), *rest
        return how, arguments, *rest

    names: dict[str, Any] = {name: getattr(theirs, name) for name in ("__module__", "__qualname__", "__doc__")}
    names |= {"__reduce_ex__": __reduce_ex__, "_is_leaf_of_fx": False}
    bases = (ours, theirs) if ours_first else (theirs, ours)
    made = type(theirs.__name__, bases, names)
    _made[theirs, ours], _ours[made] = made, ours
    return made


def ours_of(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of ours that `kind` was derived from; `kind` itself where it was not."""
    return _ours.get(kind, kind)


def is_told_of_subclasses(kind: type) -> bool:
    """Whether code of its own runs where a class inherits from it, as registries have it."""
    return type(kind) is not type or any("__init_subclass__" in vars(base) for base in kind.__mro__[:-1])


def _new(theirs: type[nn.Module], ours: type[nn.Module], ours_first: bool) -> nn.Module:
    made = derived_class(theirs, ours, ours_first=ours_first)
    return made.__new__(made)
