"""A model of a training step's cost: seconds on N devices, memory, exchanged bytes, and storage for clips.

docs/explanation/scaling.md explains the model and its errors. `python bench/scaling.py` prints its tables; `--fit
FILE…` fits a device's rates to sweeps that bench/gpu/scale.py or bench/test_scale.py measured, and prints the error of
each step when it is left out of the fit.
"""

import argparse
import functools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import numpy as np  # noqa: E402
from gpu_rules import check_convs  # noqa: E402
from scipy.optimize import nnls  # noqa: E402
from step_cost import StepCost, Work, count_cost  # noqa: E402
from support.sweep import Sizes, config_of  # noqa: E402
from support.text_table import format_table  # noqa: E402
from support.variants import DTYPES  # noqa: E402

from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.models.config import ModelConfig  # noqa: E402
from fastvgan.runs.presets import PRESETS  # noqa: E402

PASSES = ROOT / "bench" / "results" / "convs-h100.json"
_FLAGS = 3  # collectives of a step besides gradients and norms: two of "is finite", and the vote on stopping
_GPU_TILE = 64  # fewest channels in a matrix product on tensor cores


@dataclass(frozen=True)
class Rates:
    """The time of an operation, as a sum of three terms.

    per_flop, per_byte, per_operation: seconds.
    tile: channels are rounded up to a multiple of it.
    """

    per_flop: float
    per_byte: float
    per_operation: float
    tile: int = 1

    def seconds(self, work: Work) -> float:
        """Return the seconds of one operation; 0 for views and allocations."""
        if not work.bytes:
            return 0.0
        return self.per_flop * count_tiled_flops(work, self.tile) + self.per_byte * work.bytes + self.per_operation


@dataclass(frozen=True)
class Device:
    """A device: its rates for convolutions and for other operations, and the GB/s at which it receives clips."""

    name: str
    convolutions: Rates
    others: Rates
    input_gb_per_s: float

    def rates(self, work: Work) -> Rates:
        return self.convolutions if work.channels else self.others


@dataclass(frozen=True)
class Network:
    """The network between the processes.

    bytes_per_s: bytes per second that each process sends in a ring all-reduce.
    latency: seconds of a collective of a few bytes.
    hidden: share of the gradients' all-reduce that overlaps with backward passes.
    """

    name: str
    bytes_per_s: float
    latency: float
    hidden: float = 0.0


# We have measured none of these figures; docs/explanation/scaling.md lists them as assumptions.
NVLINK = Network("NVLink within a machine", 300e9, 20e-6)
BETWEEN = Network("400 Gb/s for each GPU between machines", 40e9, 40e-6)


def count_tiled_flops(work: Work, tile: int) -> float:
    """Return an operation's FLOPs with its channels rounded up to whole tiles, as a GEMM kernel computes them."""
    return work.flops * math.prod(math.ceil(c / tile) * tile / c for c in work.channels)


def parts_of_step(cost: StepCost, device: Device) -> dict[str, float]:
    """Return the seconds of a step by their cause: "products", "memory" and "launches"."""
    busy = [(work, device.rates(work)) for work in cost.work if work.bytes]
    return {
        "products": sum(rates.per_flop * count_tiled_flops(work, rates.tile) for work, rates in busy),
        "memory": sum(rates.per_byte * work.bytes for work, rates in busy),
        "launches": sum(rates.per_operation for _, rates in busy),
    }


def step_seconds(cost: StepCost, device: Device) -> float:
    """Return the seconds of one process's step."""
    return sum(device.rates(work).seconds(work) for work in cost.work)


def count_exchanged_bytes(cost: StepCost, processes: int) -> float:
    """Return the bytes that each process sends per step for the gradients of both networks, in a ring."""
    return 2 * (processes - 1) / processes * cost.fixed.gradients


def exchange_seconds(cost: StepCost, network: Network, processes: int) -> dict[str, float]:
    """Return the seconds that collectives add to a step: "gradients", and "norms", with other small collectives.

    A batch norm waits for its collective, forward and backward, since nothing can be computed without the statistics.
    """
    if processes == 1:
        return {"gradients": 0.0, "norms": 0.0}
    gradients = count_exchanged_bytes(cost, processes) / network.bytes_per_s + cost.fixed.buckets * network.latency
    return {
        "gradients": gradients * (1 - network.hidden),
        "norms": (cost.norms + _FLAGS) * network.latency,
    }


def memory_bytes(cost: StepCost, on_gpu: bool = True) -> int:
    """Return the bytes that a process needs: its state, 16-bit copies of weights on a GPU, and a step's peak."""
    return cost.fixed.state + cost.fixed.gradients + on_gpu * cost.fixed.copies + cost.peak


def count_decoded_bytes(model: ModelConfig, frames: int | None = None) -> int:
    """Return the bytes of one uint8 clip, with the model's number of frames or the given one."""
    return (frames or model.frames) * model.height * model.width * model.channels


def count_encoded_bytes(model: ModelConfig, bits_per_pixel: float, frames: int | None = None) -> int:
    """Return the bytes of one clip as a video file, by its bits per pixel of each frame."""
    return round((frames or model.frames) * model.height * model.width * bits_per_pixel / 8)


def data_seconds(model: ModelConfig, batch: int, device: Device) -> float:
    """Return the seconds to copy a step's decoded clips to the device, which overlaps with the previous step."""
    return batch * count_decoded_bytes(model) / (device.input_gb_per_s * 1e9)


def predict(cost: StepCost, model: ModelConfig, device: Device, network: Network, processes: int) -> dict[str, Any]:
    """Predict a step of `processes` devices, each with `cost.batch` clips.

    Returns:
        "step_s"; "videos_per_s" of all devices; "efficiency", relative to N times one device's rate; "parts", the
        seconds by their cause; "first", the largest of these. If data arrives more slowly, it determines "step_s".
    """
    parts = parts_of_step(cost, device) | exchange_seconds(cost, network, processes)
    computed = sum(parts.values())
    parts["data"] = data_seconds(model, cost.batch, device)
    step = max(computed, parts["data"])
    alone = max(step_seconds(cost, device), parts["data"])
    return {
        "step_s": step,
        "videos_per_s": processes * cost.batch / step,
        "efficiency": alone / step,
        "parts": parts,
        "first": max(parts, key=parts.get),
    }


Sample = tuple[float, float, float, float]  # FLOPs, bytes, operations, and the seconds they took


def fit(samples: Sequence[Sample], tile: int = 1) -> Rates:
    """Fit non-negative rates to the samples by least squares of relative errors.

    The samples' FLOPs already have channels rounded up to `tile`. The method is non-negative least squares (Lawson and
    Hanson, 1974), with each row divided by its seconds.

    Raises:
        ValueError: there is no sample, or one took no time.
    """
    table = np.array(samples, dtype=float).reshape(-1, 4)
    if not len(table) or (table[:, 3] <= 0).any():
        raise ValueError("fitting rates needs at least one sample, and each must have taken some time")
    scaled = table[:, :3] / table[:, 3:]
    largest = np.where(scaled.max(0) > 0, scaled.max(0), 1)
    found, _ = nnls(scaled / largest, np.ones(len(table)))
    return Rates(*(found / largest).tolist(), tile)


def sample_of(cost: StepCost, seconds: float, tile: int = 1) -> Sample:
    """Return a whole step as a sample for `fit`."""
    return sum(count_tiled_flops(work, tile) for work in cost.work), cost.bytes, cost.operations, seconds


def cross_validate(samples: Sequence[Sample], tile: int = 1) -> list[float]:
    """Return, for each sample, the relative error of the rates fitted to all other samples."""
    errors = []
    for i, (flops, moved, operations, seconds) in enumerate(samples):
        rates = fit([*samples[:i], *samples[i + 1 :]], tile)
        predicted = rates.per_flop * flops + rates.per_byte * moved + rates.per_operation * operations
        errors.append(predicted / seconds - 1)
    return errors


def passes_as_samples(found: dict[str, Any], impl: str, tile: int = _GPU_TILE) -> list[Sample]:
    """Return the passes in a file of bench/gpu/convs.py as samples, timed by "stock", "triton" or the "faster" one."""
    samples = []
    for row in found["passes"]:
        times = {"stock": min(row["stock_ms"].values()), "triton": row["triton_ms"]}
        milliseconds = min(times.values()) if impl == "faster" else times[impl]
        work = work_of_pass(row)
        samples.append((count_tiled_flops(work, tile), work.bytes, 1, milliseconds / 1e3))
    return samples


def work_of_pass(row: dict[str, Any]) -> Work:
    """Return the work of a convolution's pass, with cubic inputs and kernels, in a 16-bit dtype."""
    size, kernel, stride, padding = (row[name] for name in ("size", "kernel", "stride", "padding"))
    if row["transposed"]:
        out = (size - 1) * stride - 2 * padding + kernel
    else:
        out = (size + 2 * padding - kernel) // stride + 1
    small = size if row["transposed"] else out
    weight = row["inputs"] * row["outputs"] * kernel**3
    clips = row["batch"] * (row["inputs"] * size**3 + row["outputs"] * out**3)
    flops = 2 * row["batch"] * small**3 * weight
    return Work(row["pass"], flops, 2 * (clips + weight), (row["inputs"], row["outputs"]), 0)


def h100(impl: str = "faster") -> Device:
    """Build an H100's model from its measured convolutions, copies and launches, for captured steps in bf16.

    Raises:
        UserError: the file of the convolutions lacks the rate of copies.
    """
    found = json.loads(PASSES.read_text(encoding="utf-8"))
    check_convs(found, ["copy_gb_per_s"])
    # 206 launches under 3 us took 0.30 ms of a captured step (step-profile of commit 9cd0ec5).
    others = Rates(0.0, 1 / (found["copy_gb_per_s"] * 1e9), 0.30e-3 / 206)
    return Device(found["device"], fit(passes_as_samples(found, impl), _GPU_TILE), others, input_gb_per_s=25.0)


def table(presets: Sequence[str], counts: Sequence[int], device: Device) -> list[str]:
    """Format a table of each preset on each number of devices, with the preset's batch on every device."""
    head = ("preset", "GPUs", "step ms", "videos/s", "efficiency", "memory GB", "sends MB", "first limit")
    rows = [head]
    for name in presets:
        config = PRESETS[name]
        cost = count_cost(config, config.training.batch_size)
        for processes in counts:
            network = NVLINK if processes <= 8 else BETWEEN
            found = predict(cost, config.model, device, network, processes)
            cells = f"{1e3 * found['step_s']:.2f}", f"{found['videos_per_s']:,.0f}", f"{found['efficiency']:.0%}"
            sizes = f"{memory_bytes(cost) / 1e9:.2f}", f"{count_exchanged_bytes(cost, processes) / 1e6:.0f}"
            rows.append((name, str(processes), *cells, *sizes, found["first"]))
    return format_table(rows, range(1, 7))


def fit_sweeps(paths: Sequence[Path]) -> list[str]:
    """Format the rates fitted to the steps of sweeps, and each step's error when it is left out of the fit.

    If several sweeps contain a step, its lowest time counts: other processes on a machine only add to it.
    """
    rows = keep_lowest([row for path in paths for row in read_steps(json.loads(path.read_text(encoding="utf-8")))])
    tile = _GPU_TILE if any(row["on_gpu"] for row in rows) else 1
    samples = [sample_of(cost_of(row), row["seconds"], tile) for row in rows]
    rates, errors = fit(samples, tile), cross_validate(samples, tile)
    cells = [("step", "ms", "error left out", "peak MB", "peak / count")]
    for row, error in zip(rows, errors, strict=True):
        peak = row.get("peak_bytes")
        of_count = f"{peak / cost_of(row).peak:.2f}" if peak else ""
        megabytes = f"{peak / 1e6:.1f}" if peak else ""
        cells.append((name_of(row), f"{1e3 * row['seconds']:.2f}", f"{error:+.0%}", megabytes, of_count))
    speeds = ((rates.per_flop, 1e12, "TFLOP/s"), (rates.per_byte, 1e9, "GB/s"))
    rates_in_words = [f"{1 / x / unit:.3g} {name}" if x else f"no limit by {name}" for x, unit, name in speeds]
    rates_in_words.append(f"{1e6 * rates.per_operation:.3g} us per operation, tiles of {tile} channels")
    absolute = [abs(error) for error in errors]
    off = f"off by {statistics.median(absolute):.0%} (median), {max(absolute):.0%} (worst)"
    return [*format_table(cells, range(1, 5)), ", ".join(rates_in_words), off]


def write_steps(paths: Sequence[Path], out: Path) -> None:
    """Write the fitted steps, each with its lowest time, and the first file's description of the machine."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    first = files[0]
    head = first.get("machine_info", {}).get("fastvgan") or {k: v for k, v in first.items() if k != "steps"}
    commit = first.get("commit_info", {}).get("id") or first.get("commit")
    keys = ("family", "dimension", "sizes", "dtype", "peak_bytes")
    steps = [
        {**{key: row.get(key) for key in keys}, "step_ms": round(1e3 * row["seconds"], 3)}
        for row in keep_lowest([row for found in files for row in read_steps(found)])
    ]
    rows = ",\n".join("  " + json.dumps(step) for step in steps)
    lines = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in {**head, "commit": commit}.items())
    out.write_text("{\n" + lines + f' "steps": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def read_steps(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the single-process steps of a sweep, from a file of bench/gpu/scale.py or pytest-benchmark.

    "seconds" is CPU time if one thread was measured on the CPU.
    """
    if "benchmarks" in found:
        on_gpu = found["machine_info"]["fastvgan"]["device"] != "cpu"
        rows = [{"cpu_s": b["stats"]["min"], **b["extra_info"]} for b in found["benchmarks"]]
        rows = [{**row, "seconds": row["cpu_s"]} for row in rows]
    else:
        on_gpu = found["device"] != "cpu"
        rows = [{**row, "seconds": row["step_ms"] / 1e3} for row in found["steps"]]
    return [{**row, "on_gpu": on_gpu} for row in rows if "sizes" in row and row["sizes"]["processes"] == 1]


def keep_lowest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each step's row with the lowest seconds, and the lowest peak memory if it was measured."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        key = row["family"], row["dtype"], tuple(row["sizes"].values())
        best = found.setdefault(key, row)
        peaks = [r["peak_bytes"] for r in (row, best) if r.get("peak_bytes")]
        faster = min(best, row, key=lambda r: r["seconds"])
        found[key] = {**faster, "peak_bytes": min(peaks, default=None)}
    return list(found.values())


def name_of(row: dict[str, Any]) -> str:
    value = row["sizes"].get(row["dimension"], "")
    return " ".join(map(str, (row["family"], row["dimension"], value))).rstrip()


def cost_of(row: dict[str, Any]) -> StepCost:
    """Return the cost of the step in a sweep's row."""
    return _cost(row["family"], Sizes(**row["sizes"]), row["dtype"])


@functools.cache
def _cost(family: str, sizes: Sizes, dtype: str) -> StepCost:
    return count_cost(config_of(family, sizes, sizes.batch), sizes.batch, DTYPES[dtype])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["digits", "reference", "clips", "clips-64"], choices=PRESETS)
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2, 8, 64])
    parser.add_argument(
        "--fit", nargs="+", type=Path, metavar="FILE", help="fit rates to these sweeps instead of printing tables"
    )
    parser.add_argument("--out", type=Path, help="write the steps of --fit to this JSON file")
    parsed = parser.parse_args()
    if parsed.fit and parsed.out:
        write_steps(parsed.fit, parsed.out)
    print("\n".join(fit_sweeps(parsed.fit) if parsed.fit else table(parsed.presets, parsed.gpus, h100())))
    return 0


if __name__ == "__main__":
    run_command(main)
