// Products of linear layers in float32 on a CPU. Each sum runs over its terms in one order, whatever the other rows and
// columns are and however many threads share the work: a row's result depends on that row alone.
#pragma once

#include <cstdint>

namespace mnmt {

// Rows of a linear layer's input, and the layer's shape; all matrices are contiguous, their rows side by side.
struct LinearShape {
  int64_t rows, inputs, outputs;
  int threads;
};

// Writes y = x w' + bias (null: 0), then ReLU where asked for. x: rows * inputs, w: outputs * inputs.
void linear(const LinearShape& shape, const float* x, const float* w, const float* bias, bool relu, float* y);

// Writes dx = dy w. Where `y`, the layer's result after ReLU, is given, dy counts where it is above 0.
void linear_input_gradient(const LinearShape& shape, const float* dy, const float* y, const float* w, float* dx);

// Writes dw = dy' x and dbias, the sum of dy's rows; either may be null. `y`: as above.
void linear_weight_gradient(const LinearShape& shape, const float* dy, const float* y, const float* x, float* dw,
                            float* dbias);

// Multiplies and adds registers alone, `repeats` times; returns how many operations that were: over the time that it
// takes, what this core can do at most.
int64_t fill_registers(int64_t repeats);

}  // namespace mnmt
