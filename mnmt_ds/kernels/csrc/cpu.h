// One chunk of the fused loss on a CPU: from hidden states to statistics, then from coefficients to gradients.
//
// Logits lie as [pass][group][word][GROUP tokens]: a vector holds one word's logits of LANES tokens, so that row
// arithmetic needs no sum across lanes and a gradient's block is the packed operand of the next product.
#pragma once

#include <cstdint>
#include <vector>

#include "rows.h"

namespace mnmt {

enum class Kind : int { float32, bfloat16, float16 };

struct Matrix {  // rows of `width` numbers, `stride` apart
  const void* data;
  Kind kind;
  int64_t rows, width, stride;
};

struct Chunk {
  int passes, teachers, threads;
  int64_t tokens, words;
  std::vector<Matrix> hidden;              // one a pass, `tokens` rows each
  Matrix projection;                       // `words` rows
  std::vector<Matrix> teacher_hidden, teacher_projection;
  std::vector<const bool*> vocabulary;     // one a teacher; null: all words
  std::vector<float> temperature;          // one a teacher
  const int64_t* gold;
  float* logits;          // passes * groups(tokens) * padded(words) * GROUP
  float* teacher_logits;  // teachers * the same
};

int64_t groups(int64_t tokens);
int64_t padded(int64_t words);
int64_t lanes_of_a_group();

// Rows of `found`, each of `tokens`; a level is two rows (Level in rows.h). For each pass level, sum of logits, gold
// logit, favourite word; for each teacher level at temperature 1, level at its own, gold logit, favourite word, then for
// each pass sum_v p_teacher z, and the student's level at the teacher's temperature.
void statistics(const Chunk& chunk, float* found);

// Rows of `diverging`: value, then lean of each pass; `found` as above.
void divergence(const Chunk& chunk, const float* found, float* diverging);

// What gradients need besides the logits: `found` and `lean` (divergence's rows but the first) as above, and per token
// the gold weight, the teachers' weights (teachers rows) and gates (teachers * passes rows).
struct Demand {
  const float *found, *lean, *weight, *teacher_weight, *gate;
  float smoothing, divergence_weight;
};

// Overwrites the logits. dhidden: passes * tokens * width, written; dprojection: words * width, written if `fresh`,
// else added to. Either may be null.
void gradients(const Chunk& chunk, const Demand& demand, float* dhidden, float* dprojection, bool fresh);

}  // namespace mnmt
