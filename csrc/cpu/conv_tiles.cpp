// Which of the convolutions' tiles this process uses.
#include "conv_tiles.h"

#include <string>

#include "instruction_set.h"

namespace fastvgan {

const Tiles& tiles() {
  const std::string name = cpu::instruction_set();
  if (name == "avx512bf16") return *avx512bf16_tiles();
  if (name == "avx512") return *avx512_tiles();
  if (name == "avx2") return *avx2_tiles();
  return *portable_tiles();
}

}  // namespace fastvgan
