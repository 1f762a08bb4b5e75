"""Classes that inherit from a user's layer class and from one of fastvgan's; `fuse` gives them to the user's instances.

A derived class has the name of the user's class and passes for it: isinstance, class attributes and methods work as
before. It cannot be imported by that name, so copies and pickles of its instances derive it again.
"""

import copyreg
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import nn

# User's class → fastvgan's class → the class derived from both. A derived class holds its bases, so it is referred to
# weakly: classes that nothing else refers to, such as those of a notebook's cell, do not stay.
_derived: WeakKeyDictionary[type[nn.Module], dict[type[nn.Module], ref[type[nn.Module]]]] = WeakKeyDictionary()


def derive_class(theirs: type[nn.Module], ours: type[nn.Module], *, ours_first: bool = False) -> type[nn.Module]:
    """Return the class that inherits from both and has the name of `theirs`.

    Every call returns the same class, as long as something refers to it.

    Args:
        theirs: the user's class, without a subclass hook (`has_subclass_hook`).
        ours: fastvgan's class for the torch.nn class that `theirs` derives from.
        ours_first: whether `ours` comes first in the method resolution order.
    """
    classes = _derived.setdefault(theirs, {})
    known = classes[ours]() if ours in classes else None
    if known is not None:
        return known

    def __reduce_ex__(self: nn.Module, protocol: Any) -> Any:
        reduced: Any = super(derived, self).__reduce_ex__(max(protocol, 2))
        constructor, arguments, *rest = reduced
        if constructor is vars(copyreg)["__newobj__"] and type(self) is derived:
            return _new_instance, (theirs, ours, ours_first), *rest
        return constructor, arguments, *rest

    names: dict[str, Any] = {name: getattr(theirs, name) for name in ("__module__", "__qualname__", "__doc__")}
    names |= {"__reduce_ex__": __reduce_ex__, "_is_leaf_of_fx": False, "_fastvgan_class": ours}
    bases = (ours, theirs) if ours_first else (theirs, ours)
    derived: Any = type(theirs.__name__, bases, names)
    classes[ours] = ref(derived)
    return derived


def fastvgan_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the fastvgan class that `kind` was derived from, or `kind` if it is not a derived class."""
    return vars(kind).get("_fastvgan_class", kind)


def has_subclass_hook(kind: type) -> bool:
    """Whether deriving from `kind` runs code, as classes that register their subclasses do."""
    return type(kind) is not type or any("__init_subclass__" in vars(base) for base in kind.__mro__[:-1])


def _new_instance(theirs: type[nn.Module], ours: type[nn.Module], ours_first: bool) -> nn.Module:
    derived = derive_class(theirs, ours, ours_first=ours_first)
    return derived.__new__(derived)
