// The arithmetic of one token's row, once: the C++ and the CUDA build both compile this file.
//
// F is what a thread computes with: on a GPU one float (a thread's part of one row), on a CPU a SIMD vector (one row in
// each lane). Rows are read in blocks: absorb() folds a block of logits into running statistics, merge() joins two
// threads' statistics, gradient() turns a word's logits into its derivatives. See reference.py for the definition.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define ROW __host__ __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#define ROW inline __attribute__((always_inline))
#endif

namespace mnmt {

constexpr int MOST_PASSES = 4;  // on a CPU; 2 on a GPU, where every combination is compiled for every dtype
constexpr int MOST_TEACHERS = 2;
// Below every logit, yet finite: LOWEST - LOWEST is 0, where -inf - -inf would be NaN.
constexpr float LOWEST = -FLT_MAX;

// Rows of `found` (cpu.h) for a pass, and for a teacher.
constexpr int PASS_ROWS = 5;
constexpr ROW int teacher_rows(int passes) { return 6 + 3 * passes; }

// What F must offer; here for F = float, in lanes.h for SIMD vectors.
template <class F>
struct Of {
  static ROW F number(float x) { return x; }
  static ROW F choose(bool condition, F yes, F no) { return condition ? yes : no; }
  static ROW F exponential(F x) {
#ifdef __CUDA_ARCH__
    return __expf(x);
#else
    return std::exp(x);
#endif
  }
};
template <class C, class F>
ROW F choose(C condition, F yes, F no) {
  return Of<F>::choose(condition, yes, no);
}
template <class F>
ROW F exponential(F x) {
  return Of<F>::exponential(x);
}
template <class F>
ROW F larger(F a, F b) {
  return choose(a > b, a, b);
}

// sum_v exp(x_v), kept as the largest x and the sum of exp(x - top).
template <class F>
struct Mass {
  F top, sum;
  static ROW Mass none() { return {Of<F>::number(LOWEST), Of<F>::number(0.f)}; }
};

template <class F>
ROW Mass<F> merge(const Mass<F>& a, const Mass<F>& b) {
  const F top = larger(a.top, b.top);
  return {top, a.sum * exponential(a.top - top) + b.sum * exponential(b.top - top)};
}

// The word of the larger top; of equal ones the first.
template <class F>
ROW F favourite(const Mass<F>& a, F best_a, const Mass<F>& b, F best_b) {
  const F first = choose(best_b < best_a, best_b, best_a);
  return choose(b.top > a.top, best_b, choose(a.top > b.top, best_a, first));
}

// A distribution's mass, its most probable word, and the plain sum of its logits (for label smoothing).
template <class F>
struct Student {
  Mass<F> mass;
  F total, best;
  static ROW Student none() { return {Mass<F>::none(), Of<F>::number(0.f), Of<F>::number(0.f)}; }
};

template <class F>
ROW Student<F> merge(const Student<F>& a, const Student<F>& b) {
  return {merge(a.mass, b.mass), a.total + b.total, favourite(a.mass, a.best, b.mass, b.best)};
}

// z(i): the logits of words first .. first + n - 1; plain(i): the same, or 0 where z(i) is LOWEST because there is no
// such word. FAVOURITE: also keep the most probable word.
template <bool FAVOURITE, class F, class Z, class P>
ROW void absorb(Student<F>& s, Z z, P plain, int n, int first) {
  F top = s.mass.top;
  UNROLL for (int i = 0; i < n; ++i) {
    const F x = z(i);
    const auto higher = x > top;
    top = choose(higher, x, top);
    if (FAVOURITE) s.best = choose(higher, Of<F>::number(float(first + i)), s.best);
  }
  F sum = Of<F>::number(0.f), total = Of<F>::number(0.f);
  UNROLL for (int i = 0; i < n; ++i) {
    sum += exponential(z(i) - top);
    total += plain(i);
  }
  s.mass.sum = s.mass.sum * exponential(s.mass.top - top) + sum;
  s.mass.top = top;
  s.total += total;
}

// Mass alone, of logits times a scale (a distribution at another temperature).
template <class F, class Z>
ROW void absorb(Mass<F>& m, Z z, int n, float scale) {
  F top = m.top;
  UNROLL for (int i = 0; i < n; ++i) top = larger(z(i) * scale, top);
  F sum = Of<F>::number(0.f);
  UNROLL for (int i = 0; i < n; ++i) sum += exponential(z(i) * scale - top);
  m.sum = m.sum * exponential(m.top - top) + sum;
  m.top = top;
}

// A teacher at its temperature beside K students: dot[k] / mass.sum = sum_v p_teacher(v) * z_k(v).
template <class F, int K>
struct Teacher {
  Mass<F> mass;
  F dot[K];
  F best;
  static ROW Teacher none() {
    Teacher t;
    t.mass = Mass<F>::none();
    UNROLL for (int k = 0; k < K; ++k) t.dot[k] = Of<F>::number(0.f);
    t.best = Of<F>::number(0.f);
    return t;
  }
};

template <class F, int K>
ROW Teacher<F, K> merge(const Teacher<F, K>& a, const Teacher<F, K>& b) {
  Teacher<F, K> t;
  t.mass = merge(a.mass, b.mass);
  const F of_a = exponential(a.mass.top - t.mass.top), of_b = exponential(b.mass.top - t.mass.top);
  UNROLL for (int k = 0; k < K; ++k) t.dot[k] = a.dot[k] * of_a + b.dot[k] * of_b;
  t.best = favourite(a.mass, a.best, b.mass, b.best);
  return t;
}

// y(i): the teacher's logits, z(k, i): the students', 0 where there is no such word.
template <class F, int K, class Y, class Z>
ROW void absorb(Teacher<F, K>& t, Y y, Z z, int n, int first, float scale) {
  F top = t.mass.top;
  UNROLL for (int i = 0; i < n; ++i) {
    const F x = y(i) * scale;
    const auto higher = x > top;
    top = choose(higher, x, top);
    t.best = choose(higher, Of<F>::number(float(first + i)), t.best);
  }
  F sum = Of<F>::number(0.f), dot[K];
  UNROLL for (int k = 0; k < K; ++k) dot[k] = Of<F>::number(0.f);
  UNROLL for (int i = 0; i < n; ++i) {
    const F e = exponential(y(i) * scale - top);
    sum += e;
    UNROLL for (int k = 0; k < K; ++k) dot[k] += e * z(k, i);
  }
  const F fade = exponential(t.mass.top - top);
  t.mass = {top, t.mass.sum * fade + sum};
  UNROLL for (int k = 0; k < K; ++k) t.dot[k] = t.dot[k] * fade + dot[k];
}

// log sum_v exp(x_v) in two parts, since x - top is exact where x - (top + log) is not: logits may be 1e4, log is small.
template <class F>
struct Level {
  F top, log;
  ROW F under(F x) const { return (x - top) - log; }  // log-probability of a word with logit x
};

ROW Level<float> level(const Mass<float>& m) { return {m.top, logf(m.sum)}; }

// X-divergence of K passes, given their levels: value = 1/K sum_kv (p_k - mean p)(a_k - mean a), a = log p;
// lean[k] = sum_v p_k (a_k - mean a), which the gradient needs.
template <class F, int K>
struct Divergence {
  F value, lean[K];
  static ROW Divergence none() {
    Divergence d;
    d.value = Of<F>::number(0.f);
    UNROLL for (int k = 0; k < K; ++k) d.lean[k] = Of<F>::number(0.f);
    return d;
  }
};

template <class F, int K>
ROW void absorb(Divergence<F, K>& d, const F (&z)[K], const Level<F> (&pass)[K]) {
  F a[K], p[K], mean_a = Of<F>::number(0.f), mean_p = Of<F>::number(0.f);
  UNROLL for (int k = 0; k < K; ++k) {
    a[k] = pass[k].under(z[k]);
    p[k] = exponential(a[k]);
    mean_a += a[k] * (1.f / K);
    mean_p += p[k] * (1.f / K);
  }
  UNROLL for (int k = 0; k < K; ++k) {
    d.value += (p[k] - mean_p) * (a[k] - mean_a) * (1.f / K);
    d.lean[k] += p[k] * (a[k] - mean_a);
  }
}

// All that a token's gradient needs, the factor 1/K of the mean over passes included.
template <class F, int K, int J>
struct Slope {
  Level<F> pass[K];
  F mass[K];     // factor of p_k: gold weight and the teachers at temperature 1
  F lean[K];     // of Divergence
  F floor;       // gold weight * smoothing / V
  F divergence;  // weight of the X-divergence
  Level<F> teacher[J + 1];  // at the teacher's temperature; (+ 1: no array of size 0)
  Level<F> warm[J + 1][K];  // the student's at the teacher's temperature, where that is not 1
  F pull[J + 1][K];         // T * weight * gate
  float scale[J + 1];       // 1 / T
};

// z: the passes' logits of a word, y: the teachers'; out: the derivatives, but for the gold word's -(1 - smoothing).
template <class F, int K, int J>
ROW void gradient(const Slope<F, K, J>& s, const F (&z)[K], const F (&y)[J + 1], F (&out)[K]) {
  F a[K], p[K];
  UNROLL for (int k = 0; k < K; ++k) {
    a[k] = s.pass[k].under(z[k]);
    p[k] = exponential(a[k]);
    out[k] = s.mass[k] * p[k] - s.floor;
  }
  UNROLL for (int j = 0; j < J; ++j) {
    const F q = exponential(s.teacher[j].under(y[j] * s.scale[j]));
    UNROLL for (int k = 0; k < K; ++k) {
      out[k] -= s.pull[j][k] * q;
      if (s.scale[j] != 1.f) out[k] += s.pull[j][k] * exponential(s.warm[j][k].under(z[k] * s.scale[j]));
    }
  }
  if (K > 1) {
    F mean_a = Of<F>::number(0.f), mean_p = Of<F>::number(0.f);
    UNROLL for (int k = 0; k < K; ++k) {
      mean_a += a[k] * (1.f / K);
      mean_p += p[k] * (1.f / K);
    }
    UNROLL for (int k = 0; k < K; ++k) out[k] += s.divergence * (p[k] * (a[k] - mean_a - s.lean[k]) + (p[k] - mean_p));
  }
}

// What decides a teacher's gate; kind: 0 whole, 1 selective, 2 adaptive.
struct GateRule {
  int kind, strict;
  float cap, below;
};

ROW float gate(const GateRule& rule, float teacher, float student) {
  if (rule.kind == 0) return 1.f;
  if (rule.kind == 1) return (rule.strict ? teacher > student : teacher >= student) ? 1.f : rule.below;
  const float ratio = teacher == student ? 1.f : teacher / student;  // 0 / 0 is a draw too
  return ratio < rule.cap ? ratio : rule.cap;
}

// What a token knows before its gradient: found by the passes over the row, or given by the caller.
template <int K, int J>
struct Known {
  Level<float> pass[K], teacher[J + 1], warm[J + 1][K];
  float lean[K], gate[J + 1][K];
  float weight, teacher_weight[J + 1], temperature[J + 1];
};

// unit: 1, or what keeps half-precision gradients in range. gold: what the gold word's derivative loses.
template <int K, int J>
ROW Slope<float, K, J> make_slope(const Known<K, J>& t, float smoothing, float words, float divergence_weight,
                                  float unit, float* gold) {
  Slope<float, K, J> s;
  const float weight = t.weight * unit / K;
  s.floor = weight * smoothing / words;
  s.divergence = divergence_weight * unit / K;
  *gold = weight * (1.f - smoothing);
  UNROLL for (int k = 0; k < K; ++k) {
    s.pass[k] = t.pass[k];
    s.lean[k] = t.lean[k];
    s.mass[k] = weight;
  }
  UNROLL for (int j = 0; j < J; ++j) {
    s.scale[j] = 1.f / t.temperature[j];
    s.teacher[j] = t.teacher[j];
    UNROLL for (int k = 0; k < K; ++k) {
      s.warm[j][k] = t.warm[j][k];
      s.pull[j][k] = t.teacher_weight[j] * t.gate[j][k] * t.temperature[j] * unit / K;
      if (t.temperature[j] == 1.f) s.mass[k] += s.pull[j][k];
    }
  }
  return s;
}

}  // namespace mnmt
