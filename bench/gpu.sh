#!/usr/bin/env bash
# Measure on a machine with one GPU in a short stay: `bench/gpu.sh [PART…]` runs these, all by default, in this order.
#
#   warm        compile for the next parts by Triton, on all cores in parallel processes, into Triton's cache
#   command     python -m fastvgan.train as a whole: videos/s, data_wait    → command.json
#   train       the train step captured, ours against stock                → train.json
#   convs       each pass of each convolution, auto and Triton and cuDNN   → convs.json
#   layers      norms and whole layers                                     → layers.json
#   lstm        the ConvLSTM                                               → lstm.json
#   tests       pytest -m gpu                                              → log.txt
#
# and, only where they are named:
#
#   breakdown   kernels of one captured step by time                        → breakdown.json
#   scale       the train step by frames, size, width, batch, processes    → scale.json, for bench/scaling.py --fit
#   few         convolutions with few channels, each tile of their kernels → few.json
#   build       the extension, against the torch that is here; nothing is downloaded
#   thorough    the benchmarks by pytest with torch.compile, checked in float64, and a report: an hour
#   memcheck    compute-sanitizer over the tests of the Triton kernels and, shrunk, the benchmarks; skipped without it
#   racecheck   the same for races in shared memory, over the shrunk benchmarks
#
# Each part has a share of BUDGET and what the parts before it left; one that no longer fits is skipped and named. A part
# rewrites its file after each figure, so a part that is stopped keeps the figures it has. log.txt holds all output.
#
# BUDGET              seconds for everything (default 480)
# OUT                 where everything is written (default bench/results/gpu)
# FASTVGAN_TUNE       1: times Triton's tiles, and leaves the fastest in $OUT/triton-tuning.json; 0, as users have it
# FASTVGAN_ONLY       picks tests and thorough benchmarks, as pytest's -k
# FASTVGAN_BENCH_TINY 1: small problems, which also run on a CPU, to find errors; the times mean nothing
# FASTVGAN_COMMIT     the commit of this copy, without .git
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

share_of() { # in hundredths of the budget when all parts run
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

# run NAME SECONDS COMMAND…: for at most so long, with the output in log.txt, and a line on how it ended.
run() {
    local name=$1 seconds=$2 start=$SECONDS code
    shift 2
    printf '\n== %s, %s s at most\n' "$name" "$seconds" | tee -a "$OUT/log.txt"
    # SIGINT lets pytest report what it has. Started in the background, Python ignores that, and is killed.
    timeout --signal=INT --kill-after=5 "$seconds" "$@" 2>&1 | tee -a "$OUT/log.txt"
    code=${PIPESTATUS[0]}
    local spent="$((SECONDS - start)) s"
    case $code in
        0) note "$name: passed, $spent" ;;
        5) note "$name: nothing was picked" ;; # pytest's
        124 | 137) status=1 && note "$name: ran out of its $seconds s" ;;
        *) status=1 && note "$name: FAILED with exit status $code, $spent" ;;
    esac
}

measure() { # NAME SECONDS: a script of bench/gpu, which leaves out what does not fit
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

# sanitize NAME SECONDS TOOL PYTEST-ARGUMENT…: torch's allocator off, for it hides what is written past a tensor's end.
sanitize() {
    local name=$1 seconds=$2 tool=$3
    shift 3
    if ! command -v compute-sanitizer >/dev/null; then
        note "$name: skipped, there is no compute-sanitizer on PATH"
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

few() { # compiled on all cores first, since it tries every tile
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

shrunk() { # TOOL SECONDS
    FASTVGAN_BENCH_TINY=1 sanitize "$1-benchmarks" "$2" "$1" --benchmark-disable bench/test_gpu_*.py \
        -k "ours and not ours_cuda and not ours_auto and not graph"
}

one() { # PART SECONDS
    case $1 in
        warm) run warm "$2" "$python" bench/gpu/warm.py --seconds $(($2 - 3)) ;;
        command | train | convs | layers | lstm | breakdown) measure "$1" "$2" ;;
        scale | few) "$1" "$2" ;;
        build)
            FASTVGAN_REQUIRE_EXTENSION=1 run build "$2" "$python" -m pip install --no-deps --no-build-isolation -e .
            ;;
        memcheck)
            shrunk memcheck $(($2 / 2))
            # A graph cannot be captured without the allocator.
            FASTVGAN_IMPL=triton sanitize memcheck-tests $(($2 / 2)) memcheck -m gpu tests/kernels -k "not graph"
            ;;
        racecheck) shrunk racecheck "$2" ;;
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
due=$SECONDS left=$((budget - SECONDS)) # what the lines above took is no part's
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
        one "$part" "$seconds"
    fi
done
printf '\n== commit %s, %s s of %s, everything is in %s\n' "$FASTVGAN_COMMIT" "$SECONDS" "$budget" "$OUT"
printf '%s\n' "${summary[@]}"
exit $status
