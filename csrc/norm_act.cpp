// Checks of the arguments of norm_act, for the CPU and CUDA.
#include "norm_act.h"

namespace fastvgan {

using torch::headeronly::ScalarType;

namespace {

// Whether the dimensions are dense in this order, the fastest last. Strides of dimensions of size 1 do not matter.
template <typename Order>
bool is_dense(const Tensor& x, Order dimension_at) {
  int64_t expected = 1;
  for (int64_t i = x.dim() - 1; i >= 0; --i) {
    const int64_t d = dimension_at(i);
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

}  // namespace

Layout layout_of(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() >= 2 && x.dim() <= 5, "norm_act: x must have 2 to 5 dimensions");
  const ScalarType dtype = x.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
                  "norm_act: x must be float32, bfloat16 or float16");
  Layout layout;
  layout.numel = x.numel();
  layout.channels = x.size(1);
  if (layout.numel == 0) return layout;
  const int64_t last = x.dim() - 1;
  if (is_dense(x, [last](int64_t i) { return i == 0 ? 0 : (i == last ? 1 : i + 1); })) return layout;
  STD_TORCH_CHECK(is_dense(x, [](int64_t i) { return i; }),
                  "norm_act: x must be dense with its channels innermost or outermost");
  layout.inner = layout.numel / (x.size(0) * layout.channels);
  return layout;
}

void check_like(const Tensor& other, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(other.scalar_type() == x.scalar_type() && other.dim() == x.dim(), "norm_act: ", name,
                  " must have x's dtype and number of dimensions");
  for (int64_t d = 0; d < x.dim(); ++d) {
    STD_TORCH_CHECK(other.size(d) == x.size(d), "norm_act: ", name, " must have x's shape");
    STD_TORCH_CHECK(x.numel() == 0 || x.size(d) == 1 || other.stride(d) == x.stride(d), "norm_act: ", name,
                    " must have x's memory layout");
  }
}

void check_activation(int64_t activation) {
  STD_TORCH_CHECK(activation >= kNone && activation <= kGelu, "norm_act: unknown activation ", activation);
}

void check_parameter(const OptionalTensor& parameter, const Tensor& x, const char* name) {
  if (!parameter.has_value()) return;
  STD_TORCH_CHECK(parameter->scalar_type() == ScalarType::Float && parameter->dim() == 1 &&
                      parameter->size(0) == x.size(1) && parameter->is_contiguous() &&
                      parameter->get_device_index() == x.get_device_index() && parameter->is_cuda() == x.is_cuda(),
                  "norm_act: ", name, " must be a dense float32 tensor with one value per channel, on x's device");
}

}  // namespace fastvgan
