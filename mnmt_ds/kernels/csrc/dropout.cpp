#include "dropout.h"

#include <algorithm>

#include "lanes.h"

namespace mnmt {

void dropout(int64_t size, int threads, const float* x, const uint16_t* bits, int threshold, float scale, float* y) {
  constexpr int64_t PART = 1 << 14;  // elements that a thread takes at once
  typedef uint16_t Draws __attribute__((vector_size(LANES * 2)));
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && size > PART)
  for (int64_t from = 0; from < size; from += PART) {
    const int64_t end = std::min(from + PART, size);
    int64_t i = from;
    for (; i + LANES <= end; i += LANES) {
      Draws draws;
      std::memcpy(&draws, bits + i, sizeof draws);
      const IntLanes kept = __builtin_convertvector(draws & 0x7fff, IntLanes) >= threshold;
      store(y + i, load(x + i) * Ops<Lanes>::select(kept, Ops<Lanes>::broadcast(scale), Lanes{}));
    }
    for (; i < end; ++i) y[i] = x[i] * (int(bits[i] & 0x7fff) >= threshold ? scale : 0.f);
  }
}

}  // namespace mnmt
