// The CPU build's entry points for PyTorch, on its stable ABI: one build serves torch 2.11 and later.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "amx.h"
#include "cpu.h"
#include "dropout.h"
#include "products.h"
#include "rows.h"

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

// A checked matrix.
mnmt::Matrix matrix(const Tensor& t, int64_t width) {
  STD_TORCH_CHECK(t.is_cpu() && t.dim() == 2 && t.size(1) == width && (width == 1 || t.stride(1) == 1),
                  "a matrix of unit column stride expected");
  return {t.const_data_ptr(), dtype(t), t.size(0), t.size(1), t.stride(0)};
}

// The numbers of a checked float32 tensor.
float* floats(const Tensor& t, int64_t min_size) {
  STD_TORCH_CHECK(t.is_cpu() && t.is_contiguous() && t.scalar_type() == ScalarType::Float && t.numel() >= min_size,
                  "a contiguous float32 tensor of at least ", min_size, " numbers expected");
  return static_cast<float*>(t.data_ptr());
}

// The checked inputs of a chunk.
mnmt::Chunk chunk(const std::vector<Tensor>& hidden, const Tensor& projection,
                  const std::vector<Tensor>& teacher_hidden, const std::vector<Tensor>& teacher_projection,
                  const std::vector<Tensor>& vocabulary, const std::vector<double>& temperature, const Tensor& gold,
                  const Tensor& logits, const Tensor& teacher_logits, int64_t threads) {
  mnmt::Chunk c;
  c.passes = int(hidden.size());
  c.teachers = int(teacher_hidden.size());
  STD_TORCH_CHECK(c.passes >= 1 && c.passes <= mnmt::MAX_PASSES && c.teachers <= mnmt::MAX_TEACHERS,
                  "too many passes or teachers");
  STD_TORCH_CHECK(teacher_projection.size() == teacher_hidden.size() && vocabulary.size() == teacher_hidden.size() &&
                      temperature.size() == teacher_hidden.size(),
                  "one projection, vocabulary and temperature a teacher expected");
  STD_TORCH_CHECK(gold.scalar_type() == ScalarType::Long && gold.is_contiguous(), "gold: contiguous int64 expected");
  c.threads = int(threads);
  c.tokens = gold.numel();
  c.gold = static_cast<const int64_t*>(gold.const_data_ptr());
  c.vocab_size = projection.size(0);
  c.projection = matrix(projection, projection.size(1));
  for (const Tensor& h : hidden) {
    STD_TORCH_CHECK(h.size(0) == c.tokens, "as many hidden states as tokens expected");
    c.hidden.push_back(matrix(h, projection.size(1)));
  }
  for (int j = 0; j < c.teachers; ++j) {
    STD_TORCH_CHECK(teacher_projection[j].size(0) == c.vocab_size && teacher_hidden[j].size(0) == c.tokens,
                    "the teacher's words and tokens must be the student's");
    const Tensor& mask = vocabulary[j];
    STD_TORCH_CHECK(mask.numel() == 0 || (mask.numel() == c.vocab_size && mask.is_contiguous()),
                    "a vocabulary mask of one bool a word expected");
    c.teacher_hidden.push_back(matrix(teacher_hidden[j], teacher_projection[j].size(1)));
    c.teacher_projection.push_back(matrix(teacher_projection[j], teacher_projection[j].size(1)));
    c.vocabulary.push_back(mask.numel() ? static_cast<const bool*>(mask.const_data_ptr()) : nullptr);
    c.temperature.push_back(float(temperature[j]));
  }
  const int64_t plane = mnmt::groups(c.tokens) * mnmt::padded(c.vocab_size) * mnmt::group_tokens();
  c.logits = floats(logits, c.passes * plane);
  c.teacher_logits = floats(teacher_logits, c.teachers * plane);
  for (int64_t t = 0; t < c.tokens; ++t)
    STD_TORCH_CHECK(c.gold[t] >= 0 && c.gold[t] < c.vocab_size, "target ", c.gold[t], " is outside the vocabulary");
  return c;
}

// mnmt::statistics, then mnmt::divergence where there are several passes.
void statistics(std::vector<Tensor> hidden, Tensor projection, std::vector<Tensor> teacher_hidden,
                std::vector<Tensor> teacher_projection, std::vector<Tensor> vocabulary, std::vector<double> temperature,
                Tensor gold, int64_t threads, Tensor logits, Tensor teacher_logits, Tensor packed, Tensor divergences) {
  const auto c = chunk(hidden, projection, teacher_hidden, teacher_projection, vocabulary, temperature, gold, logits,
                       teacher_logits, threads);
  const int64_t rows = mnmt::PASS_ROWS * c.passes + c.teachers * mnmt::teacher_rows(c.passes);
  float* to = floats(packed, rows * c.tokens);
  mnmt::statistics(c, to);
  if (c.passes == 1) return;
  mnmt::divergence(c, to, floats(divergences, (1 + c.passes) * c.tokens));
}

// mnmt::gradients; an empty tensor stands for a gradient that is not wanted.
void gradients(std::vector<Tensor> hidden, Tensor projection, std::vector<Tensor> teacher_hidden,
               std::vector<Tensor> teacher_projection, std::vector<Tensor> vocabulary, std::vector<double> temperature,
               Tensor gold, int64_t threads, Tensor packed, Tensor expected_log_ratio, Tensor weight,
               Tensor teacher_weight, Tensor gate, double smoothing, double divergence_weight, bool overwrite,
               Tensor logits, Tensor teacher_logits, Tensor dhidden, Tensor dprojection) {
  const auto c = chunk(hidden, projection, teacher_hidden, teacher_projection, vocabulary, temperature, gold, logits,
                       teacher_logits, threads);
  const int64_t rows = mnmt::PASS_ROWS * c.passes + c.teachers * mnmt::teacher_rows(c.passes);
  const int64_t width = c.projection.width;
  const mnmt::GradientArguments arguments{floats(packed, rows * c.tokens),
                            floats(expected_log_ratio, c.passes > 1 ? c.passes * c.tokens : 0),
                            floats(weight, c.tokens),
                            floats(teacher_weight, c.teachers * c.tokens),
                            floats(gate, c.teachers * c.passes * c.tokens),
                            float(smoothing),
                            float(divergence_weight)};
  mnmt::gradients(c, arguments, dhidden.numel() ? floats(dhidden, c.passes * c.tokens * width) : nullptr,
                  dprojection.numel() ? floats(dprojection, c.vocab_size * width) : nullptr, overwrite);
}

// The checked inputs of a chunk that goes through matrix tiles.
mnmt::TileChunk tile_chunk(const Tensor& hidden, const Tensor& projection, const Tensor& gold, int64_t group,
                           int64_t threads) {
  STD_TORCH_CHECK(mnmt::has_tiles(), "this machine has no matrix tiles");
  const int64_t width = projection.size(1), tokens = gold.numel();
  for (const Tensor* t : {&hidden, &projection})
    STD_TORCH_CHECK(t->is_cpu() && t->dim() == 2 && t->size(1) == width && t->is_contiguous() && width % 32 == 0 &&
                        t->scalar_type() == ScalarType::BFloat16,
                    "contiguous bfloat16 matrices of a multiple of 32 columns expected");
  STD_TORCH_CHECK(gold.scalar_type() == ScalarType::Long && gold.is_contiguous() && hidden.size(0) == tokens,
                  "gold: contiguous int64, one a row of hidden states, expected");
  const mnmt::TileChunk c{static_cast<const uint16_t*>(hidden.const_data_ptr()),
                          static_cast<const uint16_t*>(projection.const_data_ptr()),
                          static_cast<const int64_t*>(gold.const_data_ptr()), tokens, projection.size(0), width,
                          group, int(threads)};
  for (int64_t t = 0; t < tokens; ++t)
    STD_TORCH_CHECK(c.gold[t] >= 0 && c.gold[t] < c.vocab_size, "target ", c.gold[t], " is outside the vocabulary");
  return c;
}

// mnmt::tile_statistics.
void tile_statistics(Tensor hidden, Tensor projection, Tensor gold, int64_t group, int64_t threads, Tensor packed) {
  const auto c = tile_chunk(hidden, projection, gold, group, threads);
  mnmt::tile_statistics(c, floats(packed, mnmt::PASS_ROWS * c.tokens));
}

// mnmt::tile_gradients; an empty tensor stands for a gradient that is not wanted. `dprojection`: float32, or bfloat16.
void tile_gradients(Tensor hidden, Tensor projection, Tensor gold, int64_t group, int64_t threads, Tensor packed,
                    Tensor weight, double smoothing, bool overwrite, double scale, Tensor dhidden, Tensor dprojection) {
  const auto c = tile_chunk(hidden, projection, gold, group, threads);
  mnmt::ProjectionGradient to{nullptr, nullptr, overwrite, float(scale)};
  if (dprojection.numel() && dprojection.scalar_type() == ScalarType::BFloat16) {
    STD_TORCH_CHECK(dprojection.is_contiguous() && dprojection.numel() == c.vocab_size * c.width,
                    "a gradient of the projection's shape expected");
    to.rounded = static_cast<uint16_t*>(dprojection.mutable_data_ptr());
  } else if (dprojection.numel()) {
    to.exact = floats(dprojection, c.vocab_size * c.width);
  }
  mnmt::tile_gradients(c, floats(packed, mnmt::PASS_ROWS * c.tokens), floats(weight, c.tokens), float(smoothing),
                       dhidden.numel() ? floats(dhidden, c.tokens * c.width) : nullptr, to);
}

// The GPU kernel's own gate for single tokens, here for its tests.
void gate(Tensor teacher, Tensor student, int64_t kind, bool strict, double cap, double below, Tensor to) {
  const mnmt::GateRule rule{int(kind), strict, float(cap), float(below)};
  const float *t = floats(teacher, 0), *s = floats(student, teacher.numel());
  float* out = floats(to, teacher.numel());
  for (int64_t i = 0; i < teacher.numel(); ++i) out[i] = mnmt::gate(rule, t[i], s[i]);
}

// A linear layer's shape; `rows`: its input or its output's gradient, `width` numbers a row.
mnmt::LinearShape linear_shape(const Tensor& rows, int64_t width, const Tensor& weight, int64_t threads) {
  int64_t count = 1;
  for (int64_t i = 0; i + 1 < rows.dim(); ++i) count *= rows.size(i);
  STD_TORCH_CHECK(rows.dim() > 0 && rows.size(rows.dim() - 1) == width, "rows of ", width, " numbers expected");
  return {count, weight.size(1), weight.size(0), int(threads)};
}

// The numbers of a float32 tensor; null where it is empty, which stands for none.
float* floats_or_null(const Tensor& t, int64_t size) { return t.numel() ? floats(t, size) : nullptr; }

// mnmt::linear.
void linear(Tensor x, Tensor weight, Tensor bias, bool relu, int64_t threads, Tensor y) {
  const auto s = linear_shape(x, weight.size(1), weight, threads);
  mnmt::linear(s, floats(x, s.rows * s.inputs), floats(weight, s.inputs * s.outputs), floats_or_null(bias, s.outputs),
               relu, floats(y, s.rows * s.outputs));
}

// Both gradients of mnmt::linear; an empty tensor stands for one that is not wanted, and for `y` where there was no
// ReLU. `weight` is read for dx; `x` for dweight.
void linear_gradients(Tensor dy, Tensor y, Tensor x, Tensor weight, int64_t threads, Tensor dx, Tensor dweight,
                      Tensor dbias) {
  const auto s = linear_shape(dy, weight.size(0), weight, threads);
  const float *dys = floats(dy, s.rows * s.outputs), *ys = floats_or_null(y, s.rows * s.outputs);
  if (dx.numel())
    mnmt::linear_input_gradient(s, dys, ys, floats(weight, s.inputs * s.outputs), floats(dx, s.rows * s.inputs));
  mnmt::linear_weight_gradient(s, dys, ys, dweight.numel() ? floats(x, s.rows * s.inputs) : nullptr,
                               floats_or_null(dweight, s.inputs * s.outputs), floats_or_null(dbias, s.outputs));
}

// mnmt::dropout; `bits`: int16, as many as x has elements.
void dropout(Tensor x, Tensor bits, int64_t threshold, double scale, int64_t threads, Tensor y) {
  STD_TORCH_CHECK(bits.is_contiguous() && bits.scalar_type() == ScalarType::Short && bits.numel() >= x.numel(),
                  "contiguous int16, one an element, expected");
  mnmt::dropout(x.numel(), int(threads), floats(x, 0), static_cast<const uint16_t*>(bits.const_data_ptr()),
                int(threshold), float(scale), floats(y, x.numel()));
}

int64_t fill_registers(int64_t repeats) { return mnmt::fill_registers(repeats); }

bool has_tiles() { return mnmt::has_tiles(); }

// Floats that the logits of one pass (or teacher) take.
int64_t plane_size(int64_t tokens, int64_t vocab_size) {
  return mnmt::groups(tokens) * mnmt::padded(vocab_size) * mnmt::group_tokens();
}

}  // namespace

STABLE_TORCH_LIBRARY(mnmt_ds_cpu, m) {
  m.def("plane_size(int tokens, int vocab_size) -> int");
  m.def(
      "statistics(Tensor[] hidden, Tensor projection, Tensor[] teacher_hidden, Tensor[] teacher_projection, "
      "Tensor[] vocabulary, float[] temperature, Tensor gold, int threads, Tensor(a!) logits, "
      "Tensor(b!) teacher_logits, Tensor(c!) packed, Tensor(d!) divergences) -> ()");
  m.def(
      "gradients(Tensor[] hidden, Tensor projection, Tensor[] teacher_hidden, Tensor[] teacher_projection, "
      "Tensor[] vocabulary, float[] temperature, Tensor gold, int threads, Tensor packed, Tensor expected_log_ratio, "
      "Tensor weight, Tensor teacher_weight, Tensor gate, float smoothing, float divergence_weight, bool overwrite, "
      "Tensor(a!) logits, Tensor(b!) teacher_logits, Tensor(c!) dhidden, Tensor(d!) dprojection) -> ()");
  m.def("has_tiles() -> bool");
  m.def("tile_statistics(Tensor hidden, Tensor projection, Tensor gold, int group, int threads, Tensor(a!) packed) -> ()");
  m.def(
      "tile_gradients(Tensor hidden, Tensor projection, Tensor gold, int group, int threads, Tensor packed, "
      "Tensor weight, float smoothing, bool overwrite, float scale, Tensor(a!) dhidden, Tensor(b!) dprojection) -> ()");
  m.def("linear(Tensor x, Tensor weight, Tensor bias, bool relu, int threads, Tensor(a!) y) -> ()");
  m.def(
      "linear_gradients(Tensor dy, Tensor y, Tensor x, Tensor weight, int threads, Tensor(a!) dx, Tensor(b!) dweight, "
      "Tensor(c!) dbias) -> ()");
  m.def("dropout(Tensor x, Tensor bits, int threshold, float scale, int threads, Tensor(a!) y) -> ()");
  m.def("fill_registers(int repeats) -> int");
  m.def("gate(Tensor teacher, Tensor student, int kind, bool strict, float cap, float below, Tensor(a!) to) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(mnmt_ds_cpu, CompositeExplicitAutograd, m) {
  m.impl("plane_size", TORCH_BOX(&plane_size));
  m.impl("has_tiles", TORCH_BOX(&has_tiles));
  m.impl("fill_registers", TORCH_BOX(&fill_registers));
}

STABLE_TORCH_LIBRARY_IMPL(mnmt_ds_cpu, CPU, m) {
  m.impl("statistics", TORCH_BOX(&statistics));
  m.impl("gradients", TORCH_BOX(&gradients));
  m.impl("gate", TORCH_BOX(&gate));
  m.impl("dropout", TORCH_BOX(&dropout));
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_gradients", TORCH_BOX(&linear_gradients));
  m.impl("tile_statistics", TORCH_BOX(&tile_statistics));
  m.impl("tile_gradients", TORCH_BOX(&tile_gradients));
}
