"""Philox 4x32-10 against the words that its authors published."""

import pytest
import torch

from fastvgan_kernels.philox import philox, philox_4x32, reference

# Random123's kat_vectors, "philox4x32 10": counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_integers_are_the_published_ones(counter, key, words):
    assert philox_4x32(counter, key) == words


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_tensors_are_the_published_ones(counter, key, words, device):
    first, low, high, last = counter
    number = low + (high << 32)
    number -= 2**64 if number >= 2**63 else 0  # as int64 holds it
    numbers, counters = torch.tensor([5, number], device=device), torch.tensor([[7, 7], [first, last]], device=device)
    drawn = philox(numbers, counters, key)
    assert drawn.shape == (2, 2, 4) and drawn.dtype == torch.int64
    assert tuple(drawn[1, 1].tolist()) == words
    assert tuple(drawn[0, 0].tolist()) == philox_4x32((7, 5, 0, 7), key)


@pytest.mark.triton
@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_triton_gives_the_same(interpreted, counter, key, words):
    triton = pytest.importorskip("fastvgan_kernels.philox.triton")
    first, low, high, last = counter
    number = low + (high << 32)
    numbers = torch.tensor([3, number - 2**64 if number >= 2**63 else number, 2**40, -1, 2**31])
    counters = torch.tensor([[first, last], *([i, 2**32 - 1 - i] for i in range(70))])
    found = triton.philox(numbers, counters, key)
    assert tuple(found[1, 0].tolist()) == words
    assert torch.equal(found, reference.philox(numbers, counters, key))
    assert triton.philox(numbers[:0], counters, key).shape == (0, 71, 4)
    assert triton.philox(numbers, counters[:0], key).shape == (5, 0, 4)
