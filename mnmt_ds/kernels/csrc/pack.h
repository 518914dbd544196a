// Memory of the CPU build: buffers, prefetching, and matrices packed as the tile reads them.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "cpu.h"
#include "tile.h"

namespace mnmt {

namespace {

// Words that a thread takes through all steps while they are in its cache.
constexpr int BLOCK = TILE_ROWS * (112 / TILE_ROWS);
constexpr int SEGMENT = 128;  // widths of a packed row that are multiplied at once (BLIS's KC)
constexpr int SEGMENT_STRIDE = SEGMENT + 16;  // from row to row, clear of cache aliasing

// a / b, rounded up.
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Uninitialised floats, aligned to a cache line.
struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float[], Free>;

// A buffer of n floats.
Buffer buffer(int64_t n) {
  void* p = std::aligned_alloc(64, std::max<int64_t>(64, ceil_div(n * 4, 64) * 64));
  if (!p) throw std::bad_alloc();
  return Buffer(static_cast<float*>(p));
}

// To float32.
float widen(float x) { return x; }
float widen(_Float16 x) { return static_cast<float>(x); }
struct BFloat16 {
  uint16_t bits;
};
float widen(BFloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

// Reads n numbers of a matrix row, from column `from`, as float32.
template <class T>
void fetch_as(const Matrix& m, int64_t row, int64_t from, int64_t n, float* to) {
  const T* p = static_cast<const T*>(m.data) + row * m.stride + from;
  for (int64_t i = 0; i < n; ++i) to[i] = widen(p[i]);
}

// Prefetches rows of GROUP numbers that will be read or written soon and lie too far away for the CPU to guess; a few
// with every tile, since many at once wait for one another. STREAMS: places where such rows follow one another.
template <int STREAMS>
struct Prefetcher {
  const float* next[STREAMS];
  int64_t rows;  // still to prefetch
  INLINE void prefetch(int64_t max_rows) {
    constexpr int CACHE_LINE = 64 / sizeof(float);
    const int64_t n = std::min(max_rows, rows) * GROUP;
    for (auto& from : next) {
      for (int64_t i = 0; i < n; i += CACHE_LINE) __builtin_prefetch(from + i, 0, 2);
      from += n;
    }
    rows -= n / GROUP;
  }
};

// fetch_as for the matrix's dtype.
void fetch(const Matrix& m, int64_t row, int64_t from, int64_t n, float* to) {
  switch (m.dtype) {
    case DType::float32: return fetch_as<float>(m, row, from, n, to);
    case DType::bfloat16: return fetch_as<BFloat16>(m, row, from, n, to);
    case DType::float16: return fetch_as<_Float16>(m, row, from, n, to);
  }
}

// Packs hidden states as [group][width][GROUP]: the transposed hidden states, padding tokens 0.
Buffer pack_columns(const std::vector<Matrix>& hidden, int64_t tokens, int threads) {
  const int64_t groups_per_pass = groups(tokens), width = hidden[0].width;
  const int64_t total = groups_per_pass * int64_t(hidden.size());
  Buffer packed = buffer(total * width * GROUP);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t g = 0; g < total; ++g) {
    std::vector<float> row(width);
    float* to = packed.get() + g * width * GROUP;
    for (int64_t t = 0; t < GROUP; ++t) {
      const int64_t token = g % groups_per_pass * GROUP + t;
      if (token < tokens) fetch(hidden[g / groups_per_pass], token, 0, width, row.data());
      else std::fill(row.begin(), row.end(), 0.f);
      for (int64_t d = 0; d < width; ++d) to[d * GROUP + t] = row[d];
    }
  }
  return packed;
}

// Packs hidden states as [panel of GROUP widths][group][token][GROUP widths], zeros outside.
Buffer pack_panels(const std::vector<Matrix>& hidden, int64_t tokens, int threads) {
  const int64_t groups_per_pass = groups(tokens), width = hidden[0].width;
  const int64_t total = groups_per_pass * int64_t(hidden.size());
  const int64_t panels = ceil_div(width, GROUP);
  Buffer packed = buffer(panels * total * GROUP * GROUP);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t g = 0; g < total; ++g) {
    for (int64_t t = 0; t < GROUP; ++t) {
      const int64_t token = g % groups_per_pass * GROUP + t;
      for (int64_t q = 0; q < panels; ++q) {
        float* to = packed.get() + ((q * total + g) * GROUP + t) * GROUP;
        const int64_t n = token < tokens ? std::min<int64_t>(GROUP, width - q * GROUP) : 0;
        if (n) fetch(hidden[g / groups_per_pass], token, q * GROUP, n, to);
        std::fill(to + n, to + GROUP, 0.f);
      }
    }
  }
  return packed;
}

// Floats of a block of the projection's rows, packed by pack_rows.
int64_t packed_rows_size(int64_t width) { return int64_t(BLOCK) * ceil_div(width, SEGMENT) * SEGMENT_STRIDE; }

// Packs a block of the projection's rows as [panel of TILE_ROWS words][segment][TILE_ROWS][SEGMENT_STRIDE]; words past
// the end are 0.
void pack_rows(const Matrix& projection, int64_t first, float* to) {
  const int64_t segments = ceil_div(projection.width, SEGMENT);
  for (int64_t r = 0; r < BLOCK; ++r) {
    for (int64_t s = 0; s < segments; ++s) {
      float* row = to + ((r / TILE_ROWS * segments + s) * TILE_ROWS + r % TILE_ROWS) * SEGMENT_STRIDE;
      const int64_t n = std::min<int64_t>(SEGMENT, projection.width - s * SEGMENT);
      if (first + r < projection.rows) fetch(projection, first + r, s * SEGMENT, n, row);
      else std::fill(row, row + n, 0.f);
    }
  }
}

// Packs a block of the projection's rows as [panel of TILE_ROWS widths][BLOCK words][TILE_ROWS]; a few words at a time,
// whose rows the CPU can follow side by side.
void pack_across(const Matrix& projection, int64_t first, int64_t n, float* to) {
  constexpr int64_t WORDS_AT_ONCE = 8;
  for (int64_t begin = 0; begin < n; begin += WORDS_AT_ONCE) {
    const int64_t end = std::min(begin + WORDS_AT_ONCE, n);
    for (int64_t d = 0; d < projection.width; d += TILE_ROWS) {
      const int64_t m = std::min<int64_t>(TILE_ROWS, projection.width - d);
      float* at = to + d * BLOCK + begin * TILE_ROWS;
      for (int64_t v = first + begin; v < first + end; ++v, at += TILE_ROWS) {
        if (projection.dtype == DType::float32 && m == TILE_ROWS) {
          const float* row = static_cast<const float*>(projection.data) + v * projection.stride;
          std::memcpy(at, row + d, TILE_ROWS * sizeof(float));
        } else {
          fetch(projection, v, d, m, at);
          std::fill(at + m, at + TILE_ROWS, 0.f);
        }
      }
    }
  }
}

}  // namespace

}  // namespace mnmt
