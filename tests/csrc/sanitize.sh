#!/usr/bin/env bash
# tests/csrc/sanitize.sh [pytest's options]: builds csrc/ with AddressSanitizer and UndefinedBehaviorSanitizer in a
# temporary copy of what git tracks, runs tests/csrc with it, and exits with 1 on any finding, after printing it.
#
# For gcc on Linux, in an environment in which the tests can run. Memory that torch allocates is checked too: a read or
# write beyond the end of a tensor is a finding. A finding does not end the run, so that one run reports all of them.
# Takes six minutes on one core, mostly for compiling (set MAX_JOBS for more cores).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git -C "$root" ls-files -z | tar -C "$root" --null --files-from=- --create | tar -C "$folder" --extract
cd "$folder"

# No check of vtables: torch does not export those of its classes.
sanitizers="-fsanitize=address,undefined -fno-sanitize=vptr -fsanitize-recover=address,undefined"
echo "Building with $sanitizers ..."
FASTVGAN_DEBUG=1 FASTVGAN_REQUIRE_EXTENSION=1 FASTVGAN_BUILD_CUDA=0 CXX="${CXX:-g++}" \
    CXXFLAGS="-O1 $sanitizers" LDFLAGS="$sanitizers" python setup.py build_ext --inplace > build.log 2>&1 ||
    { tail -n 40 build.log; exit 1; }

# Python itself is built without sanitizers, hence the preload; without libstdc++, the first exception finds no handler.
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
export ASAN_OPTIONS="detect_leaks=0:halt_on_error=0:log_path=$folder/finding"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$folder/finding"
file=$(python -c "
import fastvgan
from fastvgan_kernels import extension
print(extension.facts().get('file') or extension.reason())")
echo "Testing $file"
[[ $file == "$folder"/kernels/_C* ]] || { echo "This is not the extension that was built in $folder."; exit 1; }

# Check that the sanitizers work: using a tensor whose memory was cut short must be a finding.
ASAN_OPTIONS="detect_leaks=0:halt_on_error=0:log_path=$folder/wanted" python -c "
import torch, fastvgan, fastvgan_kernels
x = torch.randn(2, 8, 4, 4, 4)
x.untyped_storage().resize_(64)
fastvgan_kernels.norm_act(x, impl='cpp')" || true
grep -q "heap-buffer-overflow" "$folder"/wanted.* || { echo "The sanitizers do not work on this machine: they missed a heap-buffer-overflow."; exit 1; }

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
