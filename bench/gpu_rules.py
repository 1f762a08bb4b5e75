"""Write `auto`'s rules for a GPU, kernels/measured/h100.py, from measurements on it.

    python bench/gpu_rules.py [--convs FILE.json] [--tiles FILE.json] [--more FILE.json …] [--out FILE.py]
    python bench/gpu_rules.py --renew FILE.json

`bench/gpu.sh convs` writes the file for --convs, tuning writes the file for --tiles into FASTVGAN_CACHE, and
`bench/gpu.sh layers lstm` writes the files for --more, with norms and the ConvLSTM. --renew reads the file of
`bench/gpu.sh few` first: its passes replace those in the file of --convs, and its tiles are added to the file of
--tiles.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.errors import UserError  # noqa: E402

CONVS = ROOT / "bench" / "results" / "convs-h100.json"
TILES = ROOT / "bench" / "results" / "triton-tiles-h100.json"
MORE = [CONVS.with_name(name) for name in ("layers-h100.json", "lstm-h100.json")]
OUT = ROOT / "kernels" / "measured" / "h100.py"
OPERATIONS = ("conv_up", "conv_down", "conv_weight_grad", "norm_act", "conv_lstm")
SIZES = ("taps", "stride", "inputs", "outputs", "positions")


def check_convs(convs: dict, names: Sequence[str], of_pass: Sequence[str] = ()) -> None:
    """Check that a file of passes has what the caller reads besides times.

    Raises:
        UserError: a value of the file, or of one of its passes, is missing.
    """
    missing = [name for name in names if name not in convs]
    missing += [name for name in of_pass if any(name not in row for row in convs["passes"])]
    if missing:
        raise UserError(
            f"the measured convolutions have no {missing[0]}, which bench/gpu.sh convs does not write; take "
            "bench/results/convs-h100.json of a commit that has it"
        )


def operation_of(transposed: bool, which: str) -> str:
    """Return the operation that computes a pass of a convolution or a transposed convolution."""
    if which == "weight gradient":
        return "conv_weight_grad"
    return "conv_up" if transposed == (which == "forward") else "conv_down"


def problem_of(entry: dict) -> tuple[str, tuple[int, ...]]:
    """Return a pass in the form of the rules: operation, (taps, stride, inputs, outputs, positions).

    `kernel`, `stride` and `size` are one integer for a cube, or one for each dimension.
    """
    kernel, stride, size, padding = (_three(entry[name]) for name in ("kernel", "stride", "size", "padding"))
    small = size
    if not entry["transposed"]:
        small = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)]
    operation = operation_of(entry["transposed"], entry["pass"])
    channels = entry["inputs"], entry["outputs"]
    # A data gradient reads the output side; a weight gradient takes the large side first.
    swapped = entry["transposed"] if operation == "conv_weight_grad" else entry["pass"] == "data gradient"
    inputs, outputs = channels[::-1] if swapped else channels
    return operation, (_product(kernel), _product(stride), inputs, outputs, entry["batch"] * _product(small))


def ratio_of(entry: dict) -> float:
    """Return the speed of Triton relative to the implementation that auto takes instead.

    For a convolution this is stock PyTorch's operation in its faster memory format; for a norm with its activation and
    for the ConvLSTM, the reference in the network's memory format.
    """
    return entry.get("reference_ms", min(entry["stock_ms"].values())) / entry["triton_ms"]


def problems_of(convs: dict, more: Sequence[dict] = ()) -> dict[str, list[tuple]]:
    """Return operation → (taps, stride, inputs, outputs, positions, ratio); the lower ratio if measured twice."""
    entries = [(problem_of(entry), entry) for entry in convs["passes"]]
    for measured in more:
        entries += [
            ((entry["operation"], tuple(entry[name] for name in SIZES)), entry)
            for entry in measured["problems"]
            if "operation" in entry  # the other entries are whole layers
        ]
    found: dict[tuple, float] = {}
    for key, entry in entries:
        found[key] = min(ratio_of(entry), found.get(key, float("inf")))
    rows = {
        operation: sorted((*sizes, round(ratio, 3)) for (name, sizes), ratio in found.items() if name == operation)
        for operation in OPERATIONS
    }
    return {operation: problems for operation, problems in rows.items() if problems}


def tiles_of(tiles: dict[str, list], device: str) -> dict[tuple, list[tuple]]:
    """Return (kernel, bytes per element, flags) → (sizes, configuration), for tiles tuned on this device."""
    width = {"bfloat16": 2, "float16": 2, "float32": 4}
    found: dict[tuple, list[tuple]] = {}
    for key, config in sorted(tiles.items()):
        name, _, kernel, dtype, sizes, flags = key.split("|", 5)
        if name == device:
            entry = tuple(map(int, sizes.split("x"))), tuple(config)
            found.setdefault((kernel, width[dtype], flags), []).append(entry)
    return found


def update_measurements(convs: dict, tiles: dict[str, list], few: dict) -> tuple[dict, dict[str, list]]:
    """Return the passes and the tiles, updated from `few`'s measurements.

    Only passes that `convs` already has are replaced; all tiles are added.

    Raises:
        ValueError: the files are from different devices, or from shrunk problems.
    """
    _check_one_device(convs, few)
    taken = ("stock_ms", "triton_ms", "share_of_gemm", "share_of_copy", "off")
    new = {(row["layer"], row["pass"]): {name: row[name] for name in taken} for row in few["passes"]}
    since = {"measured": {name: few[name] for name in ("commit", "date", "versions")}}
    passes = []
    for row in convs["passes"]:
        found = new.get((row["layer"], row["pass"]))
        passes.append({**row, **found, **since} if found else row)
    return {**convs, "passes": passes}, {**tiles, **{row["key"]: row["tile"] for row in few["passes"]}}


def _check_one_device(*files: dict) -> None:
    if len({measured["device"] for measured in files}) > 1 or any(measured.get("tiny") for measured in files):
        raise ValueError("the measurements must be from one device, without FASTVGAN_BENCH_TINY")


def _write_passes(path: Path, convs: dict) -> None:
    head = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in convs.items() if name != "passes"]
    rows = ",\n".join("  " + json.dumps(row) for row in convs["passes"])
    path.write_text("{\n" + ",\n".join(head) + f',\n "passes": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def generate_rules(convs: dict, tiles: dict[str, list], more: Sequence[dict] = ()) -> str:
    """Return the text of kernels/measured/h100.py.

    Raises:
        ValueError: the files are from different devices, or from shrunk problems.
    """
    _check_one_device(convs, *more)
    origin = {name: convs[name] for name in ("device", "capability", "versions", "commit", "date", "dtype")}
    origin["passes"] = len(convs["passes"])
    lines = ['"""Written by bench/gpu_rules.py from measurements in bench/results: change those, not this file."""', ""]
    lines += ["# fmt: off", "ORIGIN = {", *(f"    {name!r}: {value!r}," for name, value in origin.items()), "}"]
    lines += ["# Operation → (taps, product of strides, inputs, outputs, positions, the reference's time by Triton's)."]
    lines += _table("PROBLEMS", problems_of(convs, more))
    lines += ["# (kernel, bytes of an element, flags) → (rows, columns, depth, tiles), (the fields of tuning.Config)."]
    lines += _table("TILES", tiles_of(tiles, convs["device"]))
    return "\n".join(lines) + "\n"


def _table(name: str, entries: dict) -> list[str]:
    lines = [f"{name} = {{"]
    for key, values in entries.items():
        lines += [f"    {key!r}: (", *(f"        {value!r}," for value in values), "    ),"]
    return [*lines, "}"]


def _three(value: int | list[int]) -> list[int]:
    return [value] * 3 if isinstance(value, int) else list(value)


def _product(values: list[int]) -> int:
    first, second, third = values
    return first * second * third


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--convs", type=Path, default=CONVS)
    parser.add_argument("--tiles", type=Path, default=TILES)
    parser.add_argument("--more", type=Path, nargs="*", default=MORE)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--renew", type=Path, metavar="FILE.json")
    parsed = parser.parse_args()
    paths = parsed.convs, parsed.tiles, *parsed.more
    convs, tiles, *more = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    if parsed.renew:
        convs, tiles = update_measurements(convs, tiles, json.loads(parsed.renew.read_text(encoding="utf-8")))
        _write_passes(parsed.convs, convs)
        parsed.tiles.write_text(json.dumps(tiles, indent=1, sort_keys=True), encoding="utf-8")
    parsed.out.write_text(generate_rules(convs, tiles, more), encoding="utf-8")
    print(f"{parsed.out}: {len(convs['passes'])} passes and {len(tiles)} tiles of {convs['device']}")


if __name__ == "__main__":
    run_command(main)
