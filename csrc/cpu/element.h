// The dtype of a tensor's elements.
#pragma once

namespace fastvgan {

enum class Element { kFloat, kBFloat16, kFloat16 };

}  // namespace fastvgan
