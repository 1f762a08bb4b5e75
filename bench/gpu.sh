#!/usr/bin/env bash
# Run the benchmarks for one GPU within a time limit. `bench/gpu.sh [PART…]` runs these parts, by default all, in this
# order:
#
#   warm        compile the Triton kernels of the next parts into Triton's cache, in parallel processes on all cores
#   command     python -m fastvgan.train as a whole: videos/s, data_wait    → command.json
#   train       the captured train step, ours against stock                → train.json
#   convs       each pass of each convolution by auto, Triton and cuDNN    → convs.json
#   layers      norms and whole layers                                     → layers.json
#   lstm        the ConvLSTM                                               → lstm.json
#   tests       pytest -m gpu                                              → log.txt
#
# These run only if they are named:
#
#   breakdown   kernels of one captured step by time                       → breakdown.json
#   scale       the train step by frames, size, width, batch, processes    → scale.json, for bench/scaling.py --fit
#   few         convolutions with few channels, by each tile               → few.json
#   build       compile the extension against the installed torch, without downloading anything
#   thorough    the benchmarks by pytest with torch.compile, checked in float64, and a report; takes an hour
#   memcheck    compute-sanitizer on the Triton kernels' tests and on tiny benchmarks; skipped if not installed
#   racecheck   compute-sanitizer for races in shared memory, on tiny benchmarks; skipped if not installed
#
# Each part gets a share of BUDGET and the time that earlier parts left over; a part that no longer fits is skipped and
# listed. A part rewrites its file after each result, so a part that is stopped keeps its results. log.txt holds all
# output.
#
# BUDGET              seconds for all parts (default 480)
# OUT                 folder for all output (default bench/results/gpu)
# FASTVGAN_TUNE       1: time Triton's tiles and write the fastest to $OUT/triton-tuning.json; 0 (default): do not
# FASTVGAN_ONLY       selects tests and thorough benchmarks (pytest's -k)
# FASTVGAN_BENCH_TINY 1: tiny problems, which also run on a CPU, to find errors; the times mean nothing
# FASTVGAN_COMMIT     the commit, in a copy without .git
#
# Exit status: 0 if all parts passed, else 1.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OUT=${OUT:-bench/results/gpu}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)
export PYTHONUNBUFFERED=1 FASTVGAN_CACHE=${FASTVGAN_CACHE:-$OUT} FASTVGAN_TUNE=${FASTVGAN_TUNE:-0}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-python3}
budget=${BUDGET:-480}
if [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$PWD" ]; then
    FASTVGAN_COMMIT=$(git rev-parse --short HEAD)
fi
export FASTVGAN_COMMIT=${FASTVGAN_COMMIT:-unknown}
summary=() status=0
picked=(${FASTVGAN_ONLY:+-k "$FASTVGAN_ONLY"})
parts=("$@")
[ ${#parts[@]} = 0 ] && parts=(warm command train convs layers lstm tests)

share_of() { # in percent of the budget if all parts run
    case $1 in
        warm) echo 12 ;;
        command) echo 26 ;;
        train) echo 20 ;;
        convs | few) echo 16 ;;
        layers | lstm) echo 7 ;;
        tests | build | breakdown | scale) echo 12 ;;
        thorough | memcheck | racecheck) echo 100 ;;
        *) echo 0 ;;
    esac
}

note() {
    summary+=("$1")
    printf '== %s\n' "$1" | tee -a "$OUT/log.txt"
}

# run NAME SECONDS COMMAND…: run the command for at most SECONDS, log its output, and note how it ended.
run() {
    local name=$1 seconds=$2 start=$SECONDS code
    shift 2
    printf '\n== %s, %s s at most\n' "$name" "$seconds" | tee -a "$OUT/log.txt"
    # SIGINT lets pytest report its results so far. Python ignores it when started in the background, and is killed.
    timeout --signal=INT --kill-after=5 "$seconds" "$@" 2>&1 | tee -a "$OUT/log.txt"
    code=${PIPESTATUS[0]}
    local spent="$((SECONDS - start)) s"
    case $code in
        0) note "$name: passed, $spent" ;;
        5) note "$name: no test was selected" ;; # pytest's status
        124 | 137) status=1 && note "$name: ran out of its $seconds s" ;;
        *) status=1 && note "$name: FAILED with exit status $code, $spent" ;;
    esac
}

measure() { # NAME SECONDS: run a script of bench/gpu, which skips units that no longer fit
    rm -f "$OUT/$1.json"
    run "$1" "$2" "$python" "bench/gpu/$1.py" --out "$OUT/$1.json" --seconds $(($2 - 8))
}

tests() {
    local several=()
    [ -z "${FASTVGAN_BENCH_TINY:-}" ] && "$python" -c "import xdist" 2>/dev/null && several=(-n 6 --dist worksteal)
    FASTVGAN_TUNE=0 run tests "$1" "$python" -m pytest -v -m gpu -p no:cacheprovider "${several[@]}" \
        --durations=5 "${picked[@]}"
}

thorough() {
    local name files=()
    for name in conv layers conv_lstm train; do
        FASTVGAN_BENCH_SECONDS=$(($1 / 5)) run "thorough-$name" "$(($1 / 4))" "$python" -m pytest -q bench/test_ceilings.py \
            "bench/test_gpu_$name.py" ${FASTVGAN_ONLY:+-k "($FASTVGAN_ONLY) or test_ceilings"} --benchmark-only \
            --benchmark-json="$OUT/thorough-$name.json" --benchmark-columns=median,iqr,rounds
        [ -s "$OUT/thorough-$name.json" ] && files+=("$OUT/thorough-$name.json")
    done
    [ ${#files[@]} = 0 ] || run report 60 "$python" bench/report.py --from "${files[@]}" --out "$OUT"
}

# sanitize NAME SECONDS TOOL PYTEST-ARGUMENT…: without torch's caching allocator, which hides writes past the end of a
# tensor.
sanitize() {
    local name=$1 seconds=$2 tool=$3
    shift 3
    if ! command -v compute-sanitizer >/dev/null; then
        note "$name: skipped, compute-sanitizer is not on PATH"
        return
    fi
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 FASTVGAN_TUNE=0 run "$name" "$seconds" compute-sanitizer --tool "$tool" \
        --error-exitcode 9 --print-limit 20 "$python" -m pytest -q -x -p no:cacheprovider "$@"
}

scale() { # SECONDS: at most a third of them for compiling, in parallel processes
    local end=$((SECONDS + $1))
    run scale-warm $(($1 / 3)) "$python" bench/gpu/warm.py --parts scale --seconds $(($1 / 3 - 3))
    measure scale $((end - SECONDS))
}

few() { # SECONDS: compile on all cores first, because every tile is tried
    local begin=$SECONDS cores index compiling=()
    cores=$(nproc)
    for ((index = 0; index < cores; index++)); do
        FASTVGAN_TUNE=0 OMP_NUM_THREADS=1 timeout $(($1 / 2)) "$python" bench/gpu/few.py --compile "$index/$cores" \
            >>"$OUT/log.txt" 2>&1 &
        compiling+=($!)
    done
    wait "${compiling[@]}"
    FASTVGAN_TUNE=0 measure few $(($1 - SECONDS + begin))
}

sanitize_benchmarks() { # TOOL SECONDS: at tiny sizes
    FASTVGAN_BENCH_TINY=1 sanitize "$1-benchmarks" "$2" "$1" --benchmark-disable bench/test_gpu_*.py \
        -k "ours and not ours_cuda and not ours_auto and not graph"
}

run_part() { # PART SECONDS
    case $1 in
        warm) run warm "$2" "$python" bench/gpu/warm.py --seconds $(($2 - 3)) ;;
        command | train | convs | layers | lstm | breakdown) measure "$1" "$2" ;;
        scale | few) "$1" "$2" ;;
        build)
            FASTVGAN_REQUIRE_EXTENSION=1 run build "$2" "$python" -m pip install --no-deps --no-build-isolation -e .
            ;;
        memcheck)
            sanitize_benchmarks memcheck $(($2 / 2))
            # A graph cannot be captured without the allocator.
            FASTVGAN_IMPL=triton sanitize memcheck-tests $(($2 / 2)) memcheck -m gpu tests/kernels -k "not graph"
            ;;
        racecheck) sanitize_benchmarks racecheck "$2" ;;
        *) "$1" "$2" ;;
    esac
}

{
    echo "commit $FASTVGAN_COMMIT"
    date -u +%Y-%m-%dT%H:%MZ
    "$python" --version
    nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,mig.mode.current --format=csv 2>&1
    timeout 30 "$python" -m fastvgan.info
} >"$OUT/log.txt" 2>&1
total=0
for part in "${parts[@]}"; do
    total=$((total + $(share_of "$part")))
done
due=$SECONDS left=$((budget - SECONDS)) # the time spent so far belongs to no part
for part in "${parts[@]}"; do
    share=$(share_of "$part")
    if [ "$share" = 0 ]; then
        status=1 && note "unknown part $part; see the list at the top of bench/gpu.sh"
        continue
    fi
    due=$((due + left * share / total))
    seconds=$((due - SECONDS))
    if [ "$seconds" -lt 12 ]; then
        status=1 && note "$part: skipped, $seconds s of $budget are left for it"
    else
        run_part "$part" "$seconds"
    fi
done
printf '\n== commit %s, %s s of %s, output in %s\n' "$FASTVGAN_COMMIT" "$SECONDS" "$budget" "$OUT"
printf '%s\n' "${summary[@]}"
exit $status
