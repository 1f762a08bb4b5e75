"""What stock PyTorch's convolutions on the CPU get wrong, or end the process by, is known and computed otherwise.

The shapes are ones that were seen to fail with torch 2.13. On a processor where stock PyTorch computes them right, the
tests of results cannot fail; those of the rule can everywhere.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastvgan_kernels import conv_down, conv_up, conv_weight_grad, layout
from fastvgan_kernels.conv import reference, sizes
from fastvgan_kernels.conv.stock import faults, on_cpu

# dtype, then the shapes of large, small and weight, then stride, padding, dilation and groups.
FAILING = (torch.bfloat16, [33, 2, 11, 2], [33, 33, 5, 1], [33, 2, 3, 2], [2, 3], [0, 1], [1, 1], 1)
DOWN = [
    FAILING,
    (torch.bfloat16, [14, 34, 3, 1], [14, 2, 1, 2], [2, 17, 1, 1], [3, 2], [0, 1], [1, 2], 2),
    (torch.bfloat16, [1, 17, 1, 8, 10], [1, 17, 1, 2, 5], [17, 17, 2, 4, 3], [1, 3, 2], [2, 2, 3], [3, 2, 3], 1),
    (torch.bfloat16, [20, 3, 1, 8, 8], [20, 17, 1, 8, 8], [17, 3, 3, 3, 3], [1] * 3, [1] * 3, [1] * 3, 1),  # one frame
    (torch.bfloat16, [1, 6, 1, 8, 6], [1, 34, 2, 3, 3], [34, 3, 4, 3, 3], [1, 2, 2], [2, 1, 1], [1, 2, 1], 2),
    (torch.float32, [33, 2, 6, 15, 1], [33, 1, 3, 3, 2], [1, 2, 3, 3, 1], [2, 3, 2], [1, 0, 1], [1, 3, 3], 1),
    (torch.float32, [2, 1, 6, 4], [2, 16, 4, 1], [16, 1, 3, 3], [1, 2], [0, 0], [1, 1], 1),
    (torch.float32, [3, 1, 2, 4, 2], [3, 2, 1, 4, 1], [2, 1, 4, 3, 3], [3, 1, 3], [2, 2, 1], [1, 2, 1], 1),
]
WEIGHT_GRAD = [
    FAILING,
    (torch.bfloat16, [3, 1, 2], [3, 8, 2], [8, 1, 3], [3], [2], [1], 1),
    (torch.bfloat16, [33, 17, 1], [33, 33, 2], [33, 17, 3], [2], [2], [1], 1),
    (torch.bfloat16, [1, 17, 2, 2, 2], [1, 2, 2, 2, 2], [2, 17, 3, 1, 1], [1] * 3, [1, 0, 0], [1] * 3, 1),
    (torch.bfloat16, [2, 16, 4, 5, 3], [2, 3, 4, 5, 3], [3, 16, 5, 1, 1], [1] * 3, [2, 0, 0], [1] * 3, 1),
]
ORDINARY = ([4, 8, 8, 8, 8], [4, 16, 4, 4, 4], [16, 8, 4, 4, 4], [2] * 3, [1] * 3, [1] * 3, 1)


def tensors(dtype, *shapes):
    return [torch.randn(shape).to(dtype) for shape in shapes]


def poison(*tensors):
    """Leave NaN where the allocator will put what is computed next, so that reading beyond a tensor is seen."""
    blocks = [torch.full_like(t, float("nan")) for t in tensors for _ in range(2)]
    del blocks


def assert_within_2_percent(mine, exact):
    assert mine.shape == exact.shape
    assert (mine.double() - exact).abs().max() <= 0.02 * exact.abs().max()


@pytest.mark.parametrize("case", DOWN, ids=str)
def test_a_convolution_that_stock_gets_wrong_is_known_and_right(case):
    dtype, large, _, weight, stride, padding, dilation, groups = case
    x, w = tensors(dtype, large, weight)
    args = stride, padding, dilation
    assert faults.conv_down_fails(x, w, *args)
    assert on_cpu.conv_down_slower(x, w, *args, groups) is None  # whatever else it says of such a shape
    exact = reference.conv_down(x.double(), w.double(), None, *args, groups)
    poison(x, w, exact)
    mine = reference.conv_down(x, w, None, *args, groups)
    assert mine.dtype == dtype
    assert_within_2_percent(mine, exact)
    assert_within_2_percent(conv_down(x, w, None, *args, groups), exact)


@pytest.mark.parametrize("case", WEIGHT_GRAD, ids=str)
def test_a_weight_gradient_that_stock_gets_wrong_is_known_and_right(case):
    dtype, large, small, weight, stride, padding, dilation, groups = case
    x, y, w = tensors(dtype, large, small, weight)
    args = weight[2:], stride, padding, dilation, groups
    assert faults.conv_weight_grad_fails(x, y, stride, padding)
    assert on_cpu.conv_weight_grad_slower(x, y, weight[2:], stride, padding, dilation, groups) is None
    poison(x, y, w)
    exact = reference.conv_weight_grad(x.double(), y.double(), *args)
    for in_float32 in (False, True):
        mine = reference.conv_weight_grad(x, y, *args, in_float32)
        assert mine.dtype == (torch.float32 if in_float32 else dtype)
        assert_within_2_percent(mine, exact)
    assert_within_2_percent(conv_weight_grad(x, y, *args), exact)


def with_one_channel(rng):
    """Random tensors large, small and weight in random layouts, and a geometry, with one output of a strided width."""
    dims = rng.choice((1, 2, 2, 3))
    while True:
        size, kernel = ([rng.randint(1, most) for _ in range(dims)] for most in (7, 4))
        stride = [rng.choice((1, 1, 2)) for _ in range(dims - 1)] + [rng.choice((2, 3))]
        padding, dilation = [rng.randint(0, 2) for _ in range(dims)], [rng.choice((1, 1, 2)) for _ in range(dims)]
        outputs = sizes.small(size, kernel, stride, padding, dilation)
        if min(outputs) > 0 and outputs[-1] == 1:
            break
    batch, channels = rng.choice((1, 2, 3)), rng.choice((1, 3, 16))
    shapes = (batch, 1, *size), (batch, channels, *outputs), (channels, 1, *kernel)
    laid_out = []
    for x in tensors(torch.float32, *shapes):
        innermost = layout.empty_with_channels_innermost(x, x.shape).copy_(x)
        laid_out.append(innermost if rng.random() < 0.6 else x)
    return *laid_out, (stride, padding, dilation)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_convolutions_of_one_channel_are_right_in_every_layout(impl):
    """Both kinds, with their gradients, in float32: channels-last strides of one channel mislead stock PyTorch."""
    rng = random.Random(0)
    torch.manual_seed(0)
    for _ in range(250):
        large, small, weight, (stride, padding, dilation) = with_one_channel(rng)
        extra = sizes.output_padding(large.shape[2:], small.shape[2:], weight.shape[2:], stride, padding, dilation)
        forms = [(conv_down, large, small, (stride, padding, dilation))]
        if all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
            forms.append((conv_up, small, large, (stride, padding, extra, dilation)))
        for convolve, x, dy, geometry in forms:
            results = []
            for dtype in (torch.float64, torch.float32):
                inputs = [t.detach().to(dtype).requires_grad_() for t in (x, weight)]
                poison(x, weight, dy)
                y = convolve(*inputs, None, *geometry, impl=impl)
                poison(x, weight, dy)
                results.append((y, *torch.autograd.grad(y, inputs, dy.to(dtype))))
            for exact, mine in zip(*results, strict=True):
                torch.testing.assert_close(mine.double(), exact, rtol=1e-4, atol=1e-4, msg=str((convolve, geometry)))


ENDS_THE_PROCESS = {
    # Of the inputs of a transposed convolution some leave nothing: the one plane lies between its two taps.
    "conv_up": """
        x, w = torch.randn(20, 3, 1, 4, 4).bfloat16(), torch.randn(3, 17, 2, 3, 3).bfloat16()
        run = lambda x, w: reference.conv_up(x, w, None, [1] * 3, [1] * 3, [0] * 3, [2, 1, 1], 1)
    """,
    # Padded by more than a stride: it writes beyond its memory.
    "conv_weight_grad": """
        x, w = torch.randn(20, 2, 4, 4, 4), torch.randn(20, 6, 4, 4, 4)
        run = lambda x, w: reference.conv_weight_grad(x, w, [4, 3, 3], [2, 1, 1], [3, 1, 1], [1] * 3, 1)
    """,
}


@pytest.mark.parametrize("operation", list(ENDS_THE_PROCESS))
def test_what_would_end_the_process_is_computed_otherwise(operation):
    """In a separate process, and often: whether it crashes depends on the memory beside the buffer."""
    lines = [line.strip() for line in ENDS_THE_PROCESS[operation].strip().splitlines()]
    program = ["import torch, fastvgan", "from fastvgan_kernels.conv import reference", "torch.manual_seed(0)", *lines]
    program += ["exact = run(x.double(), w.double())", "for _ in range(100):"]
    program += ["    worst = (run(x, w) - exact).abs().max()", "    assert worst <= 0.02 * exact.abs().max(), worst"]
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", "\n".join(program)], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-500:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_networks_convolutions_are_left_to_stock(dtype):
    large, small, weight, stride, padding, dilation, _ = ORDINARY
    x, y, w = tensors(dtype, large, small, weight)
    assert not faults.conv_down_fails(x, w, stride, padding, dilation)
    assert not faults.conv_weight_grad_fails(x, y, stride, padding)


def test_faults_depend_on_the_dtype():
    """Few strided outputs of several channels fail in half precision only; nothing fails in float64."""
    _, large, small, weight, stride, padding, dilation, _ = FAILING
    for dtype, fails in ((torch.bfloat16, True), (torch.float16, True), (torch.float32, False), (torch.float64, False)):
        x, y, w = tensors(dtype, large, small, weight)
        assert faults.conv_down_fails(x, w, stride, padding, dilation) == fails
        assert faults.conv_weight_grad_fails(x, y, stride, padding) == fails
    _, large, _, weight, stride, padding, dilation, _ = DOWN[-1]
    x, w = tensors(torch.float64, large, weight)
    assert not faults.conv_down_fails(x, w, stride, padding, dilation)


@pytest.mark.parametrize(
    "size, kernel, stride, padding, dilation, fails",
    [
        (8, 4, 2, 1, 1, False),
        (4, 3, 1, 2, 1, False),  # the first output sees one value
        (4, 3, 1, 3, 1, True),  # the first output sees none
        (1, 1, 2, 1, 1, True),  # neither does any output, and the one value none of them
        (15, 3, 3, 0, 3, False),
        (1, 2, 1, 1, 2, True),  # its two taps fall on either side of the one value
        (3, 2, 1, 1, 2, False),
    ],
)
def test_an_output_that_sees_nothing_but_padding_is_found(size, kernel, stride, padding, dilation, fails):
    """By float32, for which there is no other rule; and as the convolution of ones tells."""
    x, w = torch.ones(1, 1, 8, size), torch.ones(1, 1, 1, kernel)
    args = [1, stride], [0, padding], [1, dilation]
    sees = torch.nn.functional.conv2d(x.double(), w.double(), None, *args)
    assert bool((sees == 0).any()) == fails
    assert faults.conv_down_fails(x, w, *args) == fails


def test_other_devices_are_trusted():
    _, large, small, weight, stride, padding, dilation, _ = FAILING
    x, y, w = (torch.empty(shape, device="meta", dtype=torch.bfloat16) for shape in (large, small, weight))
    assert not faults.conv_down_fails(x, w, stride, padding, dilation)
    assert not faults.conv_weight_grad_fails(x, y, stride, padding)
