"""The shipped digits against scikit-learn's, and the numbers that choose held-out captions against numpy's."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fastvgan.data.digits import DigitsSource, pcg64
from fastvgan.data.digits.source import _HANDWRITING
from fastvgan.files.tensor_file import read_tensors


def test_the_shipped_digits_are_those_of_scikit_learn():
    tensors, metadata = read_tensors(_HANDWRITING)
    expected = load_digits()
    assert tensors["images"].dtype == tensors["digits"].dtype == torch.uint8
    assert np.array_equal(tensors["images"], expected.images) and np.array_equal(tensors["digits"], expected.target)
    assert "10.24432/C50P49" in metadata["source"] and metadata["licence"] == "CC BY 4.0"
    assert _HANDWRITING.stat().st_size < 120_000


def test_the_fingerprints_of_earlier_runs_are_kept():
    found = [DigitsSource(), DigitsSource(channels=1, split="test"), DigitsSource(hold_out=0.1, hold_out_seed=3)]
    assert [source.fingerprint.short for source in found] == ["64847b01", "32682047", "8618967e"]


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32, 2**63 - 1, 2**64, 2**130 + 7, 2**200 + 3])
def test_random_numbers_are_those_of_numpy(seed):
    found = list(itertools.islice(pcg64.uniforms(seed), 1000))
    assert found == np.random.default_rng(seed).random(1000).tolist()
