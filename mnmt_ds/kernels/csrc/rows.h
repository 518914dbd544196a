// The arithmetic of one token's row of logits, once: the C++ and the CUDA build both compile this file.
//
// F is what a thread computes with: on a GPU one float (a thread's part of one row), on a CPU a SIMD vector (one row in
// each lane). Rows are read in blocks: update() adds a block of logits to running statistics, merge() joins two
// threads' statistics, gradient() turns a word's logits into its derivatives. See reference.py for the definition.
//
// Letters: K passes, J teachers, V vocabulary, T a teacher's temperature, z a student's logit, y a teacher's.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#define INLINE __host__ __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#define INLINE inline __attribute__((always_inline))
#endif

namespace mnmt {

constexpr int MAX_PASSES = 4;  // on a CPU; 2 on a GPU, where every combination is compiled for every dtype
constexpr int MAX_TEACHERS = 2;
// Below every logit, yet finite: LOWEST - LOWEST is 0, where -inf - -inf would be NaN.
constexpr float LOWEST = -FLT_MAX;

// Rows of packed statistics (cpu.h) for a pass, and for a teacher.
constexpr int PASS_ROWS = 5;
constexpr INLINE int teacher_rows(int passes) { return 6 + 3 * passes; }

// What F must offer; here for F = float, in lanes.h for SIMD vectors.
template <class F>
struct Ops {
  static INLINE F broadcast(float x) { return x; }
  static INLINE F select(bool condition, F yes, F no) { return condition ? yes : no; }
  static INLINE F exponential(F x) {
#ifdef __CUDA_ARCH__
    float y;  // two instructions; __expf has five more for results below 2^-126, which are 0 here
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
    return y;
#else
    return std::exp(x);
#endif
  }
};

// yes where the condition holds, else no.
template <class C, class F>
INLINE F select(C condition, F yes, F no) {
  return Ops<F>::select(condition, yes, no);
}

// e^x.
template <class F>
INLINE F exponential(F x) {
  return Ops<F>::exponential(x);
}

// The larger of two.
template <class F>
INLINE F larger(F a, F b) {
  return select(a > b, a, b);
}
INLINE float larger(float a, float b) { return fmaxf(a, b); }  // one instruction on a GPU

// A running log-sum-exp: sum_v exp(x_v), kept as the largest x and the sum of exp(x - max).
template <class F>
struct LogSumExp {
  F max, sum;
  static INLINE LogSumExp empty() { return {Ops<F>::broadcast(LOWEST), Ops<F>::broadcast(0.f)}; }
};

// The log-sum-exp of the words of both.
template <class F>
INLINE LogSumExp<F> merge(const LogSumExp<F>& a, const LogSumExp<F>& b) {
  const F max = larger(a.max, b.max);
  return {max, a.sum * exponential(a.max - max) + b.sum * exponential(b.max - max)};
}

// The word of the larger logit; of equal ones the first.
template <class F>
INLINE F merge_argmax(const LogSumExp<F>& a, F argmax_a, const LogSumExp<F>& b, F argmax_b) {
  const F first = select(argmax_b < argmax_a, argmax_b, argmax_a);
  return select(b.max > a.max, argmax_b, select(a.max > b.max, argmax_a, first));
}

// Running statistics of a student's row: log-sum-exp, the plain sum of logits (for label smoothing), the most probable
// word. On a GPU that is the first word of the block that holds it while blocks are added; the caller then finds it.
template <class F>
struct StudentStatistics {
  LogSumExp<F> lse;
  F logit_sum, argmax;
  static INLINE StudentStatistics empty() {
    return {LogSumExp<F>::empty(), Ops<F>::broadcast(0.f), Ops<F>::broadcast(0.f)};
  }
};

// The statistics of the words of both.
template <class F>
INLINE StudentStatistics<F> merge(const StudentStatistics<F>& a, const StudentStatistics<F>& b) {
  return {merge(a.lse, b.lse), a.logit_sum + b.logit_sum, merge_argmax(a.lse, a.argmax, b.lse, b.argmax)};
}

// The largest of n logits and of those before, and its word (F = float: its block).
template <bool WITH_ARGMAX, class F, class Z>
INLINE F update_max(F max, F& argmax, Z z, int n, int first) {
  if constexpr (std::is_same_v<F, float>) {
    const F before = max;
    UNROLL for (int i = 0; i < n; ++i) max = larger(z(i), max);
    if (WITH_ARGMAX) argmax = max > before ? float(first) : argmax;
  } else {
    UNROLL for (int i = 0; i < n; ++i) {
      const F x = z(i);
      const auto is_higher = x > max;
      max = select(is_higher, x, max);
      if (WITH_ARGMAX) argmax = select(is_higher, Ops<F>::broadcast(float(first + i)), argmax);
    }
  }
  return max;
}

// Adds n words to a student's statistics. z(i): the logits of words first .. first + n - 1; z_or_zero(i): the same, or
// 0 where z(i) is LOWEST because there is no such word. WITH_ARGMAX: also keep the most probable word.
template <bool WITH_ARGMAX, class F, class Z, class P>
INLINE void update(StudentStatistics<F>& s, Z z, P z_or_zero, int n, int first) {
  const F max = update_max<WITH_ARGMAX>(s.lse.max, s.argmax, z, n, first);
  F sum = Ops<F>::broadcast(0.f), logit_sum = Ops<F>::broadcast(0.f);
  UNROLL for (int i = 0; i < n; ++i) {
    sum += exponential(z(i) - max);
    logit_sum += z_or_zero(i);
  }
  s.lse.sum = s.lse.sum * exponential(s.lse.max - max) + sum;
  s.lse.max = max;
  s.logit_sum += logit_sum;
}

// Adds n words to a log-sum-exp alone, of logits times a scale (a distribution at another temperature).
template <class F, class Z>
INLINE void update(LogSumExp<F>& lse, Z z, int n, float scale) {
  F max = lse.max;
  UNROLL for (int i = 0; i < n; ++i) max = larger(z(i) * scale, max);
  F sum = Ops<F>::broadcast(0.f);
  UNROLL for (int i = 0; i < n; ++i) sum += exponential(z(i) * scale - max);
  lse.sum = lse.sum * exponential(lse.max - max) + sum;
  lse.max = max;
}

// Running statistics of a teacher's row, at its temperature, beside K students:
// dot[k] / lse.sum = sum_v p_teacher(v) * z_k(v).
template <class F, int K>
struct TeacherStatistics {
  LogSumExp<F> lse;
  F dot[K];
  F argmax;
  static INLINE TeacherStatistics empty() {
    TeacherStatistics t;
    t.lse = LogSumExp<F>::empty();
    UNROLL for (int k = 0; k < K; ++k) t.dot[k] = Ops<F>::broadcast(0.f);
    t.argmax = Ops<F>::broadcast(0.f);
    return t;
  }
};

// The statistics of the words of both.
template <class F, int K>
INLINE TeacherStatistics<F, K> merge(const TeacherStatistics<F, K>& a, const TeacherStatistics<F, K>& b) {
  TeacherStatistics<F, K> t;
  t.lse = merge(a.lse, b.lse);
  const F factor_a = exponential(a.lse.max - t.lse.max), factor_b = exponential(b.lse.max - t.lse.max);
  UNROLL for (int k = 0; k < K; ++k) t.dot[k] = a.dot[k] * factor_a + b.dot[k] * factor_b;
  t.argmax = merge_argmax(a.lse, a.argmax, b.lse, b.argmax);
  return t;
}

// Adds n words to a teacher's statistics. y(i): the teacher's logits, z(k, i): the students', 0 where there is no such
// word; scale: 1 / T.
template <class F, int K, class Y, class Z>
INLINE void update(TeacherStatistics<F, K>& t, Y y, Z z, int n, int first, float scale) {
  const F max = update_max<true>(t.lse.max, t.argmax, [&](int i) { return y(i) * scale; }, n, first);
  F sum = Ops<F>::broadcast(0.f), dot[K];
  UNROLL for (int k = 0; k < K; ++k) dot[k] = Ops<F>::broadcast(0.f);
  UNROLL for (int i = 0; i < n; ++i) {
    const F e = exponential(y(i) * scale - max);
    sum += e;
    UNROLL for (int k = 0; k < K; ++k) dot[k] += e * z(k, i);
  }
  const F factor = exponential(t.lse.max - max);
  t.lse = {max, t.lse.sum * factor + sum};
  UNROLL for (int k = 0; k < K; ++k) t.dot[k] = t.dot[k] * factor + dot[k];
}

// log sum_v exp(x_v) in two parts, max + log_sum, since x - max is exact where x - (max + log_sum) is not: logits may
// be 1e4, log_sum is small.
template <class F>
struct LogNormalizer {
  F max, log_sum;
  INLINE F log_probability(F x) const { return (x - max) - log_sum; }  // of a word with logit x
};

// The finished log-sum-exp.
INLINE LogNormalizer<float> log_normalizer(const LogSumExp<float>& lse) { return {lse.max, logf(lse.sum)}; }

// Running sums of K passes' X-divergence: value = 1/K sum_kv (p_k - mean p)(a_k - mean a), a = log p;
// expected_log_ratio[k] = sum_v p_k (a_k - mean a), which the gradient needs.
template <class F, int K>
struct DivergenceSums {
  F value, expected_log_ratio[K];
  static INLINE DivergenceSums empty() {
    DivergenceSums d;
    d.value = Ops<F>::broadcast(0.f);
    UNROLL for (int k = 0; k < K; ++k) d.expected_log_ratio[k] = Ops<F>::broadcast(0.f);
    return d;
  }
};

// Adds one word to the X-divergence: the passes' logits z, given their log-normalizers.
template <class F, int K>
INLINE void update(DivergenceSums<F, K>& d, const F (&z)[K], const LogNormalizer<F> (&student)[K]) {
  F a[K], p[K], mean_a = Ops<F>::broadcast(0.f), mean_p = Ops<F>::broadcast(0.f);
  UNROLL for (int k = 0; k < K; ++k) {
    a[k] = student[k].log_probability(z[k]);
    p[k] = exponential(a[k]);
    mean_a += a[k] * (1.f / K);
    mean_p += p[k] * (1.f / K);
  }
  UNROLL for (int k = 0; k < K; ++k) {
    d.value += (p[k] - mean_p) * (a[k] - mean_a) * (1.f / K);
    d.expected_log_ratio[k] += p[k] * (a[k] - mean_a);
  }
}

// The constants of a token's gradient, the factor 1/K of the mean over passes included.
template <class F, int K, int J>
struct GradientCoefficients {
  LogNormalizer<F> student[K];
  F student_factor[K];      // of p_k: gold weight and the teachers at temperature 1
  F expected_log_ratio[K];  // of DivergenceSums
  F smoothing_term;         // gold weight * smoothing / V
  F divergence;             // weight of the X-divergence
  LogNormalizer<F> teacher[J + 1];                    // at the teacher's temperature; (+ 1: no array of size 0)
  LogNormalizer<F> student_at_temperature[J + 1][K];  // at the teacher's temperature, where that is not 1
  F kd_factor[J + 1][K];                              // T * weight * gate
  float scale[J + 1];                                 // 1 / T
};

// One word's derivatives, but for the gold word's -(1 - smoothing). z: the passes' logits, y: the teachers'. TEMPERED:
// some teacher's temperature may not be 1.
template <class F, int K, int J, bool TEMPERED = true>
INLINE void gradient(const GradientCoefficients<F, K, J>& c, const F (&z)[K], const F (&y)[J + 1], F (&out)[K]) {
  F a[K], p[K];
  UNROLL for (int k = 0; k < K; ++k) {
    a[k] = c.student[k].log_probability(z[k]);
    p[k] = exponential(a[k]);
    out[k] = c.student_factor[k] * p[k] - c.smoothing_term;
  }
  UNROLL for (int j = 0; j < J; ++j) {
    const F q = exponential(c.teacher[j].log_probability(TEMPERED ? y[j] * c.scale[j] : y[j]));
    UNROLL for (int k = 0; k < K; ++k) {
      out[k] -= c.kd_factor[j][k] * q;
      if (TEMPERED && c.scale[j] != 1.f)
        out[k] += c.kd_factor[j][k] * exponential(c.student_at_temperature[j][k].log_probability(z[k] * c.scale[j]));
    }
  }
  if (K > 1) {
    F mean_a = Ops<F>::broadcast(0.f), mean_p = Ops<F>::broadcast(0.f);
    UNROLL for (int k = 0; k < K; ++k) {
      mean_a += a[k] * (1.f / K);
      mean_p += p[k] * (1.f / K);
    }
    UNROLL for (int k = 0; k < K; ++k)
      out[k] += c.divergence * (p[k] * (a[k] - mean_a - c.expected_log_ratio[k]) + (p[k] - mean_p));
  }
}

// What decides a teacher's gate; kind: 0 whole, 1 selective, 2 adaptive (gates.py: GATE_KINDS).
struct GateRule {
  int kind, strict;
  float cap, below;
};

// A gate from the gold probabilities of teacher and student (types.py: Gate).
INLINE float gate(const GateRule& rule, float teacher, float student) {
  if (rule.kind == 0) return 1.f;
  if (rule.kind == 1) return (rule.strict ? teacher > student : teacher >= student) ? 1.f : rule.below;
  const float ratio = teacher == student ? 1.f : teacher / student;  // 0 / 0: neither is better
  return ratio < rule.cap ? ratio : rule.cap;
}

// What a token's coefficients are made from: its statistics, and what the caller gives.
template <int K, int J>
struct TokenState {
  LogNormalizer<float> student[K], teacher[J + 1], student_at_temperature[J + 1][K];
  float expected_log_ratio[K], gate[J + 1][K];
  float weight, teacher_weight[J + 1], temperature[J + 1];
};

// A token's coefficients. gradient_scale: 1, or what keeps half-precision gradients in range. gold: what the gold
// word's derivative loses.
template <int K, int J>
INLINE GradientCoefficients<float, K, J> make_coefficients(const TokenState<K, J>& t, float smoothing, float vocab_size,
                                                           float divergence_weight, float gradient_scale, float* gold) {
  GradientCoefficients<float, K, J> c;
  const float weight = t.weight * gradient_scale / K;
  c.smoothing_term = weight * smoothing / vocab_size;
  c.divergence = divergence_weight * gradient_scale / K;
  *gold = weight * (1.f - smoothing);
  UNROLL for (int k = 0; k < K; ++k) {
    c.student[k] = t.student[k];
    c.expected_log_ratio[k] = t.expected_log_ratio[k];
    c.student_factor[k] = weight;
  }
  UNROLL for (int j = 0; j < J; ++j) {
    c.scale[j] = 1.f / t.temperature[j];
    c.teacher[j] = t.teacher[j];
    UNROLL for (int k = 0; k < K; ++k) {
      c.student_at_temperature[j][k] = t.student_at_temperature[j][k];
      c.kd_factor[j][k] = t.teacher_weight[j] * t.gate[j][k] * t.temperature[j] * gradient_scale / K;
      if (t.temperature[j] == 1.f) c.student_factor[k] += c.kd_factor[j][k];
    }
  }
  return c;
}

}  // namespace mnmt
