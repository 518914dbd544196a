// Dropout by random bits that are there already.
#pragma once

#include <cstdint>

namespace mnmt {

// Writes y = x * scale where the lower 15 of an element's 16 bits are at least `threshold`, and x * 0 elsewhere.
void dropout(int64_t size, int threads, const float* x, const uint16_t* bits, int threshold, float scale, float* y);

}  // namespace mnmt
