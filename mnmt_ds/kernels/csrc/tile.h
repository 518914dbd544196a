// The one matrix kernel of the CPU build: TALL x GROUP sums of products, held in registers.
#pragma once

#include "lanes.h"

namespace mnmt {

// A row's number reaches its two products through a register, or, for the first STRAIGHT rows, straight from memory:
// that is one instruction less for one load more, and the loads have room. Two threads of a core share its decoder.
#if defined(__AVX512F__)
constexpr int STRAIGHT = 8;
#else
constexpr int STRAIGHT = 0;
#endif

struct Tile {
  Lanes sum[TALL][2];
  ROW void clear() {
#pragma GCC unroll 16
    for (int i = 0; i < TALL; ++i) sum[i][0] = sum[i][1] = Lanes{};
  }
  ROW void read(const float* from, int64_t step) {
#pragma GCC unroll 16
    for (int i = 0; i < TALL; ++i) {
      sum[i][0] = load(from + i * step);
      sum[i][1] = load(from + i * step + LANES);
    }
  }
  ROW void write(float* to, int64_t step, int64_t rows) const {
#pragma GCC unroll 16
    for (int i = 0; i < TALL; ++i) {
      if (i >= rows) break;
      store(to + i * step, sum[i][0]);
      store(to + i * step + LANES, sum[i][1]);
    }
  }
  // sum[i] += sum_k a[i * DOWN + k * ALONG] * b[k * GROUP ...]
  template <int DOWN, int ALONG>
  ROW void add(const float* a, const float* b, int n) {
    const float* again = a;
    asm("" : "+r"(again));  // the compiler no longer knows that it is a: it reads a number for each product
#pragma GCC unroll 2
    for (int k = 0; k < n; ++k, a += ALONG, again += ALONG, b += GROUP) {
      const Lanes left = load(b), right = load(b + LANES);
#pragma GCC unroll 16
      for (int i = 0; i < TALL; ++i) {
        sum[i][0] += Of<Lanes>::number(a[i * DOWN]) * left;
        sum[i][1] += Of<Lanes>::number((i < STRAIGHT ? again : a)[i * DOWN]) * right;
      }
    }
  }
};

}  // namespace mnmt
