"""bench/plot_roofline.py: points of known work and time lie where the definition of a roofline puts them."""

import pytest
from PIL import Image

pytest.importorskip("matplotlib")
from plot_roofline import cpu, h100, main  # noqa: E402  it is in bench/

from fastvgan.errors import UserError  # noqa: E402


def summary(group):
    machine = {"cores": 2, "cpu": "a CPU", "torch": "2"}
    ceilings = {"gemm fp32": 400.0, "gemm bf16": 2000.0, "copy": 20.0, "copy in cache": 50.0}
    return {"machine": machine, "ceilings": ceilings, "groups": group}


def variants(ours_ms, stock_ms):
    return {"ours": "a", "stock": "b", "variants": {"a": {"median_ms": ours_ms}, "b": {"median_ms": stock_ms}}}


def test_a_convolution_at_half_the_rate_of_gemm():
    group = {"share_of_gemm": 0.5, "bytes": 10**7, "dtype": "fp32", **variants(10.0, 40.0)}
    (point,) = cpu(summary({"Conv3d, forward, fp32": group})).points
    # 200 GFLOP/s for 10 ms are 2e9 operations.
    assert (point.kind, point.dtype) == ("convolution", "fp32")
    assert (point.intensity, point.ours, point.stock) == pytest.approx((200, 200, 50))


def test_a_norm_of_known_bytes():
    group = {"bytes": 8 * 10**6, "dtype": "fp32", **variants(1.0, 2.0)}
    (point,) = cpu(summary({"BatchNorm3d + relu (1, 1), evaluation, fp32": group})).points
    # 10⁶ values, read and written once in 4 bytes each, 3 operations per value.
    assert (point.intensity, point.ours, point.stock) == pytest.approx((3 / 8, 3.0, 1.5))


def test_groups_without_bytes_have_no_point():
    group = {"share_of_gemm": 0.5, "dtype": "fp32", **variants(1.0, 2.0)}
    assert not cpu(summary({"a network, fp32": group})).points


def test_gpu_rates_are_shares_of_its_gemm():
    passes = [{"share_of_gemm": {"triton": 0.5, "stock": 0.25}, "share_of_copy": 0.1}]
    convolutions = {"device": "a GPU", "versions": {"torch": "2"}, "gemm_tflops": 800, "copy_gb_per_s": 3000}
    problems = [
        {"layer": "not a norm"},
        {
            "operation": "norm_act",
            "positions": 1000,
            "outputs": 1000,
            "gb_per_s": 1000,
            "triton_ms": 0.016,
            "stock_ms": {"contiguous": 0.032, "channels_last": 0.064},
        },
    ]
    convolution, norm = h100({**convolutions, "passes": passes}, {"problems": problems}).points
    # 400,000 GFLOP/s and 300 GB/s.
    assert (convolution.intensity, convolution.ours, convolution.stock) == pytest.approx((4000 / 3, 400e3, 200e3))
    # 10⁶ values of 16 operations each; 16 MB in 0.016 ms.
    assert (norm.intensity, norm.ours, norm.stock) == pytest.approx((1, 1000, 500))


@pytest.mark.parametrize("missing", ["copy_gb_per_s", "share_of_copy"])
def test_passes_without_shares_are_named(missing):
    """As bench/gpu.sh convs writes them."""
    one = {"share_of_gemm": {"triton": 0.5, "stock": 0.25}, "share_of_copy": 0.1}
    convolutions = {"device": "a GPU", "versions": {"torch": "2"}, "gemm_tflops": 800, "copy_gb_per_s": 3000}
    convolutions["passes"] = [one]
    for values in (convolutions, one):
        values.pop(missing, None)
    with pytest.raises(UserError, match=f"have no {missing}, which bench/gpu.sh convs does not write"):
        h100(convolutions, {"problems": []})


def test_the_command_draws_the_measurements(tmp_path):
    main(["--out", str(tmp_path / "roofline.png")])
    with Image.open(tmp_path / "roofline.png") as picture:
        assert sum(count > 0 for count in picture.convert("L").histogram()) > 50
