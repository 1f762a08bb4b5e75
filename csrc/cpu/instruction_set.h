// The instruction set that the loops of this process use.
#pragma once

#include <string>
#include <vector>

namespace fastvgan {
namespace cpu {

// The instruction sets that both the build and this processor have, best first, out of "amx", "avx512bf16", "avx512",
// "avx2" and "portable".
std::vector<std::string> instruction_sets();
// The one in use.
std::string instruction_set();
// Use another one, for tests and measurements. Throws std::invalid_argument if it is not available.
void use_instruction_set(const std::string& name);

}  // namespace cpu
}  // namespace fastvgan
