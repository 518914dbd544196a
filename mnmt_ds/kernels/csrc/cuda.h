// Rows of a chunk on a GPU: one block of threads a token. Products are the caller's (cuBLAS, through torch).
#pragma once

#include <cstdint>

#include "cpu.h"
#include "rows.h"

namespace mnmt {

// Which steps a launch takes. All three at once read the logits once, where a token's rows fit in shared memory.
// BULK_COPIES: rows then come there by bulk copies, where the device has them.
constexpr int STATISTICS = 1, DIVERGENCE = 2, GRADIENT = 4, BULK_COPIES = 8;

// The arguments of a launch.
struct RowArguments {
  DType dtype;                             // of all logits
  int passes, teachers, steps;
  int64_t tokens, vocab_size, pitch;       // pitch: numbers from row to row, a multiple of 16 bytes
  void* logits;                            // passes * tokens rows; overwritten by GRADIENT
  const void* teacher_logits;              // teachers * tokens rows
  const bool* vocabulary[MAX_TEACHERS];    // null: all words
  float temperature[MAX_TEACHERS];
  const int64_t* gold;
  float *packed, *divergences;             // as in cpu.h
  const float *weight, *teacher_weight;    // as GradientArguments in cpu.h
  const float* gate;                       // null: by `rule`, token by token
  GateRule rule[MAX_TEACHERS];
  float smoothing, divergence_weight, gradient_scale;
};

// Whether a token's rows fit in the device's shared memory, so that all steps may share one launch.
bool fits_on_chip(int passes, int teachers, int64_t pitch, DType dtype, int device);

// Launches the kernel; returns null, or what CUDA says is wrong.
const char* launch_rows(const RowArguments& arguments, int device, void* stream);

}  // namespace mnmt
