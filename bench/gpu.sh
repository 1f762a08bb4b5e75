#!/usr/bin/env bash
# What is to be done on a machine with a GPU: build, test, measure, report. `bench/gpu.sh [STEP…]` does these, all by
# default and in this order; a step that fails or runs out of time does not stop the next.
#
#   build       the extension, against the torch that is here; nothing is downloaded
#   info        versions, devices, implementations
#   tests       pytest -m gpu
#   convs       the benchmarks for one GPU (bench/test_gpu_*.py), each with the ceilings: of convolutions,
#   layers      of fused layers and norms,
#   lstm        of the ConvLSTM,
#   train       and of the whole train step, with and without CUDA graphs
#   others      all other benchmarks, which the CPU has too
#   report      JSON and a table of all that was measured into $OUT. From several folders, of one machine and commit:
#               python bench/report.py --from A/benchmarks-convs.json B/benchmarks-lstm.json --out FOLDER
#   memcheck    compute-sanitizer over the tests of the Triton kernels and, shrunk, the benchmarks; skipped without it
#   racecheck   the same for races in shared memory, over the shrunk benchmarks
#
# OUT                    where everything is written (default: bench/results/gpu)
# FASTVGAN_STEP_SECONDS  how long a step may take (default: 3600); benchmarks past it are skipped, and what was measured
#                        is reported
# FASTVGAN_ONLY          picks tests and benchmarks, as pytest's -k
# FASTVGAN_TUNE          1 by default: the fastest tiles are found and left in $OUT, or in FASTVGAN_CACHE
# FASTVGAN_COMMIT        which commit this is a copy of, where there is no .git
#
# Exit status: 0 if all steps passed, else 1.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OUT=${OUT:-bench/results/gpu}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)
export PYTHONUNBUFFERED=1 FASTVGAN_CACHE=${FASTVGAN_CACHE:-$OUT}
limit=${FASTVGAN_STEP_SECONDS:-3600}
tune=${FASTVGAN_TUNE:-1}
if [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$PWD" ]; then
    FASTVGAN_COMMIT=$(git rev-parse HEAD)
fi
export FASTVGAN_COMMIT=${FASTVGAN_COMMIT:-unknown}
summary=() status=0
picked=(${FASTVGAN_ONLY:+-k "$FASTVGAN_ONLY"})

note() {
    summary+=("$1")
    printf '== %s\n' "$1"
}

# run NAME COMMAND…: within the time, with the output in $OUT/NAME.txt, and a line on how it ended.
run() {
    local name=$1 start=$SECONDS code
    shift
    printf '\n== %s\n' "$name"
    # SIGINT lets pytest report what it has. Started in the background, Python ignores that, and is killed.
    timeout --signal=INT --kill-after=20 "$limit" "$@" 2>&1 | tee "$OUT/$name.txt"
    code=${PIPESTATUS[0]}
    local spent="$((SECONDS - start)) s"
    case $code in
        0) note "$name: passed, $spent" ;;
        5) note "$name: nothing was picked" ;; # pytest's
        124 | 137) status=1 && note "$name: ran out of its $limit s" ;;
        *) status=1 && note "$name: FAILED with exit status $code, $spent" ;;
    esac
    return "$code"
}

build() {
    FASTVGAN_REQUIRE_EXTENSION=1 run build python3 -m pip install --no-deps --no-build-isolation -e .
}

info() {
    {
        echo "commit $FASTVGAN_COMMIT"
        date -u +%Y-%m-%dT%H:%MZ
        python3 --version
        nvcc --version 2>&1 | tail -n 2
        nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,mig.mode.current \
            --format=csv 2>&1
    } | tee "$OUT/versions.txt"
    python3 -m fastvgan.info --json >"$OUT/info.json" 2>/dev/null
    run info python3 -m fastvgan.info
}

tests() {
    run gpu-tests python3 -m pytest -q -m gpu --durations=10 "${picked[@]}"
}

# measure NAME PYTEST-ARGUMENT…: the last tests to begin end before the step's time does.
measure() {
    local name=$1
    shift
    rm -f "$OUT/$name.json"
    FASTVGAN_TUNE=$tune FASTVGAN_BENCH_SECONDS=$((limit * 9 / 10)) run "$name" python3 -m pytest -q "$@" \
        ${FASTVGAN_ONLY:+-k "($FASTVGAN_ONLY) or test_ceilings"} \
        --benchmark-only --benchmark-json="$OUT/$name.json" --benchmark-columns=median,iqr,rounds
}

convs() {
    measure benchmarks-convs bench/test_ceilings.py bench/test_gpu_conv.py
}

layers() {
    measure benchmarks-layers bench/test_ceilings.py bench/test_gpu_layers.py
}

lstm() {
    measure benchmarks-lstm bench/test_ceilings.py bench/test_gpu_conv_lstm.py
}

train() {
    measure benchmarks-train bench/test_ceilings.py bench/test_gpu_train.py
}

others() {
    measure benchmarks-others bench --ignore-glob='*/test_gpu_*.py'
}

report() {
    local files=() file
    for file in "$OUT"/benchmarks-*.json; do
        [ -s "$file" ] && files+=("$file")
    done
    if [ ${#files[@]} = 0 ]; then
        note "report: there is nothing to report" && status=1
        return
    fi
    run report python3 bench/report.py --from "${files[@]}" --out "$OUT"
}

# sanitize NAME TOOL PYTEST-ARGUMENT…: torch's allocator off, for it hides what is written past a tensor's end.
sanitize() {
    local name=$1 tool=$2
    shift 2
    if ! command -v compute-sanitizer >/dev/null; then
        note "$name: skipped, there is no compute-sanitizer on PATH"
        return
    fi
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 FASTVGAN_TUNE=0 run "$name" compute-sanitizer --tool "$tool" --error-exitcode 9 \
        --print-limit 20 python3 -m pytest -q -x -p no:cacheprovider "$@"
}

shrunk() {
    FASTVGAN_BENCH_TINY=1 sanitize "$1-benchmarks" "$1" --benchmark-disable bench/test_gpu_*.py \
        -k "ours and not ours_cuda and not ours_auto and not graph"
}

memcheck() {
    shrunk memcheck
    # A graph cannot be captured without the allocator.
    FASTVGAN_IMPL=triton sanitize memcheck-tests memcheck -m gpu tests/kernels -k "not graph"
}

racecheck() {
    shrunk racecheck
}

steps=("$@")
if [ ${#steps[@]} = 0 ]; then
    steps=(build info tests convs layers lstm train others report memcheck racecheck)
fi
for step in "${steps[@]}"; do
    case $step in
        build | info | tests | convs | layers | lstm | train | others | report | memcheck | racecheck) "$step" ;;
        *) status=1 && note "there is no step $step; the first lines of bench/gpu.sh list them" ;;
    esac
done
printf '\n== commit %s, everything is in %s\n' "$FASTVGAN_COMMIT" "$OUT"
printf '%s\n' "${summary[@]}" | tee "$OUT/summary.txt"
exit $status
