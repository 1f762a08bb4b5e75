"""What is installed and built, and which implementation serves each operation and why: `python -m fastvgan.info`."""

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
import tyro

import fastvgan
from fastvgan.errors import UserError, run_command
from fastvgan.training.device import pick_implementations
from fastvgan_kernels import extension


def facts() -> dict[str, Any]:
    """Everything the command prints, as plain values.

    Raises:
        UserError: FASTVGAN_IMPL names no implementation.
    """
    operations = pick_implementations()
    return {
        "versions": _versions(),
        "devices": _devices(),
        "extension": extension.facts(),
        "operations": operations,
    }


def _versions() -> dict[str, str]:
    dali = next((name for name in _installed() if name.startswith("nvidia-dali-cuda")), "nvidia-dali")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda of torch": torch.version.cuda or "none",
        "fastvgan": fastvgan.__version__,
        "triton": _version("triton"),
        "dali": _version(dali),
    }


def _installed() -> list[str]:
    return [(distribution.metadata["Name"] or "").lower() for distribution in metadata.distributions()]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    devices = {"cpu": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = (
            f"{properties.name}, sm_{properties.major}{properties.minor}, {properties.total_memory / 2**30:.0f} GiB"
        )
    return devices


def as_text(found: dict[str, Any]) -> str:
    """The facts for a person at a terminal."""
    lines = [line for title in ("versions", "devices", "extension") for line in _section(title, found[title])]
    return "\n".join(lines + _table(found["operations"]))


def _section(title: str, rows: dict[str, Any]) -> list[str]:
    width = max(map(len, rows))
    return [title, *(f"  {name:{width}}  {value}" for name, value in rows.items()), ""]


def _table(operations: dict[str, Any]) -> list[str]:
    """Operation × implementation: chosen (with the devices), available or nothing; then the reasons."""
    names = list(next(iter(operations.values()))["implementations"])
    rows, why, missing = [["operation", *names]], [], []
    for operation, entry in operations.items():
        row = [operation]
        for name in names:
            devices = [device for device, chosen in entry["chosen"].items() if chosen["impl"] == name]
            available = entry["implementations"][name] == "available"
            row.append(f"chosen ({', '.join(devices)})" if devices else "available" if available else "-")
            if not available and not entry["implementations"][name].endswith("implementation yet"):
                missing.append(f"  {operation}, {name}: {entry['implementations'][name]}")
        rows.append(row)
        why += [f"  {operation} on {device}: {c['impl']} ({c['why']})" for device, c in entry["chosen"].items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  " + "  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    reasons = ["", "not available (- without a line: not written yet)", *missing] if missing else []
    return ["operations", *lines, *reasons, "", "why", *why]


@dataclass
class Arguments:
    """Print the versions, the devices, the compiled extension, and which implementation serves each operation."""

    json: bool = False
    """Print one JSON object instead."""


def main(arguments: list[str] | None = None) -> None:
    parsed, unknown = tyro.cli(
        Arguments,
        prog="python -m fastvgan.info",
        args=arguments,
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if unknown:
        raise UserError(f"there is no flag {unknown[0]}; --help lists them")
    found = facts()
    print(json.dumps(found, indent=2) if parsed.json else as_text(found))


if __name__ == "__main__":
    run_command(main)
