// Which of the instruction sets that the loops were compiled for this process uses.
#pragma once

#include <string>
#include <vector>

namespace fastvgan {
namespace cpu {

// Those that both the build and this processor have, best first: of "amx", "avx512bf16", "avx512", "avx2" and
// "portable".
std::vector<std::string> instruction_sets();
std::string instruction_set();
// For tests and measurements; throws std::invalid_argument for one that is not available.
void use_instruction_set(const std::string& name);

}  // namespace cpu
}  // namespace fastvgan
