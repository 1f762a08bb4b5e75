"""What the backward operations of norms return for parameters."""


def as_parameters(dweight, dbias, weight, bias):
    """The gradients in the parameters' dtypes; where there is no parameter, as they are."""
    return dweight.to((dweight if weight is None else weight).dtype), dbias.to((dbias if bias is None else bias).dtype)
