// The one matrix kernel of the CPU build: ROWS x GROUP sums of products, held in registers; TILE_ROWS fill them.
#pragma once

#include "lanes.h"

namespace mnmt {

// A row's number reaches its two products through a register, or, for the first rows, straight from memory: that is
// one instruction less for one load more, and the loads have room. Two threads of a core share its decoder.
#if defined(__AVX512F__)
constexpr int ROWS_FROM_MEMORY = 8;
#else
constexpr int ROWS_FROM_MEMORY = 0;
#endif

template <int ROWS>
struct TileOf {
  Lanes sum[ROWS][2];

  // Sets all sums to 0.
  INLINE void clear() {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) sum[i][0] = sum[i][1] = Lanes{};
  }

  // Reads the sums; `stride`: numbers from row to row.
  INLINE void read(const float* from, int64_t stride) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
      sum[i][0] = load(from + i * stride);
      sum[i][1] = load(from + i * stride + LANES);
    }
  }

  // Writes the sums of the first `rows` rows.
  INLINE void write(float* to, int64_t stride, int64_t rows) const {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
      if (i >= rows) break;
      store(to + i * stride, sum[i][0]);
      store(to + i * stride + LANES, sum[i][1]);
    }
  }

  // sum[i] += sum_k a[i * ROW_STRIDE + k * COLUMN_STRIDE] * b[k * GROUP ...]
  template <int ROW_STRIDE, int COLUMN_STRIDE>
  INLINE void add(const float* a, const float* b, int n) {
    const float* a_copy = a;
    asm("" : "+r"(a_copy));  // the compiler no longer knows that it is a: it reads a number for each product
#pragma GCC unroll 2
    for (int k = 0; k < n; ++k, a += COLUMN_STRIDE, a_copy += COLUMN_STRIDE, b += GROUP) {
      const Lanes left = load(b), right = load(b + LANES);
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) {
        sum[i][0] += Ops<Lanes>::broadcast(a[i * ROW_STRIDE]) * left;
        sum[i][1] += Ops<Lanes>::broadcast((i < ROWS_FROM_MEMORY ? a_copy : a)[i * ROW_STRIDE]) * right;
      }
    }
  }
};

using Tile = TileOf<TILE_ROWS>;

}  // namespace mnmt
