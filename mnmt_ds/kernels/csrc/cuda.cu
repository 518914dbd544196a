#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "cuda.h"

namespace mnmt {

namespace {

constexpr int THREADS = 512;  // of a block
constexpr int WARPS = THREADS / 32;

// To float32.
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
// From float32.
__device__ __forceinline__ void narrow(float x, float* to) { *to = x; }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16* to) { *to = __float2bfloat16(x); }
// half overflows at 65504: a saturated gradient is wrong, an infinite one ruins the weights unseen
__device__ __forceinline__ void narrow(float x, __half* to) { *to = __float2half(fminf(fmaxf(x, -65504.f), 65504.f)); }

// 16 bytes of a row.
template <class T>
struct alignas(16) Pack {
  static constexpr int SIZE = 16 / sizeof(T);
  T at[SIZE];
};

// Whether a token's rows are in shared memory, and who brings them: each thread what it reads, or bulk copies of THREADS
// packs each, all of which are on their way at once (from sm_90 on; before, threads bring them all the same).
enum class Staging { none, threads, bulk };
#if (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900) || defined(GPU_ON_CPU)
constexpr bool HAS_BULK = true;
#else
constexpr bool HAS_BULK = false;
#endif
constexpr int MOST_PARTS = 28;  // of a row that fits into shared memory

#ifndef GPU_ON_CPU
// Counts the bytes of a part that have arrived.
using Barrier = unsigned long long;

__device__ __forceinline__ unsigned shared_address(const void* at) { return unsigned(__cvta_generic_to_shared(at)); }
__device__ __forceinline__ void init_barriers(Barrier* barriers, int count) {
#if __CUDA_ARCH__ >= 900
  for (int i = 0; i < count; ++i)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barriers + i)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ __forceinline__ void expect_bytes(Barrier* barrier, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#endif
}
__device__ __forceinline__ void bulk_load(void* to, const void* from, unsigned bytes, Barrier* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
#endif
}
__device__ __forceinline__ void wait_for(Barrier* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .pred here;\nAGAIN_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 here, [%0], 0;\n@!here bra AGAIN_%=;\n}" ::"r"(shared_address(barrier))
      : "memory");
#endif
}
#endif

// A whole struct from the lane that is `by` further on.
template <class S>
__device__ __forceinline__ S shuffle_down(const S& s, int by) {
  static_assert(sizeof(S) % 4 == 0);
  S other;
  const float* from = reinterpret_cast<const float*>(&s);
  float* to = reinterpret_cast<float*>(&other);
#pragma unroll
  for (int i = 0; i < int(sizeof(S) / 4); ++i) to[i] = __shfl_down_sync(0xffffffffu, from[i], by);
  return other;
}

// The sums of the words of both.
template <class F, int K>
INLINE DivergenceSums<F, K> merge(const DivergenceSums<F, K>& a, const DivergenceSums<F, K>& b) {
  DivergenceSums<F, K> d;
  d.value = a.value + b.value;
  UNROLL for (int k = 0; k < K; ++k) d.expected_log_ratio[k] = a.expected_log_ratio[k] + b.expected_log_ratio[k];
  return d;
}

// Merges all threads' statistics; the result is thread 0's. `reduction`: shared memory for WARPS of S.
template <class S>
__device__ S reduce(S s, S* reduction) {
#pragma unroll
  for (int by = 16; by; by /= 2) s = merge(s, shuffle_down(s, by));
  __syncthreads();
  if (threadIdx.x % 32 == 0) reduction[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x < 32) {
    s = reduction[threadIdx.x < WARPS ? threadIdx.x : 0];
#pragma unroll
    for (int by = WARPS / 2; by; by /= 2) s = merge(s, shuffle_down(s, by));
  }
  return s;
}

// Shared memory of a block.
template <int K, int J>
struct Shared {
  union {
    StudentStatistics<float> student[WARPS];
    TeacherStatistics<float, K> teacher[WARPS];
    LogSumExp<float> lse[WARPS];
    DivergenceSums<float, K> divergence[WARPS];
  } reduction;
  TokenState<K, J> state;
  GradientCoefficients<float, K, J> coefficients;
  LogNormalizer<float> teacher_at_one[J + 1];
  float gold_logit[K], teacher_gold[J + 1], gold;
  Barrier arrived[MOST_PARTS];
};

// A token's rows of logits. Staged ones are copied into shared memory, where all steps find them: by `begin_copies`, or
// each pack by the thread that first reads it, which alone reads it again, so no barrier is needed.
template <class T, int K, int J, Staging S>
struct TokenRows {
  using P = Pack<T>;
  static constexpr bool STAGED = S != Staging::none, BULK = S == Staging::bulk && HAS_BULK;
  T* student;
  const T* teacher;
  int64_t pass_step, teacher_step;  // in T
  P* stage;
  int packs;

  // Asks for all rows, by one thread; `wait_for_part` is then called before a pack is read first.
  __device__ void begin_copies(Barrier* arrived) const {
    const int parts = (packs + THREADS - 1) / THREADS;
    init_barriers(arrived, parts);
#pragma unroll 1
    for (int part = 0; part < parts; ++part) {
      const int first = part * THREADS, count = packs - first < THREADS ? packs - first : THREADS;
      const unsigned bytes = count * sizeof(P);
      expect_bytes(arrived + part, (K + J) * bytes);
#pragma unroll
      for (int k = 0; k < K; ++k)
        bulk_load(stage + k * packs + first, reinterpret_cast<const P*>(student + k * pass_step) + first, bytes,
                  arrived + part);
#pragma unroll
      for (int j = 0; j < J; ++j)
        bulk_load(stage + (K + j) * packs + first, reinterpret_cast<const P*>(teacher + j * teacher_step) + first,
                  bytes, arrived + part);
    }
  }
  __device__ void wait_for_part(Barrier* arrived, int i) const {
    if constexpr (BULK) wait_for(arrived + i / THREADS);
  }
  __device__ P student_pack(int k, int i, bool is_first_read) const {
    if (STAGED && (BULK || !is_first_read)) return stage[k * packs + i];
    const P p = reinterpret_cast<const P*>(student + k * pass_step)[i];
    if (STAGED) stage[k * packs + i] = p;
    return p;
  }
  __device__ P teacher_pack(int j, int i, bool is_first_read) const {
    if (STAGED && (BULK || !is_first_read)) return stage[(K + j) * packs + i];
    const P p = reinterpret_cast<const P*>(teacher + j * teacher_step)[i];
    if (STAGED) stage[(K + j) * packs + i] = p;
    return p;
  }
};

// A teacher's logits, words outside its vocabulary far below all others.
template <bool MASKED, class T>
__device__ __forceinline__ void unpack_teacher(const Pack<T>& p, const bool* vocabulary, int first, int vocab_size,
                                               float* to) {
#pragma unroll
  for (int i = 0; i < Pack<T>::SIZE; ++i) to[i] = widen(p.at[i]);
  if (!MASKED || !vocabulary) return;
#pragma unroll
  for (int i = 0; i < Pack<T>::SIZE; ++i)
    if (first + i >= vocab_size || !vocabulary[first + i]) to[i] = LOWEST;
}

// Whether every teacher may use all words, at temperature 1: its loops are then shorter.
template <int J>
__device__ __forceinline__ bool is_plain(const RowArguments& a) {
  bool plain = true;
#pragma unroll
  for (int j = 0; j < J; ++j) plain = plain && !a.vocabulary[j] && a.temperature[j] == 1.f;
  return plain;
}

// The gold word's logits, by one thread.
template <class T, int K, int J, Staging S>
__device__ void read_gold(const RowArguments& a, const TokenRows<T, K, J, S>& rows, int64_t token,
                          Shared<K, J>& shared) {
  const int64_t gold = a.gold[token];
#pragma unroll
  for (int k = 0; k < K; ++k) shared.gold_logit[k] = widen(rows.student[k * rows.pass_step + gold]);
#pragma unroll
  for (int j = 0; j < J; ++j) {
    const bool allowed = !a.vocabulary[j] || a.vocabulary[j][gold];
    shared.teacher_gold[j] = allowed ? widen(rows.teacher[j * rows.teacher_step + gold]) : LOWEST;
  }
}

// From the pack that holds a thread's most probable word to that word: of equal ones the first.
template <class T, int K, int J, Staging S>
__device__ void find_argmax(const RowArguments& a, const TokenRows<T, K, J, S>& rows,
                            StudentStatistics<float> (&student)[K], TeacherStatistics<float, K> (&teacher)[J + 1]) {
  constexpr int SIZE = Pack<T>::SIZE;
  const auto word_of = [&](const float (&x)[SIZE], float scale, float max, float first) {
    float word = first;
#pragma unroll
    for (int i = SIZE - 1; i >= 0; --i)
      if (first + float(i) < float(a.vocab_size) && x[i] * scale == max) word = first + float(i);
    return word;
  };
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (student[k].lse.max == LOWEST) continue;  // no word yet: the pack of argmax is not this thread's
    const Pack<T> pack = rows.student_pack(k, int(student[k].argmax) / SIZE, false);
    float z[SIZE];
#pragma unroll
    for (int i = 0; i < SIZE; ++i) z[i] = widen(pack.at[i]);
    student[k].argmax = word_of(z, 1.f, student[k].lse.max, student[k].argmax);
  }
#pragma unroll
  for (int j = 0; j < J; ++j) {
    if (teacher[j].lse.max == LOWEST) continue;
    const int p = int(teacher[j].argmax) / SIZE;
    float y[SIZE];
    unpack_teacher<true>(rows.teacher_pack(j, p, false), a.vocabulary[j], p * SIZE, int(a.vocab_size), y);
    teacher[j].argmax = word_of(y, 1.f / a.temperature[j], teacher[j].lse.max, teacher[j].argmax);
  }
}

// Reads the rows once and writes a token's packed statistics.
template <class T, int K, int J, Staging S>
__device__ void compute_statistics(const RowArguments& a, const TokenRows<T, K, J, S>& rows, int64_t token,
                                Shared<K, J>& shared) {
  constexpr int SIZE = Pack<T>::SIZE;
  StudentStatistics<float> student[K];
  TeacherStatistics<float, K> teacher[J + 1];
  LogSumExp<float> teacher_at_one[J + 1], student_at_temperature[J + 1][K];
#pragma unroll
  for (int k = 0; k < K; ++k) student[k] = StudentStatistics<float>::empty();
#pragma unroll
  for (int j = 0; j < J; ++j) {
    teacher[j] = TeacherStatistics<float, K>::empty();
    teacher_at_one[j] = LogSumExp<float>::empty();
#pragma unroll
    for (int k = 0; k < K; ++k) student_at_temperature[j][k] = LogSumExp<float>::empty();
  }
  if constexpr (TokenRows<T, K, J, S>::BULK) {
    if (threadIdx.x == 0) rows.begin_copies(shared.arrived);
    __syncthreads();
  }
  if (threadIdx.x == 0) read_gold(a, rows, token, shared);
  const auto add_pack = [&]<bool FULL, bool PLAIN>(int p) {  // a row's last pack may hold fewer words
    const int first = p * SIZE, words = int(a.vocab_size);
    float z[K][SIZE], y[J + 1][SIZE];
    rows.wait_for_part(shared.arrived, p);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const Pack<T> pack = rows.student_pack(k, p, true);
#pragma unroll
      for (int i = 0; i < SIZE; ++i) z[k][i] = widen(pack.at[i]);
    }
#pragma unroll
    for (int j = 0; j < J; ++j)
      unpack_teacher<!PLAIN>(rows.teacher_pack(j, p, true), a.vocabulary[j], first, words, y[j]);
    const auto exists = [&](int i) { return FULL || first + i < words; };
#pragma unroll
    for (int k = 0; k < K; ++k) {
      update<(J > 0)>(student[k], [&](int i) { return exists(i) ? z[k][i] : LOWEST; },
                      [&](int i) { return exists(i) ? z[k][i] : 0.f; }, SIZE, first);
    }
#pragma unroll
    for (int j = 0; j < J; ++j) {
      const auto teacher_logit = [&](int i) { return exists(i) ? y[j][i] : LOWEST; };
      const float scale = PLAIN ? 1.f : 1.f / a.temperature[j];
      const auto student_logit = [&](int k, int i) { return exists(i) ? z[k][i] : 0.f; };
      update<float, K>(teacher[j], teacher_logit, student_logit, SIZE, first, scale);
      if (scale == 1.f) continue;
      update(teacher_at_one[j], teacher_logit, SIZE, 1.f);
#pragma unroll
      for (int k = 0; k < K; ++k)
        update(student_at_temperature[j][k], [&](int i) { return exists(i) ? z[k][i] : LOWEST; }, SIZE, scale);
    }
  };
  const int full = int(a.vocab_size / SIZE);
  const auto add_packs = [&]<bool PLAIN>() {
#pragma unroll 1
    for (int p = threadIdx.x; p < full; p += THREADS) add_pack.template operator()<true, PLAIN>(p);
  };
  if (is_plain<J>(a)) add_packs.template operator()<true>();
  else add_packs.template operator()<false>();
  if (full < rows.packs && int(threadIdx.x) == full % THREADS) add_pack.template operator()<false, false>(full);
  if constexpr (J > 0) find_argmax(a, rows, student, teacher);
  TokenState<K, J>& state = shared.state;
  const auto write = [&](int64_t row, float x) { a.packed[row * a.tokens + token] = x; };
  const auto write_normalizer = [&](int64_t row, const LogNormalizer<float>& x) {
    write(row, x.max);
    write(row + 1, x.log_sum);
  };
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const StudentStatistics<float> s = reduce(student[k], shared.reduction.student);
    if (threadIdx.x == 0) {
      state.student[k] = log_normalizer(s.lse);
      write_normalizer(PASS_ROWS * k, state.student[k]);
      write(PASS_ROWS * k + 2, s.logit_sum);
      write(PASS_ROWS * k + 3, shared.gold_logit[k]);
      write(PASS_ROWS * k + 4, s.argmax);
    }
  }
#pragma unroll
  for (int j = 0; j < J; ++j) {
    const int64_t base = PASS_ROWS * K + j * teacher_rows(K);
    const bool tempered = a.temperature[j] != 1.f;
    const TeacherStatistics<float, K> t = reduce(teacher[j], shared.reduction.teacher);
    LogSumExp<float> at_one = t.lse;
    if (tempered) at_one = reduce(teacher_at_one[j], shared.reduction.lse);
    if (threadIdx.x == 0) {
      state.temperature[j] = a.temperature[j];
      state.teacher[j] = log_normalizer(t.lse);
      shared.teacher_at_one[j] = log_normalizer(at_one);
      write_normalizer(base, shared.teacher_at_one[j]);
      write_normalizer(base + 2, state.teacher[j]);
      write(base + 4, shared.teacher_gold[j]);
      write(base + 5, t.argmax);
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      LogSumExp<float> lse{0.f, 0.f};
      if (tempered) lse = reduce(student_at_temperature[j][k], shared.reduction.lse);
      if (threadIdx.x == 0) {
        state.student_at_temperature[j][k] = tempered ? log_normalizer(lse) : state.student[k];
        write(base + 6 + 3 * k, t.dot[k] / t.lse.sum);
        write_normalizer(base + 7 + 3 * k, state.student_at_temperature[j][k]);
      }
    }
  }
  __syncthreads();
}

// Reads the statistics of an earlier launch.
template <int K, int J>
__device__ void load_statistics(const RowArguments& a, int64_t token, Shared<K, J>& shared) {
  if (threadIdx.x == 0) {
    const auto at = [&](const float* rows, int64_t row) { return rows[row * a.tokens + token]; };
    const auto normalizer_at = [&](int64_t row) {
      return LogNormalizer<float>{at(a.packed, row), at(a.packed, row + 1)};
    };
#pragma unroll
    for (int k = 0; k < K; ++k) {
      shared.state.student[k] = normalizer_at(PASS_ROWS * k);
      shared.gold_logit[k] = at(a.packed, PASS_ROWS * k + 3);
      shared.state.expected_log_ratio[k] = K > 1 && !(a.steps & DIVERGENCE) ? at(a.divergences, 1 + k) : 0.f;
    }
#pragma unroll
    for (int j = 0; j < J; ++j) {
      const int64_t base = PASS_ROWS * K + j * teacher_rows(K);
      shared.state.temperature[j] = a.temperature[j];
      shared.teacher_at_one[j] = normalizer_at(base);
      shared.state.teacher[j] = normalizer_at(base + 2);
      shared.teacher_gold[j] = at(a.packed, base + 4);
#pragma unroll
      for (int k = 0; k < K; ++k) shared.state.student_at_temperature[j][k] = normalizer_at(base + 7 + 3 * k);
    }
  }
  __syncthreads();
}

// Writes a token's X-divergence.
template <class T, int K, int J, Staging S>
__device__ void compute_divergence(const RowArguments& a, const TokenRows<T, K, J, S>& rows, int64_t token,
                                Shared<K, J>& shared) {
  constexpr int SIZE = Pack<T>::SIZE;
  LogNormalizer<float> normalizer[K];
#pragma unroll
  for (int k = 0; k < K; ++k) normalizer[k] = shared.state.student[k];
  auto sum = DivergenceSums<float, K>::empty();
  for (int p = threadIdx.x; p < rows.packs; p += THREADS) {
    Pack<T> pack[K];
#pragma unroll
    for (int k = 0; k < K; ++k) pack[k] = rows.student_pack(k, p, false);
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      float z[K];
#pragma unroll
      for (int k = 0; k < K; ++k) z[k] = widen(pack[k].at[i]);
      if (int64_t(p) * SIZE + i < a.vocab_size) update<float, K>(sum, z, normalizer);
    }
  }
  sum = reduce(sum, shared.reduction.divergence);
  if (threadIdx.x == 0) {
    a.divergences[token] = sum.value;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      shared.state.expected_log_ratio[k] = sum.expected_log_ratio[k];
      a.divergences[(1 + k) * a.tokens + token] = sum.expected_log_ratio[k];
    }
  }
}

// Replaces a token's logits by their gradient.
template <class T, int K, int J, Staging S>
__device__ void write_gradient(const RowArguments& a, const TokenRows<T, K, J, S>& rows, int64_t token,
                               Shared<K, J>& shared) {
  constexpr int SIZE = Pack<T>::SIZE;
  if (threadIdx.x == 0) {
    TokenState<K, J>& state = shared.state;
    state.weight = a.weight[token];
#pragma unroll
    for (int j = 0; j < J; ++j) {
      state.teacher_weight[j] = a.teacher_weight[j * a.tokens + token];
      const float teacher = expf(shared.teacher_at_one[j].log_probability(shared.teacher_gold[j]));
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const auto student = [&] { return expf(state.student[k].log_probability(shared.gold_logit[k])); };
        state.gate[j][k] = a.gate ? a.gate[(j * K + k) * a.tokens + token] : gate(a.rule[j], teacher, student());
      }
    }
    shared.coefficients = make_coefficients<K, J>(state, a.smoothing, float(a.vocab_size), a.divergence_weight,
                                                  a.gradient_scale, &shared.gold);
  }
  __syncthreads();
  const GradientCoefficients<float, K, J> coefficients = shared.coefficients;
  const auto write_pack = [&]<bool PLAIN>(int p) {
    Pack<T> pack[K];
    float y[J + 1][SIZE];
#pragma unroll
    for (int k = 0; k < K; ++k) pack[k] = rows.student_pack(k, p, false);
#pragma unroll
    for (int j = 0; j < J; ++j)
      unpack_teacher<!PLAIN>(rows.teacher_pack(j, p, false), a.vocabulary[j], p * SIZE, int(a.vocab_size), y[j]);
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      float z[K], teacher_z[J + 1], dz[K];
#pragma unroll
      for (int k = 0; k < K; ++k) z[k] = widen(pack[k].at[i]);
#pragma unroll
      for (int j = 0; j < J; ++j) teacher_z[j] = y[j][i];
      gradient<float, K, J, !PLAIN>(coefficients, z, teacher_z, dz);
#pragma unroll
      for (int k = 0; k < K; ++k) narrow(dz[k], &pack[k].at[i]);
    }
#pragma unroll
    for (int k = 0; k < K; ++k) reinterpret_cast<Pack<T>*>(rows.student + k * rows.pass_step)[p] = pack[k];
  };
  const auto write_packs = [&]<bool PLAIN>() {
#pragma unroll 1
    for (int p = threadIdx.x; p < rows.packs; p += THREADS) write_pack.template operator()<PLAIN>(p);
  };
  if (is_plain<J>(a)) write_packs.template operator()<true>();
  else write_packs.template operator()<false>();
  // the gold word's own term, by the thread that wrote its pack
  const int gold = int(a.gold[token]);
  if (int(threadIdx.x) == gold / SIZE % THREADS) {
    float z[K], y[J + 1], dz[K];
#pragma unroll
    for (int k = 0; k < K; ++k) z[k] = shared.gold_logit[k];
#pragma unroll
    for (int j = 0; j < J; ++j) y[j] = shared.teacher_gold[j];
    gradient<float, K, J>(coefficients, z, y, dz);
#pragma unroll
    for (int k = 0; k < K; ++k) narrow(dz[k] - shared.gold, rows.student + k * rows.pass_step + gold);
  }
}

// One token: the steps that the launch asks for.
template <class T, int K, int J, Staging S>
__global__ void __launch_bounds__(THREADS, K + J > (S != Staging::none ? 1 : 2) ? 1 : 2)
    rows_kernel(const __grid_constant__ RowArguments a) {
  extern __shared__ __align__(16) unsigned char stage[];
  __shared__ Shared<K, J> shared;
  const int64_t token = blockIdx.x;
  TokenRows<T, K, J, S> rows;
  rows.student = static_cast<T*>(a.logits) + token * a.pitch;
  rows.teacher = J ? static_cast<const T*>(a.teacher_logits) + token * a.pitch : nullptr;
  rows.pass_step = rows.teacher_step = a.tokens * a.pitch;
  rows.stage = reinterpret_cast<Pack<T>*>(stage);
  rows.packs = int((a.vocab_size + Pack<T>::SIZE - 1) / Pack<T>::SIZE);
  if (S != Staging::none || a.steps & STATISTICS) compute_statistics(a, rows, token, shared);
  else load_statistics(a, token, shared);
  if (K > 1 && a.steps & DIVERGENCE) compute_divergence(a, rows, token, shared);
  if (a.steps & GRADIENT) write_gradient(a, rows, token, shared);
}

// Shared memory that so many rows take.
size_t staged_bytes(int rows, int64_t pitch, DType dtype) { return rows * pitch * (dtype == DType::float32 ? 4 : 2); }

// Staged kernels exist for half precision and at most one teacher: what training runs; others would rarely fit.
constexpr bool stageable(int bytes, int teachers) { return bytes == 2 && teachers <= 1; }

// Launches the kernel for one dtype, number of passes and number of teachers.
template <class T, int K, int J>
cudaError_t launch(const RowArguments& a, bool staged, cudaStream_t stream) {
  const size_t bytes = staged ? staged_bytes(K + J, a.pitch, a.dtype) : 0;
  auto kernel = rows_kernel<T, K, J, Staging::none>;
  if constexpr (stageable(sizeof(T), J))
    if (staged)
      kernel = a.steps & BULK_COPIES ? rows_kernel<T, K, J, Staging::bulk> : rows_kernel<T, K, J, Staging::threads>;
  if (bytes) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<unsigned(a.tokens), THREADS, bytes, stream>>>(a);
  return cudaGetLastError();
}

// Chooses by the number of teachers.
template <class T, int K>
cudaError_t launch_for(const RowArguments& a, bool staged, cudaStream_t stream) {
  if (a.teachers == 0) return launch<T, K, 0>(a, staged, stream);
  if (a.teachers == 1) return launch<T, K, 1>(a, staged, stream);
  return launch<T, K, 2>(a, staged, stream);
}

// Chooses by the number of passes.
template <class T>
cudaError_t launch_as(const RowArguments& a, bool staged, cudaStream_t stream) {
  return a.passes == 1 ? launch_for<T, 1>(a, staged, stream) : launch_for<T, 2>(a, staged, stream);
}

}  // namespace

bool fits_on_chip(int passes, int teachers, int64_t pitch, DType dtype, int device) {
  int most = 0;
  if (cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) return false;
  if (!stageable(dtype == DType::float32 ? 4 : 2, teachers)) return false;
  return staged_bytes(passes + teachers, pitch, dtype) + 8192 <= size_t(most);  // 8192: Shared and the system's own
}

const char* launch_rows(const RowArguments& a, int device, void* stream) {
  if (a.tokens == 0) return nullptr;
  const bool all = (a.steps & STATISTICS) && (a.steps & GRADIENT);
  const bool staged = all && fits_on_chip(a.passes, a.teachers, a.pitch, a.dtype, device);
  if (all && !staged) return "statistics and gradient in one launch need rows that fit on the chip";
  const auto s = static_cast<cudaStream_t>(stream);
  cudaError_t error;
  switch (a.dtype) {
    case DType::bfloat16: error = launch_as<__nv_bfloat16>(a, staged, s); break;
    case DType::float16: error = launch_as<__half>(a, staged, s); break;
    default: error = launch_as<float>(a, staged, s);
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace mnmt
