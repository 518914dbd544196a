// Entry points of cuda_on_cpu.h for ctypes. KERNELS: csrc/cuda.cu with what C++ cannot say replaced.
#include KERNELS

extern "C" void most_shared(int bytes) { gpu::most_shared = bytes; }

extern "C" bool fits(int passes, int teachers, int64_t pitch, int dtype) {
  return mnmt::fits_on_chip(passes, teachers, pitch, mnmt::DType(dtype), 0);
}

extern "C" const char* rows(int dtype, int passes, int teachers, int steps, int64_t tokens, int64_t vocab_size, int64_t pitch,
                            char* logits, const char* teacher_logits, const bool** vocabulary, const double* temperature,
                            const int64_t* gold, float* packed, float* divergences, const float* weight,
                            const float* teacher_weight, const float* gate, const double* rules, double smoothing,
                            double divergence_weight, double gradient_scale) {
  using gpu::Fenced;
  const int64_t row = pitch * (dtype ? 2 : 4);
  const Fenced<char> z(logits, passes * tokens * row);
  const Fenced<const char> y(teachers ? teacher_logits : nullptr, teachers * tokens * row);
  const Fenced<const bool> first(teachers > 0 ? vocabulary[0] : nullptr, vocab_size);
  const Fenced<const bool> second(teachers > 1 ? vocabulary[1] : nullptr, vocab_size);
  const Fenced<const int64_t> g(gold, tokens);
  const Fenced<float> f(packed, (mnmt::PASS_ROWS * passes + teachers * mnmt::teacher_rows(passes)) * tokens);
  const Fenced<float> d(divergences, (passes > 1 ? 1 + passes : 0) * tokens);
  const Fenced<const float> w(weight, tokens), tw(teacher_weight, teachers * tokens);
  const Fenced<const float> gates(gate, teachers * passes * tokens);
  mnmt::RowArguments a{};
  a.dtype = mnmt::DType(dtype);
  a.passes = passes;
  a.teachers = teachers;
  a.steps = steps;
  a.tokens = tokens;
  a.vocab_size = vocab_size;
  a.pitch = pitch;
  a.logits = z.get();
  a.teacher_logits = y.get();
  a.vocabulary[0] = first.get();
  a.vocabulary[1] = second.get();
  for (int j = 0; j < teachers; ++j) {
    a.temperature[j] = float(temperature[j]);
    a.rule[j] = {int(rules[4 * j]), int(rules[4 * j + 1]), float(rules[4 * j + 2]), float(rules[4 * j + 3])};
  }
  a.gold = g.get();
  a.packed = f.get();
  a.divergences = d.get();
  a.weight = w.get();
  a.teacher_weight = tw.get();
  a.gate = gates.get();
  a.smoothing = float(smoothing);
  a.divergence_weight = float(divergence_weight);
  a.gradient_scale = float(gradient_scale);
  return mnmt::launch_rows(a, 0, nullptr);
}
