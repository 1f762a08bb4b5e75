// The steps of a convolutional LSTM on the CPU. A step's pointwise update takes the tiles of its convolution while they
// are in the cache (conv_gather.h). The arithmetic of the update is in conv_lstm_loops.inc; no value depends on another
// one of the same step, so that results do not depend on the number of threads.
#include "../conv_lstm.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "conv_gather.h"
#include "conv_packing.h"
#include "loops.h"

namespace fastvgan {
namespace cpu {
namespace {

constexpr int64_t kSerial = 4096;  // fewest values for which a second thread saves time
constexpr int64_t kGates = 4;
constexpr int64_t kPanelsOfGates = kGates / kVectors;  // panels with all gates of one vector of channels

// A tensor (N, channels, H, W) with adjacent channels.
struct Map {
  char* data = nullptr;
  int64_t sample = 0, row = 0, step = 0;  // bytes

  Map() = default;
  Map(const Tensor& x, const Tensor& like, int64_t channels, Element element) {
    STD_TORCH_CHECK(x.dim() == 4 && x.size(0) == like.size(0) && x.size(1) == channels && x.size(2) == like.size(2) &&
                        x.size(3) == like.size(3) && has_adjacent_channels(x),
                    "conv_lstm: tensors must be (N, channels, H, W) in channels_last, with the sizes of the cell");
    const Stored stored = storage_of(x);
    STD_TORCH_CHECK(stored.element == element, "conv_lstm: the dtypes of the tensors differ");
    data = static_cast<char*>(x.data_ptr());
    sample = x.stride(0) * stored.size;
    row = x.stride(2) * stored.size;
    step = x.stride(3) * stored.size;
  }
  // Height is the first of Run's three dimensions, width the last.
  Positions at(const Run& run) const {
    if (data == nullptr) return {nullptr, 0};
    return {data + run.sample * sample + run.output[0] * row + run.output[2] * step, step};
  }
};

template <typename Visit>
void for_rows(const Tensor& x, const Visit& visit) {
  const int64_t height = x.size(2), width = x.size(3), values = std::max<int64_t>(1, x.size(1) * width);
  torch::stable::parallel_for(0, x.size(0) * height, std::max<int64_t>(1, kSerial / values),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = begin; i < end; ++i) visit(Run{i / height, {i % height, 0, 0}, width});
                              });
}

Element cell_type(const Tensor& c, Element element) {
  const Element cell = storage_of(c).element;
  STD_TORCH_CHECK(cell == element || cell == Element::kFloat,
                  "conv_lstm: c must be float32 or have the dtype of the gates");
  return cell;
}

Tensor step_of(const Tensor& sequence, int64_t t) {
  STD_TORCH_CHECK(sequence.dim() == 5, "conv_lstm: sequences must be (N, channels, T, H, W)");
  return torch::stable::select(sequence, 2, t);
}

// The recurrent convolution: its stride is 1, and its padding keeps the size.
ConvShape gate_conv(const Tensor& state, const Tensor& gates, const Tensor& weight) {
  const Sizes kernel = kernel_size_of(weight), ones(2, 1);
  return make_conv_shape(state, gates, kernel, ones, {kernel[0] / 2, kernel[1] / 2}, ones, 1);
}

// The channel of each column. kPanelsOfGates panels hold all gates of the same channels, one vector per gate.
std::vector<int64_t> interleave_gates(int64_t channels, int64_t width) {
  std::vector<int64_t> order;
  for (int64_t first = 0; first < channels; first += width) {
    for (int64_t gate = 0; gate < kGates; ++gate) {
      for (int64_t j = first; j < first + width; ++j) order.push_back(j < channels ? gate * channels + j : -1);
    }
  }
  return order;
}

class Update : public TileSink {
 public:
  Update(const Tensor& c, const Tensor& h_next, const Tensor& c_next, const Tensor& gates)
      : channels_(c.size(1)),
        element_(storage_of(gates).element),
        cell_(cell_type(c, element_)),
        gates_(gates, c, kGates * channels_, element_),
        c_(c, c, channels_, cell_),
        h_next_(h_next, c, channels_, element_),
        c_next_(c_next, c, channels_, cell_) {}

  void take(const float* tiles, int64_t panel, const Run& run) const override {
    const UpdatePositions at{gates_.at(run), c_.at(run), h_next_.at(run), c_next_.at(run)};
    loops().conv_lstm.update(element_, cell_, at, tiles, run.count, channels_,
                             panel / kPanelsOfGates * loops().conv.width);
  }

 private:
  int64_t channels_;
  Element element_, cell_;
  Map gates_, c_, h_next_, c_next_;
};

class UpdateBackward : public TileSink {
 public:
  UpdateBackward(const OptionalTensor& d_output, const Tensor& gates, const Tensor& c, const Tensor& c_next,
                 const Tensor& d_c, const Tensor& d_pre)
      : channels_(c.size(1)),
        element_(storage_of(gates).element),
        cell_(cell_type(c, element_)),
        gates_(gates, c, kGates * channels_, element_),
        c_(c, c, channels_, cell_),
        c_next_(c_next, c, channels_, cell_),
        d_c_(d_c, c, channels_, Element::kFloat),
        d_pre_(d_pre, c, kGates * channels_, element_) {
    if (d_output.has_value()) d_output_ = Map(*d_output, c, channels_, element_);
  }

  void take(const float* tiles, int64_t panel, const Run& run) const override {
    const int64_t width = kVectors * loops().conv.width, first = panel * width;
    update(tiles, width, run, first, std::min(width, channels_ - first));
  }
  // For the last step, which gets no gradient from a step after it.
  void update_last(const Run& run) const { update(nullptr, 0, run, 0, channels_); }

 private:
  void update(const float* d_h, int64_t d_h_step, const Run& run, int64_t first, int64_t columns) const {
    const UpdateBackwardPositions at{d_output_.at(run), gates_.at(run), c_.at(run),
                                     c_next_.at(run),   d_c_.at(run),   d_pre_.at(run)};
    loops().conv_lstm.update_backward(element_, cell_, at, d_h, d_h_step, run.count, channels_, first, columns);
  }

  int64_t channels_;
  Element element_, cell_;
  Map d_output_, gates_, c_, c_next_, d_c_, d_pre_;
};

}  // namespace

void conv_lstm_steps(Tensor h, Tensor c, Tensor weight_hh, Tensor gates, Tensor output, Tensor cells) {
  const Tensor first = step_of(gates, 0);
  const ConvShape shape = gate_conv(h, first, weight_hh);
  if (h.numel() == 0) return;
  Problem problem = make_problem(false, shape, h, weight_hh, first);
  problem.has_sink = true;
  problem.panels_at_once = kPanelsOfGates;
  problem.channel_of_column = interleave_gates(h.size(1), loops().conv.width);
  GatheredConv conv(std::move(problem));
  for (int64_t t = 0; t < gates.size(2); ++t) {
    const Tensor before = t == 0 ? c : step_of(cells, t - 1), state = t == 0 ? h : step_of(output, t - 1);
    conv.run(volume_of(state), Update(before, step_of(output, t), step_of(cells, t), step_of(gates, t)));
  }
}

void conv_lstm_steps_backward(OptionalTensor d_output, OptionalTensor d_pre_after, Tensor gates, Tensor c, Tensor cells,
                              Tensor weight_hh, Tensor d_c, Tensor d_pre) {
  const int64_t steps = d_pre.size(2);
  Tensor last = step_of(d_pre, steps - 1);
  const Tensor d_h = torch::stable::narrow(last, 1, 0, c.size(1));  // shape and dtype of h's gradient
  const ConvShape shape = gate_conv(d_h, last, weight_hh);
  if (c.numel() == 0) return;
  Problem problem = make_problem(true, shape, last, weight_hh, d_h);
  problem.has_sink = true;
  GatheredConv conv(std::move(problem));
  for (int64_t t = steps - 1; t >= 0; --t) {
    const Tensor before = t == 0 ? c : step_of(cells, t - 1);
    OptionalTensor d_step;
    if (d_output.has_value()) d_step = step_of(*d_output, t);
    const UpdateBackward update(d_step, step_of(gates, t), before, step_of(cells, t), d_c, step_of(d_pre, t));
    if (t + 1 < steps) {
      conv.run(volume_of(step_of(d_pre, t + 1)), update);
    } else if (d_pre_after.has_value()) {
      conv.run(volume_of(*d_pre_after), update);
    } else {
      for_rows(c, [&](const Run& row) { update.update_last(row); });
    }
  }
}

}  // namespace cpu
}  // namespace fastvgan
