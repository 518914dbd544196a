// What one decoding step does besides matrix products, in float32: attention of every beam to its own past or to its
// source, and the best continuations of every sentence. Plain C interface; the caller checks shapes.
//
// Letters: B sentences in the batch, W beams (1 at the first step), K beams at most, A sentences at the start (a
// sentence's rows in the caches stay where they are: `home` says where), T past positions, S source positions, D width,
// H heads, V words, C candidates. A row of keys and values is 2·D numbers: keys, then values.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "../../kernels/csrc/exp.h"

namespace {

constexpr int64_t BLOCK = 64;       // words whose greatest logit is kept
constexpr int64_t MOST_PART = 512;  // widest head

// Vectors of 8 and 16 numbers; the compiler maps them to what the machine has.
typedef float V8 __attribute__((vector_size(32)));
typedef float V16 __attribute__((vector_size(64)));

#if defined(__clang__) || __GNUC__ >= 12
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t I8 __attribute__((vector_size(32)));
#define PICK(a, b, ...) __builtin_shuffle(a, b, I8{__VA_ARGS__})
#endif

template <class V>
inline V load(const float* from) {
  V found;
  std::memcpy(&found, from, sizeof(V));
  return found;
}

template <class V>
inline void store(float* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

// exp of numbers that are not positive; relative error below 2e-7.
template <class V>
inline V exp_(V x) {
  typedef int32_t I __attribute__((vector_size(sizeof(V))));
  x = x < -87.0f ? V{} - 87.0f : x;
  const I n = __builtin_convertvector(x * 1.44269504f - 0.5f, I);  // to the nearest: conversion goes towards zero
  const V y = mnmt::exp_reduced(x, __builtin_convertvector(n, V));
  const I bits = (n + 127) << 23;
  V power;
  std::memcpy(&power, &bits, sizeof(V));
  return y * power;
}

// The sums of eight vectors, in their order.
inline V8 sums(const V8* v) {
  V8 pair[4], four[2];
  for (int i = 0; i < 4; ++i)
    pair[i] = PICK(v[2 * i], v[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14) +
              PICK(v[2 * i], v[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  for (int i = 0; i < 2; ++i)
    four[i] = PICK(pair[2 * i], pair[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
              PICK(pair[2 * i], pair[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
  return PICK(four[0], four[1], 0, 1, 2, 3, 8, 9, 10, 11) + PICK(four[0], four[1], 4, 5, 6, 7, 12, 13, 14, 15);
}

// One query of all heads over `count` rows. `rows` and `score` have room for the next multiple of 8, and the rows
// beyond `count` may be read. PART is D / H where it is known beforehand; D / H is a multiple of 8.
template <int PART>
void attend(const float* query, const float* const* rows, int64_t count, int64_t heads, int64_t width, float* score,
            float* out) {
  const int64_t part = PART ? PART : width / heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(part));
  for (int64_t h = 0; h < heads; ++h) {
    const float* q = query + h * part;
    V8 top = V8{} - std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < count; i += 8) {
      V8 found[8] = {};
      for (int64_t e = 0; e < part; e += 8) {
        const V8 queried = load<V8>(q + e);
        for (int j = 0; j < 8; ++j) found[j] += queried * load<V8>(rows[i + j] + h * part + e);
      }
      V8 scores = sums(found) * scale;
      for (int64_t j = count - i; j < 8; ++j) scores[j] = -std::numeric_limits<float>::infinity();
      top = scores > top ? scores : top;
      store(score + i, scores);
    }
    float greatest = top[0];
    for (int j = 1; j < 8; ++j) greatest = std::max(greatest, top[j]);
    V8 total = {};
    for (int64_t i = 0; i < count; i += 8) {
      const V8 scores = load<V8>(score + i);
      const V8 weight = scores > -1e30f ? exp_(scores - greatest) : V8{};
      total += weight;
      store(score + i, weight);
    }
    float share = total[0];
    for (int j = 1; j < 8; ++j) share += total[j];
    share = 1.0f / share;
    V8 mixed[(PART ? PART : MOST_PART) / 8] = {};
    for (int64_t i = 0; i < count; ++i) {
      const float* value = rows[i] + width + h * part;
      for (int64_t e = 0; e < part; e += 8) mixed[e / 8] += load<V8>(value + e) * score[i];
    }
    for (int64_t e = 0; e < part; e += 8) store(out + h * part + e, mixed[e / 8] * share);
  }
}

using Attend = void (*)(const float*, const float* const*, int64_t, int64_t, int64_t, float*, float*);

Attend attention_for(int64_t part) {
  return part == 32 ? attend<32> : part == 64 ? attend<64> : part == 128 ? attend<128> : attend<0>;
}

inline int64_t eights(int64_t count) { return (count + 7) / 8 * 8; }

struct Candidate {
  float value;
  int64_t beam, word;
};

// Puts a candidate in its place among `best`, which is sorted, best first; the last one falls out.
inline void insert(std::vector<Candidate>& best, Candidate found) {
  size_t place = best.size() - 1;
  for (; place > 0 && best[place - 1].value < found.value; --place) best[place] = best[place - 1];
  best[place] = found;
}

// The greatest of BLOCK numbers.
inline float greatest_of(const float* from) {
  V16 top = load<V16>(from);
  for (int64_t v = 16; v < BLOCK; v += 16) {
    const V16 next = load<V16>(from + v);
    top = next > top ? next : top;
  }
  float found = top[0];
  for (int j = 1; j < 16; ++j) found = std::max(found, top[j]);
  return found;
}

}  // namespace

extern "C" {

// qkv: (B·W, 3·D). cache: (A, P positions, K, 2·D); the new rows are written at position T. path: (B, W, T), which beam
// of each past position is the beam's ancestor. out: (B·W, D).
void self_attention(const float* qkv, float* cache, const int64_t* path, const int64_t* home, int64_t B, int64_t W,
                    int64_t T, int64_t P, int64_t K, int64_t heads, int64_t D, int threads, float* out) {
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<const float*> rows(eights(T + 1));
    std::vector<float> score(rows.size());
    const Attend attend = attention_for(D / heads);
#pragma omp for
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t w = 0; w < W; ++w) {
        const int64_t n = b * W + w;
        float* own = cache + ((home[b] * P + T) * K + w) * 2 * D;
        std::memcpy(own, qkv + n * 3 * D + D, 2 * D * sizeof(float));
        for (int64_t t = 0; t < T; ++t) rows[t] = cache + ((home[b] * P + t) * K + path[n * T + t]) * 2 * D;
        std::fill(rows.begin() + T, rows.end(), own);
        attend(qkv + n * 3 * D, rows.data(), T + 1, heads, D, score.data(), out + n * D);
      }
    }
  }
}

// q: (B·W, D). memory: (A, S, 2·D), of which the first `length` rows count. out: (B·W, D).
void cross_attention(const float* q, const float* memory, const int64_t* length, const int64_t* home, int64_t B,
                     int64_t W, int64_t S, int64_t heads, int64_t D, int threads, float* out) {
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<const float*> rows(eights(S));
    std::vector<float> score(rows.size());
    const Attend attend = attention_for(D / heads);
#pragma omp for
    for (int64_t b = 0; b < B; ++b) {
      const int64_t count = length[home[b]];
      for (int64_t s = 0; s < eights(count); ++s) rows[s] = memory + (home[b] * S + std::min(s, count - 1)) * 2 * D;
      for (int64_t n = b * W; n < (b + 1) * W; ++n)
        attend(q + n * D, rows.data(), count, heads, D, score.data(), out + n * D);
    }
  }
}

// logits: (B·W, V). score: (B, W), summed log-probabilities. value, beam, word: (B, C), best first. Banned words count in
// the normalisation but are not chosen.
void best_words(const float* logits, const float* score, int64_t B, int64_t W, int64_t V, const int64_t* banned,
                int64_t banned_count, int64_t C, int threads, float* value, int64_t* beam, int64_t* word) {
  const int64_t blocks = (V + BLOCK - 1) / BLOCK;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<float> top(blocks);
#pragma omp for
    for (int64_t b = 0; b < B; ++b) {
      std::vector<Candidate> best(C, {-std::numeric_limits<float>::infinity(), 0, 0});
      for (int64_t w = 0; w < W; ++w) {
        const float* row = logits + (b * W + w) * V;
        const int64_t whole = V / BLOCK * BLOCK;
        float greatest = row[0];
        for (int64_t k = 0; k < blocks; ++k) {
          top[k] = k * BLOCK < whole ? greatest_of(row + k * BLOCK) : *std::max_element(row + whole, row + V);
          greatest = std::max(greatest, top[k]);
        }
        V16 many = {};
        for (int64_t v = 0; v < whole; v += 16) many += exp_(load<V16>(row + v) - greatest);
        float sum = 0.0f;
        for (int j = 0; j < 16; ++j) sum += many[j];
        for (int64_t v = whole; v < V; ++v) sum += std::exp(row[v] - greatest);
        const float base = score[b * W + w] - greatest - std::log(sum);
        for (int64_t k = 0; k < blocks; ++k) {
          if (!(top[k] + base > best[C - 1].value)) continue;
          const int64_t to = std::min(V, (k + 1) * BLOCK);
          for (int64_t v = k * BLOCK; v < to; ++v) {
            const float found = row[v] + base;
            if (found > best[C - 1].value && std::find(banned, banned + banned_count, v) == banned + banned_count)
              insert(best, {found, w, v});
          }
        }
      }
      for (int64_t c = 0; c < C; ++c) {
        value[b * C + c] = best[c].value;
        beam[b * C + c] = best[c].beam;
        word[b * C + c] = best[c].word;
      }
    }
  }
}
}
