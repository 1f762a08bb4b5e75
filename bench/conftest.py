"""What holds for every benchmark."""

import platform

import pytest
import torch
from variants import device

import fastvgan  # noqa: F401  (binds a checkout's kernels/ as fastvgan_kernels)


@pytest.fixture(autouse=True)
def compile_afresh():
    """Each compiled variant is compiled for its own shape: after a few of them torch.compile would give up
    specialising, or silently run eagerly."""
    torch._dynamo.reset()


def pytest_benchmark_update_machine_info(config, machine_info):
    """What the report says of the machine: nothing of whose it is."""
    machine_info.pop("node", None)
    cpu = machine_info.get("cpu", {})
    on_gpu = device().type == "cuda"
    machine_info["fastvgan"] = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "cpu": cpu.get("brand_raw") or platform.processor() or platform.machine(),
        "cores": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16_instructions": on_gpu or bool({"avx512_bf16", "amx_bf16", "bf16"} & set(cpu.get("flags", ()))),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
