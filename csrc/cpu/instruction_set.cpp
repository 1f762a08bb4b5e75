#include "instruction_set.h"

#include <stdexcept>

#include "loops.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastvgan {
namespace {

#if defined(__x86_64__) && defined(__linux__)
// Whether the processor has AMX for bfloat16 and the system permits this process to use it; asks for permission.
bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kBFloat16 = 1u << 22, kTile = 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBFloat16) == 0 || (d & kTile) == 0) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#else
bool has_amx() { return false; }
#endif

std::vector<const Loops*> available_loops() {
  std::vector<const Loops*> found;
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // F16C came before AVX2
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  if (bf16 && amx_loops() != nullptr && has_amx()) found.push_back(amx_loops());
  if (bf16 && avx512bf16_loops() != nullptr) found.push_back(avx512bf16_loops());
  if (avx512 && avx512_loops() != nullptr) found.push_back(avx512_loops());
  if (avx2 && avx2_loops() != nullptr) found.push_back(avx2_loops());
#endif
  found.push_back(portable_loops());
  return found;
}

const Loops*& current() {
  static const Loops* loops = available_loops().front();
  return loops;
}

}  // namespace

const Loops& loops() { return *current(); }

namespace cpu {

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Loops* loops : available_loops()) names.emplace_back(loops->name);
  return names;
}

std::string instruction_set() { return loops().name; }

void use_instruction_set(const std::string& name) {
  for (const Loops* loops : available_loops()) {
    if (name == loops->name) {
      current() = loops;
      return;
    }
  }
  throw std::invalid_argument("this processor or build has no instruction set \"" + name +
                              "\"; facts()['cpu_instruction_sets'] lists those available");
}

}  // namespace cpu
}  // namespace fastvgan
