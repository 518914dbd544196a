// The CUDA build's entry points for PyTorch, on its stable ABI: one build serves torch 2.11 and later.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "cuda.h"

// Weak: absent from a torch without CUDA, where the library must still load.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The kernels' name of a tensor's dtype.
mnmt::DType dtype(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return mnmt::DType::float32;
    case ScalarType::BFloat16: return mnmt::DType::bfloat16;
    case ScalarType::Half: return mnmt::DType::float16;
    default: STD_TORCH_CHECK(false, "float32, bfloat16 or float16 expected");
  }
}

// The numbers of a checked float32 tensor; null where it is empty.
float* floats(const Tensor& t, int64_t min_size) {
  STD_TORCH_CHECK(t.is_cuda() && t.is_contiguous() && t.scalar_type() == ScalarType::Float && t.numel() >= min_size,
                  "a contiguous float32 CUDA tensor of at least ", min_size, " numbers expected");
  return t.numel() ? static_cast<float*>(t.data_ptr()) : nullptr;
}

// Launches the kernel. rules: four numbers a teacher: kind, strict, cap, below; used where `gate` is empty.
void rows(Tensor logits, Tensor teacher_logits, int64_t passes, int64_t vocab_size, std::vector<Tensor> vocabulary,
          std::vector<double> temperature, Tensor gold, Tensor packed, Tensor divergences, Tensor weight,
          Tensor teacher_weight, Tensor gate, std::vector<double> rules, double smoothing, double divergence_weight,
          double gradient_scale, int64_t steps) {
  mnmt::RowArguments a{};
  a.dtype = dtype(logits);
  a.passes = int(passes);
  a.teachers = int(temperature.size());
  a.steps = int(steps);
  a.tokens = gold.numel();
  a.vocab_size = vocab_size;
  a.pitch = logits.size(1);
  const int64_t pack = a.dtype == mnmt::DType::float32 ? 4 : 8;
  STD_TORCH_CHECK(passes >= 1 && passes <= 2 && a.teachers <= mnmt::MAX_TEACHERS, "too many passes or teachers");
  STD_TORCH_CHECK(logits.is_cuda() && logits.is_contiguous() && logits.dim() == 2 && a.pitch % pack == 0 &&
                      a.pitch >= vocab_size && logits.size(0) >= passes * a.tokens,
                  "logits: contiguous rows, 16-byte aligned, one a pass and token expected");
  STD_TORCH_CHECK(a.teachers == 0 || (teacher_logits.is_contiguous() && teacher_logits.size(1) == a.pitch &&
                                      teacher_logits.scalar_type() == logits.scalar_type() &&
                                      teacher_logits.size(0) >= a.teachers * a.tokens),
                  "teacher logits: rows like the student's expected");
  STD_TORCH_CHECK(gold.is_cuda() && gold.is_contiguous() && gold.scalar_type() == ScalarType::Long,
                  "gold: contiguous int64 on the GPU expected");
  STD_TORCH_CHECK(vocabulary.size() == temperature.size() && rules.size() == 4 * temperature.size(),
                  "one vocabulary, temperature and rule a teacher expected");
  a.logits = logits.data_ptr();
  a.teacher_logits = a.teachers ? teacher_logits.data_ptr() : nullptr;
  for (int j = 0; j < a.teachers; ++j) {
    STD_TORCH_CHECK(vocabulary[j].numel() == 0 || (vocabulary[j].is_cuda() && vocabulary[j].is_contiguous() &&
                                                   vocabulary[j].numel() == vocab_size),
                    "a vocabulary mask of one bool a word on the GPU expected");
    a.vocabulary[j] = vocabulary[j].numel() ? static_cast<const bool*>(vocabulary[j].const_data_ptr()) : nullptr;
    a.temperature[j] = float(temperature[j]);
    a.rule[j] = {int(rules[4 * j]), int(rules[4 * j + 1]), float(rules[4 * j + 2]), float(rules[4 * j + 3])};
  }
  a.gold = static_cast<const int64_t*>(gold.const_data_ptr());
  a.packed = floats(packed, (mnmt::PASS_ROWS * passes + a.teachers * mnmt::teacher_rows(int(passes))) * a.tokens);
  a.divergences = floats(divergences, passes > 1 ? (1 + passes) * a.tokens : 0);
  a.weight = floats(weight, a.tokens);
  a.teacher_weight = floats(teacher_weight, a.teachers * a.tokens);
  a.gate = gate.numel() ? floats(gate, a.teachers * passes * a.tokens) : nullptr;
  a.smoothing = float(smoothing);
  a.divergence_weight = float(divergence_weight);
  a.gradient_scale = float(gradient_scale);
  const int32_t device = logits.get_device_index();
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream, "this torch has no CUDA");
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == 0, "no CUDA stream");
  const char* error = mnmt::launch_rows(a, device, stream);
  STD_TORCH_CHECK(!error, error ? error : "");
}

// mnmt::fits_on_chip; bytes: of a logit.
bool fits(int64_t passes, int64_t teachers, int64_t pitch, int64_t bytes, int64_t device) {
  const auto dtype = bytes == 4 ? mnmt::DType::float32 : mnmt::DType::bfloat16;
  return mnmt::fits_on_chip(int(passes), int(teachers), pitch, dtype, int(device));
}

// Whether this library sees torch's CUDA; without it no kernel can be launched.
bool sees_cuda() { return aoti_torch_get_current_cuda_stream != nullptr; }

}  // namespace

STABLE_TORCH_LIBRARY(mnmt_ds_cuda, m) {
  m.def("sees_cuda() -> bool");
  m.def("fits(int passes, int teachers, int pitch, int bytes, int device) -> bool");
  m.def(
      "rows(Tensor(a!) logits, Tensor teacher_logits, int passes, int vocab_size, Tensor[] vocabulary, "
      "float[] temperature, Tensor gold, Tensor(b!) packed, Tensor(c!) divergences, Tensor weight, "
      "Tensor teacher_weight, Tensor gate, float[] rules, float smoothing, float divergence_weight, "
      "float gradient_scale, int steps) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(mnmt_ds_cuda, CompositeExplicitAutograd, m) { 
  m.impl("fits", TORCH_BOX(&fits));
  m.impl("sees_cuda", TORCH_BOX(&sees_cuda));
}

STABLE_TORCH_LIBRARY_IMPL(mnmt_ds_cuda, CUDA, m) { m.impl("rows", TORCH_BOX(&rows)); }
