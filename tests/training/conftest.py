"""Makes what surrounds the steps of a run in this process small: of it there is much, and a step takes milliseconds."""

import pytest

from fastvgan.training.run import output, samples


@pytest.fixture(autouse=True)
def _small(monkeypatch, request):
    monkeypatch.setattr(samples, "_POOL", 16)
    monkeypatch.setattr(samples, "_ROUNDS", 2)
    if "with_report" not in request.keywords:
        monkeypatch.setattr(output, "write_report", lambda folder: None)
