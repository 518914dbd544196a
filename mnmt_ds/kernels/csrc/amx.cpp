// The vocabulary goes by in blocks, each with all of the chunk's tokens: a block's rows are read twice and its gradient
// is written once, whatever the number of tokens, and no logits outlive their block. A block's logits are made for a
// group of tokens at a time, as many as stay in the second cache; they lie as [word][token].
//
// Letters in names of packed matrices: a: left factor of a product, [16 rows][32 columns] after one another; b: right
// factor, [panel of 32 columns][pair of rows][32 columns][2].
#include "amx.h"

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__AVX512BF16__) && defined(__AVX512BW__)
#define MNMT_TILES 1
#endif

#ifdef MNMT_TILES
#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "lanes.h"

namespace mnmt {

namespace {

constexpr int64_t WORDS = 256;  // of a block
constexpr int64_t SIDE = 32;    // of the products that are held in registers
constexpr int64_t STEP = 1024;  // bfloat16 numbers of SIDE x SIDE
constexpr int64_t NEAR_STEPS = 8;  // of a right factor that stays in the first cache

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Free>;

template <class T>
Buffer<T> buffer(int64_t n) {
  void* p = std::aligned_alloc(64, (std::max<int64_t>(n, 1) * int64_t(sizeof(T)) + 63) / 64 * 64);
  if (!p) throw std::bad_alloc();
  return Buffer<T>(static_cast<T*>(p));
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Sets this thread's tiles up, and back at the end: other libraries keep theirs.
struct Tiles {
  alignas(64) uint8_t before[64];
  Tiles() {
    alignas(64) uint8_t config[64] = {1};
    uint16_t columns[8];
    std::fill(columns, columns + 8, uint16_t(64));
    std::memcpy(config + 16, columns, sizeof columns);
    std::fill(config + 48, config + 56, uint8_t(16));
    _tile_storeconfig(before);
    _tile_loadconfig(config);
  }
  ~Tiles() {
    if (before[0]) _tile_loadconfig(before);
    else _tile_release();
  }
};

// c[32][32] (+)= a * b over `steps` times 32 terms; `below`: numbers from a's first 16 rows to its next ones.
void multiply(const uint16_t* a, int64_t below, const uint16_t* b, int64_t steps, float* c, int64_t stride, bool add) {
  const int64_t bytes = stride * int64_t(sizeof(float));
  if (add) {
    _tile_loadd(0, c, bytes);
    _tile_loadd(1, c + 16, bytes);
    _tile_loadd(2, c + 16 * stride, bytes);
    _tile_loadd(3, c + 16 * stride + 16, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t s = 0; s < steps; ++s, a += STEP / 2, b += STEP) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 128);
    _tile_loadd(7, b + 32, 128);
    _tile_loadd(5, a + below, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + 16, bytes);
  _tile_stored(2, c + 16 * stride, bytes);
  _tile_stored(3, c + 16 * stride + 16, bytes);
}

// Packs rows of a row-major matrix as a left factor: [16 rows][steps of 32 columns]; rows past `rows` are 0.
void pack_a(const uint16_t* from, int64_t rows, int64_t padded_rows, int64_t width, uint16_t* to) {
  for (int64_t r = 0; r < padded_rows; ++r) {
    uint16_t* at = to + r / 16 * 16 * width + r % 16 * 32;
    for (int64_t d = 0; d < width; d += 32, at += STEP / 2)
      if (r < rows) std::memcpy(at, from + r * width + d, 64);
      else std::memset(at, 0, 64);
  }
}

// Packs the transpose of a row-major matrix as a right factor: [panel of 32 rows][pair of columns][32 rows][2].
void pack_b_transposed(const uint16_t* from, int64_t rows, int64_t padded_rows, int64_t width, uint16_t* to) {
  for (int64_t r = 0; r < padded_rows; ++r) {
    uint16_t* at = to + r / 32 * 32 * width + r % 32 * 2;
    for (int64_t d = 0; d < width; d += 2, at += 64) {
      const uint32_t none = 0;
      std::memcpy(at, r < rows ? static_cast<const void*>(from + r * width + d) : &none, 4);
    }
  }
}

// The bits of two rows of 16 numbers, side by side: (first, second) of each column.
__m512i interleave(__m256i first, __m256i second) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

__m256i row16(const uint16_t* from, int64_t row, int64_t rows, int64_t width) {
  if (row >= rows) return _mm256_setzero_si256();
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + row * width));
}

// Packs a row-major matrix as a right factor: [panel of 32 columns][pair of rows][32 columns][2].
void pack_b(const uint16_t* from, int64_t rows, int64_t padded_rows, int64_t width, uint16_t* to) {
  for (int64_t r = 0; r < padded_rows; r += 2)
    for (int64_t d = 0; d < width; d += 16)
      _mm512_storeu_si512(to + d / 32 * 32 * padded_rows + r * 32 + d % 32 * 2,
                          interleave(row16(from + d, r, rows, width), row16(from + d, r + 1, rows, width)));
}

// Packs the transpose of a row-major matrix as a left factor: [16 columns][steps of 32 rows].
void pack_a_transposed(const uint16_t* from, int64_t rows, int64_t padded_rows, int64_t width, uint16_t* to) {
  const __m512i every_row = _mm512_mullo_epi32(
      _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(16));
  for (int64_t d = 0; d < width; d += 16)
    for (int64_t r = 0; r < padded_rows; r += 2)
      _mm512_i32scatter_epi32(to + d * padded_rows + r / 32 * (STEP / 2) + r % 32, every_row,
                              interleave(row16(from + d, r, rows, width), row16(from + d, r + 1, rows, width)), 4);
}

Lanes exponential(Lanes x) { return Ops<Lanes>::exponential(x); }
Lanes larger(Lanes a, Lanes b) { return Ops<Lanes>::select(a > b, a, b); }
__m256i rounded(Lanes x) { return (__m256i)_mm512_cvtneps_pbh((__m512)x); }
Lanes widened(__m256i x) { return (Lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16); }

// A chunk with its sizes rounded up, and its hidden states packed.
struct Packed {
  const TileChunk& c;
  int64_t tokens, blocks, steps;  // tokens: a multiple of 32; steps: of the width
  Buffer<uint16_t> hidden_b;      // of hidden states, transposed
  explicit Packed(const TileChunk& chunk)
      : c(chunk), tokens(ceil_div(c.tokens, SIDE) * SIDE), blocks(ceil_div(c.vocab_size, WORDS)), steps(c.width / SIDE),
        hidden_b(buffer<uint16_t>(tokens * c.width)) {
    pack_b_transposed(c.hidden, c.tokens, tokens, c.width, hidden_b.get());
  }
  int64_t words(int64_t block) const { return std::min(WORDS, c.vocab_size - block * WORDS); }
  const uint16_t* rows(int64_t block) const { return c.projection + block * WORDS * c.width; }
  // A block's rows, as a left factor.
  void pack_rows(int64_t block, uint16_t* rows_a) const {
    pack_a(rows(block), words(block), ceil_div(words(block), SIDE) * SIDE, c.width, rows_a);
  }
  // Logits [word][token] of a block and of `count` tokens from `first` on.
  void logits(int64_t block, const uint16_t* rows_a, int64_t first, int64_t count, float* z) const {
    const int64_t padded = ceil_div(words(block), SIDE) * SIDE;
    for (int64_t t = 0; t < count; t += SIDE)
      for (int64_t s = 0; s < steps; s += NEAR_STEPS)
        for (int64_t v = 0; v < padded; v += SIDE)
          multiply(rows_a + v * c.width + s * (STEP / 2), 16 * c.width,
                   hidden_b.get() + (first + t) * c.width + s * STEP, std::min(NEAR_STEPS, steps - s),
                   z + v * count + t, count, s > 0);
  }
  int64_t group() const { return std::min(tokens, ceil_div(c.group, SIDE) * SIDE); }
};

// Running maximum, sum of exponentials and sum of logits of every token.
struct Running {
  std::vector<float> max, sum, logits;
  explicit Running(int64_t tokens)
      : max(tokens, std::numeric_limits<float>::lowest()), sum(tokens, 0.f), logits(tokens, 0.f) {}
  // Takes a block's logits of `count` tokens from `first` on in; `top`: room for a number a token.
  void add(const float* z, int64_t words, int64_t first, int64_t count, std::vector<float>& top) {
    std::copy_n(max.begin() + first, count, top.begin());
    for (int64_t v = 0; v < words; ++v)
      for (int64_t t = 0; t < count; t += LANES) store(&top[t], larger(load(z + v * count + t), load(&top[t])));
    for (int64_t t = 0; t < count; t += LANES) {
      Lanes total{}, plain{};
      const Lanes m = load(&top[t]);
      for (int64_t v = 0; v < words; ++v) {
        const Lanes x = load(z + v * count + t);
        total += exponential(x - m);
        plain += x;
      }
      float *sums = &sum[first + t], *plains = &logits[first + t], *most = &max[first + t];
      store(sums, load(sums) * exponential(load(most) - m) + total);
      store(plains, load(plains) + plain);
      store(most, m);
    }
  }
  void merge(const Running& other) {
    for (size_t t = 0; t < max.size(); ++t) {
      const float m = std::max(max[t], other.max[t]);
      sum[t] = sum[t] * std::exp(max[t] - m) + other.sum[t] * std::exp(other.max[t] - m);
      logits[t] += other.logits[t];
      max[t] = m;
    }
  }
};

// The gradient of a block's logits of `count` tokens from `first_token` on, as a left factor [16 words][steps of 32
// tokens] and as a right one [panel of 32 tokens][pair of words][32 tokens][2], both of all tokens.
// `lse`, `weight`, `base`, `gold`: of every token.
void logit_gradients(const Packed& p, int64_t block, int64_t first_token, int64_t count, const float* z,
                     const float* lse, const float* weight, const float* base, const float* gold, uint16_t* left,
                     uint16_t* right) {
  const int64_t words = p.words(block), padded = ceil_div(words, SIDE) * SIDE, tokens = p.tokens;
  lse += first_token, weight += first_token, base += first_token;
  const auto gradient = [&](int64_t v, int64_t t) {
    if (v >= words) return Lanes{};
    return exponential(load(z + v * count + t) - load(lse + t)) * load(weight + t) - load(base + t);
  };
  std::vector<std::pair<int64_t, int64_t>> here;  // words and tokens of gold
  for (int64_t t = first_token; t < std::min(first_token + count, p.c.tokens); ++t)
    if (const int64_t v = p.c.gold[t] - block * WORDS; v >= 0 && v < words) here.emplace_back(v, t);
  std::sort(here.begin(), here.end());
  auto next = here.begin();
  std::vector<float> rows(2 * count);
  for (int64_t v = 0; v < padded; v += 2) {
    float* first = rows.data();
    float* second = first + count;
    for (int64_t t = 0; t < count; t += LANES) {
      store(first + t, gradient(v, t));
      store(second + t, gradient(v + 1, t));
    }
    for (; next != here.end() && next->first < v + 2; ++next)
      rows[(next->first - v) * count + next->second - first_token] -= gold[next->second];
    for (int64_t i = 0, t = first_token; i < count; i += LANES, t += LANES) {
      const __m256i upper = rounded(load(first + i)), lower = rounded(load(second + i));
      uint16_t* at = left + v / 16 * 16 * tokens + t / 32 * (STEP / 2) + v % 16 * 32 + t % 32;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), upper);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(at + 32), lower);
      _mm512_storeu_si512(right + t / 32 * 32 * padded + v * 32 + t % 32 * 2, interleave(upper, lower));
    }
  }
}

// Writes up to 32 rows of a product's 32 x 32 sums where they belong: from number `at` on.
void write_sums(const float* sums, int64_t rows, int64_t width, const ProjectionGradient& to, int64_t at) {
  const Lanes scale = Ops<Lanes>::broadcast(to.scale);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t d = 0; d < SIDE; d += LANES) {
      const int64_t i = at + r * width + d;
      const Lanes sum = load(sums + r * SIDE + d);
      if (to.exact) {
        store(to.exact + i, to.overwrite ? sum : load(to.exact + i) + sum);
        continue;
      }
      const auto at_i = reinterpret_cast<__m256i*>(to.rounded + i);
      const __m256i scaled = rounded(sum * scale);
      _mm256_storeu_si256(at_i, to.overwrite ? scaled : rounded(widened(_mm256_loadu_si256(at_i)) + widened(scaled)));
    }
}

bool ask_for_tiles() {
  constexpr int REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

}  // namespace

bool has_tiles() {
  static const bool has = ask_for_tiles();
  return has;
}

void tile_statistics(const TileChunk& c, float* packed) {
  const Packed p(c);
  const int64_t group = p.group();
  std::vector<Running> running;
  for (int i = 0; i < c.threads; ++i) running.emplace_back(p.tokens);
#pragma omp parallel num_threads(c.threads)
  {
    const Tiles tiles;
    const auto rows_a = buffer<uint16_t>(WORDS * c.width);
    const auto z = buffer<float>(WORDS * group);
    std::vector<float> room(group);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < p.blocks; ++b) {
      p.pack_rows(b, rows_a.get());
      for (int64_t first = 0; first < p.tokens; first += group) {
        const int64_t count = std::min(group, p.tokens - first);
        p.logits(b, rows_a.get(), first, count, z.get());
        running[omp_get_thread_num()].add(z.get(), p.words(b), first, count, room);
        for (int64_t t = first; t < std::min(first + count, c.tokens); ++t)
          if (const int64_t v = c.gold[t] - b * WORDS; v >= 0 && v < p.words(b))
            packed[3 * c.tokens + t] = z[v * count + t - first];
      }
    }
  }
  for (int i = 1; i < c.threads; ++i) running[0].merge(running[i]);
  for (int64_t t = 0; t < c.tokens; ++t) {
    packed[t] = running[0].max[t];
    packed[c.tokens + t] = std::log(running[0].sum[t]);
    packed[2 * c.tokens + t] = running[0].logits[t];
    packed[4 * c.tokens + t] = 0.f;  // the most probable word is asked for beside a teacher's alone
  }
}

void tile_gradients(const TileChunk& c, const float* packed, const float* weight, float smoothing, float* dhidden,
                    const ProjectionGradient& dprojection) {
  const Packed p(c);
  const int64_t tokens = p.tokens, width = c.width, group = p.group();
  const bool wanted = dprojection.exact || dprojection.rounded;
  std::vector<float> lse(tokens, 0.f), scale(tokens, 0.f), base(tokens, 0.f), gold(tokens, 0.f);
  for (int64_t t = 0; t < c.tokens; ++t) {
    lse[t] = packed[t] + packed[c.tokens + t];
    scale[t] = weight[t];
    base[t] = weight[t] * smoothing / float(c.vocab_size);
    gold[t] = weight[t] * (1.f - smoothing);
  }
  const auto tokens_b = buffer<uint16_t>(wanted ? tokens * width : 0);
  if (wanted) pack_b(c.hidden, c.tokens, tokens, width, tokens_b.get());
  const int64_t size = dhidden ? tokens * width : 0;
  const auto partial = buffer<float>(size * c.threads);  // of each thread: [32 tokens][32 widths][width][token]
#pragma omp parallel num_threads(c.threads)
  {
    const Tiles tiles;
    float* own = partial.get() + size * omp_get_thread_num();
    std::fill(own, own + size, 0.f);
    const auto rows_a = buffer<uint16_t>(WORDS * width), across_a = buffer<uint16_t>(dhidden ? WORDS * width : 0);
    const auto z = buffer<float>(WORDS * group);
    const auto left = buffer<uint16_t>(WORDS * tokens), right = buffer<uint16_t>(WORDS * tokens);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < p.blocks; ++b) {
      const int64_t words = p.words(b), padded = ceil_div(words, SIDE) * SIDE;
      p.pack_rows(b, rows_a.get());
      for (int64_t first = 0; first < tokens; first += group) {
        const int64_t count = std::min(group, tokens - first);
        p.logits(b, rows_a.get(), first, count, z.get());
        logit_gradients(p, b, first, count, z.get(), lse.data(), scale.data(), base.data(), gold.data(), left.get(),
                        right.get());
      }
      for (int64_t d = 0; wanted && d < width; d += SIDE)
        for (int64_t v = 0; v < words; v += SIDE) {
          alignas(64) float sums[SIDE * SIDE];
          multiply(left.get() + v * tokens, 16 * tokens, tokens_b.get() + d * tokens, tokens / SIDE, sums, SIDE, false);
          write_sums(sums, std::min(SIDE, words - v), width, dprojection, (b * WORDS + v) * width + d);
        }
      if (!dhidden) continue;
      pack_a_transposed(p.rows(b), words, padded, width, across_a.get());
      for (int64_t t = 0; t < tokens; t += SIDE)
        for (int64_t d = 0; d < width; d += SIDE)
          multiply(across_a.get() + d * padded, 16 * padded, right.get() + t * padded, padded / SIDE,
                   own + t * width + d * SIDE, SIDE, true);
    }
#pragma omp for schedule(static)
    for (int64_t t = 0; t < (dhidden ? c.tokens : 0); ++t)
      for (int64_t d = 0; d < width; ++d) {
        float sum = 0.f;
        for (int i = 0; i < c.threads; ++i)
          sum += partial[size * i + t / SIDE * SIDE * width + d * SIDE + t % SIDE];
        dhidden[t * width + d] = sum;
      }
  }
}

}  // namespace mnmt

#else

namespace mnmt {

bool has_tiles() { return false; }
void tile_statistics(const TileChunk&, float*) {}
void tile_gradients(const TileChunk&, const float*, const float*, float, float*, const ProjectionGradient&) {}

}  // namespace mnmt

#endif
