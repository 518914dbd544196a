// Rows of a chunk on a GPU: one block of threads a token. Products are the caller's (cuBLAS, through torch).
#pragma once

#include <cstdint>

#include "cpu.h"
#include "rows.h"

namespace mnmt {

enum class Half : int { none, bfloat16, float16 };  // what logits are stored in; none: float32

// Which steps a launch takes. All three at once read the logits once, where a token's rows fit in shared memory.
constexpr int STATISTICS = 1, DIVERGENCE = 2, GRADIENT = 4;

struct RowArguments {
  Half half;
  int passes, teachers, steps;
  int64_t tokens, words, pitch;            // pitch: numbers from row to row, a multiple of 16 bytes
  void* logits;                            // passes * tokens rows; overwritten by GRADIENT
  const void* teacher_logits;              // teachers * tokens rows
  const bool* vocabulary[MOST_TEACHERS];   // null: all words
  float temperature[MOST_TEACHERS];
  const int64_t* gold;
  float *found, *diverging;                // as in cpu.h; diverging: value, then lean of each pass
  const float *weight, *teacher_weight;    // as Demand in cpu.h
  const float* gate;                       // null: by `rule`, token by token
  GateRule rule[MOST_TEACHERS];
  float smoothing, divergence_weight, unit;
};

// Whether a token's rows fit in the device's shared memory, so that all steps may share one launch.
bool fits_on_chip(int passes, int teachers, int64_t pitch, Half half, int device);

// Empty, or what CUDA says is wrong.
const char* launch_rows(const RowArguments& arguments, int device, void* stream);

}  // namespace mnmt
