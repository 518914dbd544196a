// Cross-entropy of bfloat16 inputs on CPUs with matrix tiles (AMX): sums in float32, as in cpu.h.
#pragma once

#include <cstdint>

namespace mnmt {

// A chunk of one pass without teachers. `width` is a multiple of 32; rows of both matrices are contiguous.
struct TileChunk {
  const uint16_t* hidden;      // bfloat16, tokens rows of width
  const uint16_t* projection;  // bfloat16, vocab_size rows of width
  const int64_t* gold;
  int64_t tokens, vocab_size, width;
  int threads;
};

// Whether this machine and this build have tiles for bfloat16.
bool has_tiles();

// Writes statistics as mnmt::statistics does: rows of `tokens` numbers (PASS_ROWS of them).
void tile_statistics(const TileChunk& chunk, float* packed);

// Writes gradients as mnmt::gradients does; logits are computed again. The logits' own gradient is rounded to bfloat16
// before it is multiplied. `dhidden`: tokens * width, written; `dprojection`: vocab_size * width, written if
// `overwrite`, else added to. Either may be null.
void tile_gradients(const TileChunk& chunk, const float* packed, const float* weight, float smoothing, bool overwrite,
                    float* dhidden, float* dprojection);

}  // namespace mnmt
