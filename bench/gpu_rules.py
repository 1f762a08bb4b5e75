"""Turn what was measured on a GPU into the rules that `auto` follows there: kernels/measured/h100.py.

    python bench/gpu_rules.py [--convs FILE.json] [--tiles FILE.json] [--more FILE.json …] [--out FILE.py]
    python bench/gpu_rules.py --renew FILE.json

The convolutions' file is what `bench/gpu.sh convs` writes, the tiles' file what tuning wrote into FASTVGAN_CACHE, and
further files, of norms and of the ConvLSTM, are what `bench/gpu.sh layers lstm` writes. --renew first replaces those
passes of the convolutions' file that `bench/gpu.sh few` measured, and adds their tiles to the tiles' file.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONVS = ROOT / "bench" / "results" / "convs-h100.json"
TILES = ROOT / "bench" / "results" / "triton-tiles-h100.json"
MORE = [CONVS.with_name(name) for name in ("layers-h100.json", "lstm-h100.json")]
OUT = ROOT / "kernels" / "measured" / "h100.py"
OPERATIONS = ("conv_up", "conv_down", "conv_weight_grad", "norm_act", "conv_lstm")
SIZES = ("taps", "stride", "inputs", "outputs", "positions")


def operation_of(transposed: bool, which: str) -> str:
    """The operation that computes a pass of a convolution or of a transposed one."""
    if which == "weight gradient":
        return "conv_weight_grad"
    return "conv_up" if transposed == (which == "forward") else "conv_down"


def problem_of(entry: dict) -> tuple[str, tuple[int, ...]]:
    """A pass as the rules see it: operation, (taps, stride, inputs, outputs, positions).

    `kernel`, `stride` and `size` are one integer for a cube, or one for each dimension.
    """
    kernel, stride, size, padding = (_three(entry[name]) for name in ("kernel", "stride", "size", "padding"))
    small = size
    if not entry["transposed"]:
        small = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)]
    operation = operation_of(entry["transposed"], entry["pass"])
    channels = entry["inputs"], entry["outputs"]
    # What is read is the gradient's side in a data gradient; a weight gradient has the large side first.
    swapped = entry["transposed"] if operation == "conv_weight_grad" else entry["pass"] == "data gradient"
    inputs, outputs = channels[::-1] if swapped else channels
    return operation, (_product(kernel), _product(stride), inputs, outputs, entry["batch"] * _product(small))


def ratio_of(entry: dict) -> float:
    """How many times as fast as what auto takes instead Triton is.

    For a convolution auto takes stock PyTorch's operation, timed in its better memory format; for a norm with its
    activation, and for the ConvLSTM, the reference in the network's own format.
    """
    return entry.get("reference_ms", min(entry["stock_ms"].values())) / entry["triton_ms"]


def problems_of(convs: dict, more: Sequence[dict] = ()) -> dict[str, list[tuple]]:
    """Operation → (taps, stride, inputs, outputs, positions, ratio); of a problem measured twice the lower ratio."""
    entries = [(problem_of(entry), entry) for entry in convs["passes"]]
    for measured in more:
        entries += [
            ((entry["operation"], tuple(entry[name] for name in SIZES)), entry)
            for entry in measured["problems"]
            if "operation" in entry  # the others are of whole layers
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
    """(kernel, bytes of an element, flags) → (sizes, configuration); what was tuned on other devices is left out."""
    width = {"bfloat16": 2, "float16": 2, "float32": 4}
    found: dict[tuple, list[tuple]] = {}
    for key, config in sorted(tiles.items()):
        name, _, kernel, dtype, sizes, flags = key.split("|", 5)
        if name == device:
            entry = tuple(map(int, sizes.split("x"))), tuple(config)
            found.setdefault((kernel, width[dtype], flags), []).append(entry)
    return found


def renewed(convs: dict, tiles: dict[str, list], few: dict) -> tuple[dict, dict[str, list]]:
    """Both files with what `few` measured in the place of the same passes, and with its tiles.

    Passes that the file lacks stay out of it, their tiles do not.

    Raises:
        ValueError: another device, or shrunk problems.
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
        raise ValueError("rules come from one device, and not from shrunk problems")


def _write_passes(path: Path, convs: dict) -> None:
    head = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in convs.items() if name != "passes"]
    rows = ",\n".join("  " + json.dumps(row) for row in convs["passes"])
    path.write_text("{\n" + ",\n".join(head) + f',\n "passes": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def generated(convs: dict, tiles: dict[str, list], more: Sequence[dict] = ()) -> str:
    """The text of kernels/measured/h100.py.

    Raises:
        ValueError: the files are of different devices, or of shrunk problems.
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
        convs, tiles = renewed(convs, tiles, json.loads(parsed.renew.read_text(encoding="utf-8")))
        _write_passes(parsed.convs, convs)
        parsed.tiles.write_text(json.dumps(tiles, indent=1, sort_keys=True), encoding="utf-8")
    parsed.out.write_text(generated(convs, tiles, more), encoding="utf-8")
    print(f"{parsed.out}: {len(convs['passes'])} passes and {len(tiles)} tiles of {convs['device']}")


if __name__ == "__main__":
    main()
