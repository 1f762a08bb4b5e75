// The convolutional LSTM's pointwise update on the CPU. The arithmetic is in conv_lstm_loops.inc; each value is computed
// by itself, so that the threads do not matter.
#include "../conv_lstm.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "conv_packing.h"
#include "loops.h"

namespace fastvgan {
namespace cpu {
namespace {

constexpr int64_t kSerial = 4096;  // values below which a second thread costs more than it saves

// A tensor (N, channels, H, W) whose channels lie side by side.
struct Map {
  char* data = nullptr;
  int64_t sample = 0, row = 0, step = 0;  // bytes

  Map() = default;
  Map(const Tensor& x, const Tensor& like, int64_t channels, Element element) {
    STD_TORCH_CHECK(x.dim() == 4 && x.size(0) == like.size(0) && x.size(1) == channels && x.size(2) == like.size(2) &&
                        x.size(3) == like.size(3) && side_by_side(x),
                    "conv_lstm: tensors must be (N, channels, H, W) of one size, with their channels side by side");
    const Stored stored = storage_of(x);
    STD_TORCH_CHECK(stored.element == element, "conv_lstm: the dtypes differ");
    data = static_cast<char*>(x.data_ptr());
    sample = x.stride(0) * stored.size;
    row = x.stride(2) * stored.size;
    step = x.stride(3) * stored.size;
  }
  Positions at(int64_t n, int64_t h) const {
    return {data == nullptr ? nullptr : data + n * sample + h * row, step};
  }
};

template <typename Visit>
void for_rows(const Tensor& x, const Visit& visit) {
  const int64_t height = x.size(2), values = std::max<int64_t>(1, x.size(1) * x.size(3));
  torch::stable::parallel_for(0, x.size(0) * height, std::max<int64_t>(1, kSerial / values),
                              [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) visit(i / height, i % height);
  });
}

Element cell_type(const Tensor& c, Element element) {
  const Element cell = storage_of(c).element;
  STD_TORCH_CHECK(cell == element || cell == Element::kFloat, "conv_lstm: c must be float32 or of x's dtype");
  return cell;
}

}  // namespace

void conv_lstm_update(Tensor inputs, Tensor recurrent, Tensor c, Tensor h_next, Tensor c_next, Tensor gates) {
  const int64_t channels = c.size(1);
  const Element element = storage_of(inputs).element, cell = cell_type(c, element);
  const Map from(inputs, c, 4 * channels, element), from_h(recurrent, c, 4 * channels, element);
  const Map before(c, c, channels, cell), after(c_next, c, channels, cell), h(h_next, c, channels, element);
  const Map kept(gates, c, 4 * channels, element);
  for_rows(c, [&](int64_t n, int64_t y) {
    const UpdatePositions row{from.at(n, y), from_h.at(n, y), before.at(n, y),
                              h.at(n, y),    after.at(n, y),  kept.at(n, y)};
    loops().conv_lstm.update(element, cell, row, c.size(3), channels);
  });
}

void conv_lstm_update_backward(OptionalTensor d_output, OptionalTensor d_h, Tensor gates, Tensor c, Tensor c_next,
                               Tensor d_c, Tensor d_pre) {
  const int64_t channels = c.size(1);
  const Element element = storage_of(gates).element, cell = cell_type(c, element);
  const Map kept(gates, c, 4 * channels, element), to(d_pre, c, 4 * channels, element);
  const Map before(c, c, channels, cell), after(c_next, c, channels, cell), dc(d_c, c, channels, Element::kFloat);
  const Map outer = d_output.has_value() ? Map(*d_output, c, channels, element) : Map();
  const Map inner = d_h.has_value() ? Map(*d_h, c, channels, element) : Map();
  for_rows(c, [&](int64_t n, int64_t y) {
    const UpdateBackwardPositions row{outer.at(n, y), inner.at(n, y), kept.at(n, y), before.at(n, y),
                                      after.at(n, y), dc.at(n, y),    to.at(n, y)};
    loops().conv_lstm.update_backward(element, cell, row, c.size(3), channels);
  });
}

}  // namespace cpu
}  // namespace fastvgan
