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
  int64_t group;  // tokens whose logits are held at once
  int threads;
};

// Where the projection's gradient goes, vocab_size rows of width; one of both, or none.
struct ProjectionGradient {
  float* exact;       // sums themselves
  uint16_t* rounded;  // bfloat16, times `scale`
  bool overwrite;     // else they are added to what is there
  float scale;
};

// Whether this machine and this build have tiles for bfloat16.
bool has_tiles();

// Writes statistics as mnmt::statistics does: rows of `tokens` numbers (PASS_ROWS of them).
void tile_statistics(const TileChunk& chunk, float* packed);

// Writes gradients as mnmt::gradients does; logits are computed again. The logits' own gradient is rounded to bfloat16
// before it is multiplied. `dhidden`: tokens * width, written; may be null.
void tile_gradients(const TileChunk& chunk, const float* packed, const float* weight, float smoothing, float* dhidden,
                    const ProjectionGradient& dprojection);

}  // namespace mnmt
