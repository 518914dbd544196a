// F for a CPU: a SIMD vector, one token in each lane, as wide as the machine's registers.
#pragma once

#include <cstring>

#include "exp.h"
#include "rows.h"

namespace mnmt {

// LANES: numbers of a vector register. TILE_ROWS: rows of the matrix kernel's tile, chosen so that TILE_ROWS x 2
// accumulators fill the vector registers (BLIS's MR).
#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_ROWS = 14;
#elif defined(__AVX__)
constexpr int LANES = 8, TILE_ROWS = 6;
#elif defined(__aarch64__)
constexpr int LANES = 4, TILE_ROWS = 12;
#else
constexpr int LANES = 4, TILE_ROWS = 6;
#endif
// Columns of the tile (BLIS's NR), and so the tokens that are computed together.
constexpr int GROUP = 2 * LANES;

typedef float Lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t IntLanes __attribute__((vector_size(LANES * 4)));

// A vector from memory of any alignment.
INLINE Lanes load(const float* from) {
  Lanes x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

// A vector to memory of any alignment.
INLINE void store(float* to, Lanes x) { std::memcpy(to, &x, sizeof x); }

template <>
struct Ops<Lanes> {
  static INLINE Lanes broadcast(float x) { return x - Lanes{}; }  // 0 + x would be an addition: it changes -0
  static INLINE Lanes select(IntLanes condition, Lanes yes, Lanes no) { return condition ? yes : no; }
  // e^x to about one unit in the last place, for x <= 88; 0 below -87.
  static INLINE Lanes exponential(Lanes x) {
    constexpr float MAGIC = 12582912.f + 127.f;  // 1.5 * 2^23 rounds to whole numbers; 127 is the exponent's bias
    const Lanes shifted = x * 1.44269504f + MAGIC;
    const Lanes y = exp_reduced(x, shifted - MAGIC);
    const Lanes power = (Lanes)((IntLanes)shifted << 23);
    return select(x < -87.f, Lanes{}, y * power);
  }
};

}  // namespace mnmt
