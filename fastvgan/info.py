"""Print versions, devices, the compiled extension and each operation's implementation: `python -m fastvgan.info`."""

import json
from typing import Annotated, Any

import tyro

from fastvgan.command_line import parse, run_command
from fastvgan.machine.threads import describe_threads
from fastvgan.machine.versions import find_versions
from fastvgan.settings import Settings

H100 = (9, 0)  # the compute capability of the GPU that was measured


def facts() -> dict[str, Any]:
    """Return everything the command prints, as plain values.

    Raises:
        UserError: FASTVGAN_IMPL names no implementation.
    """
    from fastvgan.machine.device import pick_implementations
    from fastvgan_kernels import extension

    operations = pick_implementations()
    return {
        "versions": _versions(),
        "devices": _devices(),
        "extension": extension.facts(),
        "operations": operations,
        "gpu": _gpu_rules(),
    }


def _versions() -> dict[str, str]:
    found = find_versions()
    cuda = found.pop("cuda")
    found = {name: version or "not installed" for name, version in found.items()}
    return {**found, "cuda of torch": cuda or "none"}


def _gpu_rules() -> dict[str, Any]:
    """Return the choices of `auto` on this machine's GPU, else on an H100, and the measurement behind them."""
    import torch

    from fastvgan_kernels.measured import rules

    here = torch.cuda.is_available()
    capability = torch.cuda.get_device_capability() if here else H100
    return {
        "shown_for": torch.cuda.get_device_name() if here else "an H100 (this machine has no GPU)",
        "measured_on": rules.origin(capability),
        "margin": rules.MARGIN,
        "choices": [{**problem._asdict(), **choice._asdict()} for problem, choice in rules.problems(capability)],
    }


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": f"{torch.backends.cpu.get_cpu_capability()}, {describe_threads()}"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = (
            f"{properties.name}, sm_{properties.major}{properties.minor}, {properties.total_memory / 2**30:.0f} GiB"
        )
    return devices


def as_text(found: dict[str, Any]) -> str:
    """Return the facts as a text for the terminal."""
    lines = [line for title in ("versions", "devices", "extension") for line in _section(title, found[title])]
    return "\n".join(lines + _table(found["operations"]) + _choices(found["gpu"]))


def _section(title: str, rows: dict[str, Any]) -> list[str]:
    width = max(map(len, rows))
    return [title, *(f"  {name:{width}}  {value}" for name, value in rows.items()), ""]


def _table(operations: dict[str, Any]) -> list[str]:
    """Return the table of operations and implementations, then the reasons for each choice."""
    from fastvgan_kernels.choice import is_written

    names = list(next(iter(operations.values()))["implementations"])
    rows, why, missing = [["operation", *names]], [], []
    for operation, entry in operations.items():
        row = [operation]
        for name in names:
            devices = [device for device, chosen in entry["chosen"].items() if chosen["impl"] == name]
            available = entry["implementations"][name] == "available"
            row.append(f"chosen ({', '.join(devices)})" if devices else "available" if available else "-")
            if not available and is_written(operation, name):
                missing.append(f"  {operation}, {name}: {entry['implementations'][name]}")
        rows.append(row)
        why += [f"  {operation} on {device}: {c['impl']} ({c['why']})" for device, c in entry["chosen"].items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  " + "  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    reasons = ["", "not available (- without a line: not written)", *missing] if missing else []
    return ["operations", *lines, *reasons, "", "why", *why]


def _choices(found: dict[str, Any]) -> list[str]:
    """One row per measured problem of a GPU."""
    origin = found["measured_on"]
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    head = ["operation", "channels", "taps", "strides", "positions", "impl", "why"]
    rows = [head]
    for c in found["choices"]:
        channels = f"{c['inputs']}→{c['outputs']}"
        rows.append(
            [c["operation"], channels, *map(str, (c["taps"], c["stride"], c["positions"])), c["impl"], c["why"]]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return [
        "",
        f"convolutions, norms and ConvLSTMs by auto on {found['shown_for']}, in a CUDA graph",
        f"  measured on {origin['device']}, {versions}, commit {origin['commit']}, {origin['date']}:",
        f"  {origin['passes']} passes in {origin['dtype']}, channels_last_3d. For other problems auto takes Triton if",
        f"  Triton was {found['margin']:.0%} faster on the nearest measured problem. If none is near,",
        "  small convolutions, norms and ConvLSTMs take Triton, all others stock PyTorch (reference). Outside a CUDA",
        "  graph small problems take stock PyTorch.",
        *("  " + "  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]


class Arguments(Settings):
    """Print the versions, the devices, the compiled extension, and which implementation serves each operation."""

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; see `Arguments`."""
    parsed = parse(Arguments, "python -m fastvgan.info", arguments)
    found = facts()
    print(json.dumps(found, indent=2) if parsed.as_json else as_text(found))


if __name__ == "__main__":
    run_command(main)
