#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "cuda.h"

namespace mnmt {

namespace {

constexpr int THREADS = 512;
constexpr int WARPS = THREADS / 32;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
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

template <class F, int K>
ROW Divergence<F, K> merge(const Divergence<F, K>& a, const Divergence<F, K>& b) {
  Divergence<F, K> d;
  d.value = a.value + b.value;
  UNROLL for (int k = 0; k < K; ++k) d.lean[k] = a.lean[k] + b.lean[k];
  return d;
}

// Joins all threads' statistics; the result is thread 0's. `room`: WARPS of S.
template <class S>
__device__ S reduce(S s, S* room) {
#pragma unroll
  for (int by = 16; by; by /= 2) s = merge(s, shuffle_down(s, by));
  __syncthreads();
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x < 32) {
    s = room[threadIdx.x < WARPS ? threadIdx.x : 0];
#pragma unroll
    for (int by = WARPS / 2; by; by /= 2) s = merge(s, shuffle_down(s, by));
  }
  return s;
}

template <int K, int J>
struct Shared {
  union {
    Student<float> student[WARPS];
    Teacher<float, K> teacher[WARPS];
    Mass<float> mass[WARPS];
    Divergence<float, K> divergence[WARPS];
  } room;
  Known<K, J> known;
  Slope<float, K, J> slope;
  Level<float> cool[J + 1];
  float gold_logit[K], teacher_gold[J + 1], gold;
};

// A token's rows. Staged: STATISTICS copies each pack into shared memory, where later steps find it; every thread
// reads back only what it wrote itself, so no barrier is needed.
template <class T, int K, int J, bool STAGED>
struct TokenRows {
  using P = Pack<T>;
  T* student;
  const T* teacher;
  int64_t pass_step, teacher_step;  // in T
  P* stage;
  int packs;

  __device__ P pass(int k, int i, bool first) const {
    if (STAGED && !first) return stage[k * packs + i];
    const P p = reinterpret_cast<const P*>(student + k * pass_step)[i];
    if (STAGED) stage[k * packs + i] = p;
    return p;
  }
  __device__ P lesson(int j, int i, bool first) const {
    if (STAGED && !first) return stage[(K + j) * packs + i];
    const P p = reinterpret_cast<const P*>(teacher + j * teacher_step)[i];
    if (STAGED) stage[(K + j) * packs + i] = p;
    return p;
  }
};

// A teacher's logits, words outside its vocabulary far below all others.
template <class T>
__device__ __forceinline__ void unpack_teacher(const Pack<T>& p, const bool* vocabulary, int64_t first, int64_t words,
                                               float* to) {
#pragma unroll
  for (int i = 0; i < Pack<T>::SIZE; ++i) {
    const bool allowed = !vocabulary || (first + i < words && vocabulary[first + i]);
    to[i] = allowed ? widen(p.at[i]) : LOWEST;
  }
}

template <class T, int K, int J, bool STAGED>
__device__ void take_statistics(const RowArguments& a, const TokenRows<T, K, J, STAGED>& rows, int64_t token,
                                Shared<K, J>& shared) {
  constexpr int SIZE = Pack<T>::SIZE;
  Student<float> student[K];
  Teacher<float, K> teacher[J + 1];
  Mass<float> cool[J + 1], warm[J + 1][K];
#pragma unroll
  for (int k = 0; k < K; ++k) student[k] = Student<float>::none();
#pragma unroll
  for (int j = 0; j < J; ++j) {
    teacher[j] = Teacher<float, K>::none();
    cool[j] = Mass<float>::none();
#pragma unroll
    for (int k = 0; k < K; ++k) warm[j][k] = Mass<float>::none();
  }
  const int64_t gold = a.gold[token];
  for (int p = threadIdx.x; p < rows.packs; p += THREADS) {
    const int64_t first = int64_t(p) * SIZE;
    float z[K][SIZE], y[J + 1][SIZE];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const Pack<T> pack = rows.pass(k, p, true);
#pragma unroll
      for (int i = 0; i < SIZE; ++i) z[k][i] = widen(pack.at[i]);
    }
#pragma unroll
    for (int j = 0; j < J; ++j) unpack_teacher<T>(rows.lesson(j, p, true), a.vocabulary[j], first, a.words, y[j]);
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      if (first + i != gold) continue;
#pragma unroll
      for (int k = 0; k < K; ++k) shared.gold_logit[k] = z[k][i];
#pragma unroll
      for (int j = 0; j < J; ++j) shared.teacher_gold[j] = y[j][i];
    }
    const auto fold = [&]<bool FULL>() {  // a row's last pack may hold fewer words
      const auto there = [&](int i) { return FULL || first + i < a.words; };
#pragma unroll
      for (int k = 0; k < K; ++k) {
        absorb<(J > 0)>(student[k], [&](int i) { return there(i) ? z[k][i] : LOWEST; },
                        [&](int i) { return there(i) ? z[k][i] : 0.f; }, SIZE, int(first));
      }
#pragma unroll
      for (int j = 0; j < J; ++j) {
        const auto lesson = [&](int i) { return there(i) ? y[j][i] : LOWEST; };
        const float scale = 1.f / a.temperature[j];
        absorb<float, K>(teacher[j], lesson, [&](int k, int i) { return there(i) ? z[k][i] : 0.f; }, SIZE, int(first),
                         scale);
        if (scale == 1.f) continue;
        absorb(cool[j], lesson, SIZE, 1.f);
#pragma unroll
        for (int k = 0; k < K; ++k)
          absorb(warm[j][k], [&](int i) { return there(i) ? z[k][i] : LOWEST; }, SIZE, scale);
      }
    };
    if (first + SIZE <= a.words) fold.template operator()<true>();
    else fold.template operator()<false>();
  }
  Known<K, J>& known = shared.known;
  const auto write = [&](int64_t row, float x) { a.found[row * a.tokens + token] = x; };
  const auto write_level = [&](int64_t row, const Level<float>& x) {
    write(row, x.top);
    write(row + 1, x.log);
  };
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const Student<float> s = reduce(student[k], shared.room.student);
    if (threadIdx.x == 0) {
      known.pass[k] = level(s.mass);
      write_level(PASS_ROWS * k, known.pass[k]);
      write(PASS_ROWS * k + 2, s.total);
      write(PASS_ROWS * k + 3, shared.gold_logit[k]);
      write(PASS_ROWS * k + 4, s.best);
    }
  }
#pragma unroll
  for (int j = 0; j < J; ++j) {
    const int64_t base = PASS_ROWS * K + j * teacher_rows(K);
    const bool tempered = a.temperature[j] != 1.f;
    const Teacher<float, K> t = reduce(teacher[j], shared.room.teacher);
    Mass<float> own = t.mass;
    if (tempered) own = reduce(cool[j], shared.room.mass);
    if (threadIdx.x == 0) {
      known.temperature[j] = a.temperature[j];
      known.teacher[j] = level(t.mass);
      shared.cool[j] = level(own);
      write_level(base, shared.cool[j]);
      write_level(base + 2, known.teacher[j]);
      write(base + 4, shared.teacher_gold[j]);
      write(base + 5, t.best);
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      Mass<float> m{0.f, 0.f};
      if (tempered) m = reduce(warm[j][k], shared.room.mass);
      if (threadIdx.x == 0) {
        known.warm[j][k] = tempered ? level(m) : known.pass[k];
        write(base + 6 + 3 * k, t.dot[k] / t.mass.sum);
        write_level(base + 7 + 3 * k, known.warm[j][k]);
      }
    }
  }
  __syncthreads();
}

// What an earlier launch found.
template <int K, int J>
__device__ void recall(const RowArguments& a, int64_t token, Shared<K, J>& shared) {
  if (threadIdx.x == 0) {
    const auto at = [&](const float* rows, int64_t row) { return rows[row * a.tokens + token]; };
    const auto level_at = [&](int64_t row) { return Level<float>{at(a.found, row), at(a.found, row + 1)}; };
#pragma unroll
    for (int k = 0; k < K; ++k) {
      shared.known.pass[k] = level_at(PASS_ROWS * k);
      shared.gold_logit[k] = at(a.found, PASS_ROWS * k + 3);
      shared.known.lean[k] = K > 1 && !(a.steps & DIVERGENCE) ? at(a.diverging, 1 + k) : 0.f;
    }
#pragma unroll
    for (int j = 0; j < J; ++j) {
      const int64_t base = PASS_ROWS * K + j * teacher_rows(K);
      shared.known.temperature[j] = a.temperature[j];
      shared.cool[j] = level_at(base);
      shared.known.teacher[j] = level_at(base + 2);
      shared.teacher_gold[j] = at(a.found, base + 4);
#pragma unroll
      for (int k = 0; k < K; ++k) shared.known.warm[j][k] = level_at(base + 7 + 3 * k);
    }
  }
  __syncthreads();
}

template <class T, int K, int J, bool STAGED>
__device__ void take_divergence(const RowArguments& a, const TokenRows<T, K, J, STAGED>& rows, int64_t token,
                                Shared<K, J>& shared) {
  constexpr int SIZE = Pack<T>::SIZE;
  Level<float> pass[K];
#pragma unroll
  for (int k = 0; k < K; ++k) pass[k] = shared.known.pass[k];
  auto sum = Divergence<float, K>::none();
  for (int p = threadIdx.x; p < rows.packs; p += THREADS) {
    Pack<T> pack[K];
#pragma unroll
    for (int k = 0; k < K; ++k) pack[k] = rows.pass(k, p, false);
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      float z[K];
#pragma unroll
      for (int k = 0; k < K; ++k) z[k] = widen(pack[k].at[i]);
      if (int64_t(p) * SIZE + i < a.words) absorb<float, K>(sum, z, pass);
    }
  }
  sum = reduce(sum, shared.room.divergence);
  if (threadIdx.x == 0) {
    a.diverging[token] = sum.value;
#pragma unroll
    for (int k = 0; k < K; ++k) a.diverging[(1 + k) * a.tokens + token] = shared.known.lean[k] = sum.lean[k];
  }
}

template <class T, int K, int J, bool STAGED>
__device__ void write_gradient(const RowArguments& a, const TokenRows<T, K, J, STAGED>& rows, int64_t token,
                               Shared<K, J>& shared) {
  constexpr int SIZE = Pack<T>::SIZE;
  if (threadIdx.x == 0) {
    Known<K, J>& known = shared.known;
    known.weight = a.weight[token];
#pragma unroll
    for (int j = 0; j < J; ++j) {
      known.teacher_weight[j] = a.teacher_weight[j * a.tokens + token];
      const float lesson = expf(shared.cool[j].under(shared.teacher_gold[j]));
#pragma unroll
      for (int k = 0; k < K; ++k) {
        known.gate[j][k] = a.gate ? a.gate[(j * K + k) * a.tokens + token]
                                  : gate(a.rule[j], lesson, expf(known.pass[k].under(shared.gold_logit[k])));
      }
    }
    shared.slope =
        make_slope<K, J>(known, a.smoothing, float(a.words), a.divergence_weight, a.unit, &shared.gold);
  }
  __syncthreads();
  const Slope<float, K, J> slope = shared.slope;
  const int64_t gold = a.gold[token];
  for (int p = threadIdx.x; p < rows.packs; p += THREADS) {
    const int64_t first = int64_t(p) * SIZE;
    Pack<T> pack[K];
    float y[J + 1][SIZE];
#pragma unroll
    for (int k = 0; k < K; ++k) pack[k] = rows.pass(k, p, false);
#pragma unroll
    for (int j = 0; j < J; ++j) unpack_teacher<T>(rows.lesson(j, p, false), a.vocabulary[j], first, a.words, y[j]);
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      float z[K], lesson[J + 1], dz[K];
#pragma unroll
      for (int k = 0; k < K; ++k) z[k] = widen(pack[k].at[i]);
#pragma unroll
      for (int j = 0; j < J; ++j) lesson[j] = y[j][i];
      gradient<float, K, J>(slope, z, lesson, dz);
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (first + i == gold) dz[k] -= shared.gold;
        narrow(dz[k], &pack[k].at[i]);
      }
    }
#pragma unroll
    for (int k = 0; k < K; ++k) reinterpret_cast<Pack<T>*>(rows.student + k * rows.pass_step)[p] = pack[k];
  }
}

template <class T, int K, int J, bool STAGED>
__global__ void __launch_bounds__(THREADS, K + J > (STAGED ? 1 : 2) ? 1 : 2) rows_kernel(const __grid_constant__ RowArguments a) {
  extern __shared__ __align__(16) unsigned char stage[];
  __shared__ Shared<K, J> shared;
  const int64_t token = blockIdx.x;
  TokenRows<T, K, J, STAGED> rows;
  rows.student = static_cast<T*>(a.logits) + token * a.pitch;
  rows.teacher = J ? static_cast<const T*>(a.teacher_logits) + token * a.pitch : nullptr;
  rows.pass_step = rows.teacher_step = a.tokens * a.pitch;
  rows.stage = reinterpret_cast<Pack<T>*>(stage);
  rows.packs = int((a.words + Pack<T>::SIZE - 1) / Pack<T>::SIZE);
  if (STAGED || a.steps & STATISTICS) take_statistics(a, rows, token, shared);
  else recall(a, token, shared);
  if (K > 1 && a.steps & DIVERGENCE) take_divergence(a, rows, token, shared);
  if (a.steps & GRADIENT) write_gradient(a, rows, token, shared);
}

size_t staged_bytes(int rows, int64_t pitch, Half half) { return rows * pitch * (half == Half::none ? 4 : 2); }

// Staged kernels exist for half precision and at most one teacher: what training runs; others would rarely fit.
constexpr bool stageable(int bytes, int teachers) { return bytes == 2 && teachers <= 1; }

template <class T, int K, int J>
cudaError_t launch(const RowArguments& a, bool staged, cudaStream_t stream) {
  const size_t bytes = staged ? staged_bytes(K + J, a.pitch, a.half) : 0;
  auto kernel = rows_kernel<T, K, J, false>;
  if constexpr (stageable(sizeof(T), J))
    if (staged) kernel = rows_kernel<T, K, J, true>;
  if (bytes) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<unsigned(a.tokens), THREADS, bytes, stream>>>(a);
  return cudaGetLastError();
}

template <class T, int K>
cudaError_t launch_for(const RowArguments& a, bool staged, cudaStream_t stream) {
  if (a.teachers == 0) return launch<T, K, 0>(a, staged, stream);
  if (a.teachers == 1) return launch<T, K, 1>(a, staged, stream);
  return launch<T, K, 2>(a, staged, stream);
}

template <class T>
cudaError_t launch_as(const RowArguments& a, bool staged, cudaStream_t stream) {
  return a.passes == 1 ? launch_for<T, 1>(a, staged, stream) : launch_for<T, 2>(a, staged, stream);
}

}  // namespace

bool fits_on_chip(int passes, int teachers, int64_t pitch, Half half, int device) {
  int most = 0;
  if (cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) return false;
  if (!stageable(half == Half::none ? 4 : 2, teachers)) return false;
  return staged_bytes(passes + teachers, pitch, half) + 8192 <= size_t(most);  // 8192: Shared and the system's own
}

const char* launch_rows(const RowArguments& a, int device, void* stream) {
  if (a.tokens == 0) return nullptr;
  const bool all = (a.steps & STATISTICS) && (a.steps & GRADIENT);
  const bool staged = all && fits_on_chip(a.passes, a.teachers, a.pitch, a.half, device);
  if (all && !staged) return "statistics and gradient in one launch need rows that fit on the chip";
  const auto s = static_cast<cudaStream_t>(stream);
  cudaError_t error;
  switch (a.half) {
    case Half::bfloat16: error = launch_as<__nv_bfloat16>(a, staged, s); break;
    case Half::float16: error = launch_as<__half>(a, staged, s); break;
    default: error = launch_as<float>(a, staged, s);
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace mnmt
