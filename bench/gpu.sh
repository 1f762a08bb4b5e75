#!/usr/bin/env bash
# Build the extension here, run the GPU tests, then every benchmark; JSON and text go to $OUT (default: bench/results).
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-bench/results}
mkdir -p "$OUT"
status=0
# --no-deps and --no-build-isolation: nothing is downloaded, and the torch that is here is the one built against.
FASTVGAN_REQUIRE_EXTENSION=1 python3 -m pip install --no-deps --no-build-isolation -e . 2>&1 | tee "$OUT/build.txt" || exit 1
python3 -m fastvgan.info --json >"$OUT/info.json" || status=1
python3 -m pytest -m gpu -q 2>&1 | tee "$OUT/gpu-tests.txt" || status=1
python3 -m pytest bench --benchmark-only --benchmark-json="$OUT/benchmarks.json" 2>&1 | tee "$OUT/benchmarks.txt" || status=1
python3 bench/report.py --from "$OUT/benchmarks.json" --out "$OUT" 2>&1 | tee "$OUT/report.txt" || status=1
exit $status
