// One chunk of the fused loss on a CPU: from hidden states to statistics, then from coefficients to gradients.
//
// Logits lie as [pass][group][word][GROUP tokens]: a vector holds one word's logits of LANES tokens, so that row
// arithmetic needs no sum across lanes and a gradient's block is the packed operand of the next product.
#pragma once

#include <cstdint>
#include <vector>

#include "rows.h"

namespace mnmt {

enum class DType : int { float32, bfloat16, float16 };

// A matrix of `rows` rows of `width` numbers, `stride` numbers apart.
struct Matrix {
  const void* data;
  DType dtype;
  int64_t rows, width, stride;
};

// The inputs of a chunk, and room for its logits.
struct Chunk {
  int passes, teachers, threads;
  int64_t tokens, vocab_size;
  std::vector<Matrix> hidden;              // one a pass, `tokens` rows each
  Matrix projection;                       // `vocab_size` rows
  std::vector<Matrix> teacher_hidden, teacher_projection;
  std::vector<const bool*> vocabulary;     // one a teacher: which words it may use; null: all
  std::vector<float> temperature;          // one a teacher
  const int64_t* gold;
  float* logits;          // passes * groups(tokens) * padded(vocab_size) * GROUP
  float* teacher_logits;  // teachers * the same
};

// Groups that hold so many tokens.
int64_t groups(int64_t tokens);
// The vocabulary's size, rounded up to whole tiles.
int64_t padded(int64_t vocab_size);
// GROUP, for callers that don't know the machine's vectors.
int64_t group_tokens();

// Computes logits and packed statistics: rows of `tokens` numbers each; a log-normalizer is two rows (LogNormalizer in
// rows.h). For each pass: log-normalizer, sum of logits, gold logit, argmax. For each teacher: log-normalizer at
// temperature 1, log-normalizer at its own, gold logit, argmax, then for each pass sum_v p_teacher z, and the student's
// log-normalizer at the teacher's temperature.
void statistics(const Chunk& chunk, float* packed);

// Computes the X-divergence from logits and packed statistics. Rows of `divergences`: value, then the expected log
// ratio of each pass.
void divergence(const Chunk& chunk, const float* packed, float* divergences);

// What gradients need besides the logits: `packed` and `expected_log_ratio` (divergence's rows but the first) as above,
// and per token the gold weight, the teachers' weights (teachers rows) and gates (teachers * passes rows).
struct GradientArguments {
  const float *packed, *expected_log_ratio, *weight, *teacher_weight, *gate;
  float smoothing, divergence_weight;
};

// Computes gradients; the logits stay. dhidden: passes * tokens * width, written; dprojection: vocab_size * width,
// written if `overwrite`, else added to. Either may be null.
void gradients(const Chunk& chunk, const GradientArguments& arguments, float* dhidden, float* dprojection,
               bool overwrite);

}  // namespace mnmt
