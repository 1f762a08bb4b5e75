// What a tensor's values are stored as.
#pragma once

namespace fastvgan {

enum class Element { kFloat, kBFloat16, kFloat16 };

}  // namespace fastvgan
