// Registers the operations that kernels/ declares, and reports how the extension was built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>

#include "conv.h"
#include "conv_lstm.h"
#include "cpu/instruction_set.h"
#include "cpu/large_pages.h"
#include "group_norm_act.h"
#include "norm_act.h"

// Increase this and API_VERSION in kernels/extension.py whenever a schema or the meaning of an operation changes.
#define FASTVGAN_API_VERSION 4

#ifndef FASTVGAN_TORCH_VERSION
#define FASTVGAN_TORCH_VERSION "unknown"
#endif
#ifndef FASTVGAN_CUDA_VERSION
#define FASTVGAN_CUDA_VERSION ""
#endif
#ifndef FASTVGAN_CUDA_ARCHS
#define FASTVGAN_CUDA_ARCHS ""
#endif

STABLE_TORCH_LIBRARY_IMPL(fastvgan_compiled, CPU, m) {
  m.impl("conv_up", TORCH_BOX(&fastvgan::cpu::conv_up));
  m.impl("conv_down", TORCH_BOX(&fastvgan::cpu::conv_down));
  m.impl("conv_weight_grad", TORCH_BOX(&fastvgan::cpu::conv_weight_grad));
  m.impl("conv_lstm_steps", TORCH_BOX(&fastvgan::cpu::conv_lstm_steps));
  m.impl("conv_lstm_steps_backward", TORCH_BOX(&fastvgan::cpu::conv_lstm_steps_backward));
  m.impl("group_norm_act", TORCH_BOX(&fastvgan::cpu::group_norm_act));
  m.impl("group_norm_act_backward", TORCH_BOX(&fastvgan::cpu::group_norm_act_backward));
  m.impl("norm_act", TORCH_BOX(&fastvgan::cpu::norm_act));
  m.impl("norm_act_backward", TORCH_BOX(&fastvgan::cpu::norm_act_backward));
  m.impl("norm_act_residual", TORCH_BOX(&fastvgan::cpu::norm_act_residual));
  m.impl("norm_act_residual_backward", TORCH_BOX(&fastvgan::cpu::norm_act_residual_backward));
}

#ifdef FASTVGAN_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(fastvgan_compiled, CUDA, m) {
  m.impl("norm_act", TORCH_BOX(&fastvgan::cuda::norm_act));
  m.impl("norm_act_backward", TORCH_BOX(&fastvgan::cuda::norm_act_backward));
}
#endif

namespace {

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

pybind11::object text_or_none(const char* text) {
  if (*text == '\0') return pybind11::none();
  return pybind11::str(text);
}

pybind11::dict facts() {
  pybind11::dict facts;
  facts["api_version"] = FASTVGAN_API_VERSION;
  facts["torch"] = FASTVGAN_TORCH_VERSION;
  facts["compiler"] = compiler();
  facts["cuda"] = text_or_none(FASTVGAN_CUDA_VERSION);
  facts["cuda_archs"] = text_or_none(FASTVGAN_CUDA_ARCHS);
  facts["cpu_instruction_sets"] = fastvgan::cpu::instruction_sets();
  facts["cpu_instruction_set"] = fastvgan::cpu::instruction_set();
  return facts;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("api_version") = FASTVGAN_API_VERSION;
  m.attr("with_cuda") = *FASTVGAN_CUDA_VERSION != '\0';
  m.def("facts", &facts, "How this extension was built, and the instruction set that it uses on this machine.");
  m.def("use_instruction_set", &fastvgan::cpu::use_instruction_set, pybind11::arg("name"),
        "Use another one of facts()['cpu_instruction_sets'] from now on.");
  m.def(
      "prefer_large_pages",
      [](uintptr_t address, size_t bytes) {
        fastvgan::cpu::prefer_large_pages(reinterpret_cast<void*>(address), bytes);
      },
      pybind11::arg("address"), pybind11::arg("bytes"), "Ask for large pages for memory that is not written yet.");
}
