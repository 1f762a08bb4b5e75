#!/usr/bin/env bash
# tests/csrc/sanitize.sh [pytest's options]: builds csrc/ with AddressSanitizer and UndefinedBehaviorSanitizer in a
# temporary copy of what git tracks, runs tests/csrc with it, and exits with 1 on any finding, after printing it.
#
# For gcc on Linux, in an environment in which the tests can run. Memory that torch allocates is watched too: a tensor
# read or written beyond its end is a finding. A finding does not end the run, so that one run tells all of them. Six
# minutes on one core, of which most is the compiler's (MAX_JOBS as ever).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git -C "$root" ls-files -z | tar -C "$root" --null --files-from=- --create | tar -C "$folder" --extract
cd "$folder"

# No check of vtables: torch's classes keep theirs to themselves.
sanitizers="-fsanitize=address,undefined -fno-sanitize=vptr -fsanitize-recover=address,undefined"
echo "Building with $sanitizers ..."
FASTVGAN_DEBUG=1 FASTVGAN_REQUIRE_EXTENSION=1 FASTVGAN_BUILD_CUDA=0 CXX="${CXX:-g++}" \
    CXXFLAGS="-O1 $sanitizers" LDFLAGS="$sanitizers" python setup.py build_ext --inplace > build.log 2>&1 ||
    { tail -n 40 build.log; exit 1; }

# Python itself is not built so, hence the preload; libstdc++ with it, or the first exception finds no handler.
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
export ASAN_OPTIONS="detect_leaks=0:halt_on_error=0:log_path=$folder/finding"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$folder/finding"
file=$(python -c "
import fastvgan
from fastvgan_kernels import extension
print(extension.facts().get('file') or extension.reason())")
echo "Testing $file"
[[ $file == "$folder"/kernels/_C* ]] || { echo "which is not the extension built here"; exit 1; }

# Whether anything would be found: of a tensor whose memory was cut short, something must be.
ASAN_OPTIONS="detect_leaks=0:halt_on_error=0:log_path=$folder/wanted" python -c "
import torch, fastvgan, fastvgan_kernels
x = torch.randn(2, 8, 4, 4, 4)
x.untyped_storage().resize_(64)
fastvgan_kernels.norm_act(x, impl='cpp')" || true
grep -q "heap-buffer-overflow" "$folder"/wanted.* || { echo "The sanitizers do not work here"; exit 1; }

status=0
python -m pytest -q tests/csrc --ignore tests/csrc/test_cuda_compiles.py "$@" || status=$?
shopt -s nullglob
findings=("$folder"/finding.*)
if ((${#findings[@]})); then
    cat "${findings[@]}"
    echo "The sanitizers found something: see above."
    exit 1
fi
exit "$status"
