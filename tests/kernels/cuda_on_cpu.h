// csrc/cuda.cu without a GPU: each thread of a block is a fiber, blocks run one after another.
//
// Fibers change only where threads wait for one another (__syncthreads, shuffles), in a new random order each time, and
// one warp sleeps until the others cannot go on, so that a forgotten barrier shows. Threads that wait for ever are an
// error; shared memory holds NaN before a block starts; arrays end at a page that cannot be touched, so that a read or
// write behind them is a crash. Bulk copies arrive one by one in a random order, none before somebody waits for one.
#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#define GPU_ON_CPU
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx;

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}
inline __nv_bfloat16 __float2bfloat16(float x) {  // to the nearest, of two the even one
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return {0x7fff};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
using __half = _Float16;
inline float __half2float(__half x) { return static_cast<float>(x); }
inline __half __float2half(float x) { return static_cast<__half>(x); }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorStuck };
enum { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaFuncAttributeMaxDynamicSharedMemorySize };

namespace gpu {

constexpr int STACK = 1 << 17;
constexpr size_t OWN = 8192, MOST_SHARED = 232448;  // a kernel's own shared memory; an H100's for a block

inline int most_shared = MOST_SHARED;
inline cudaError_t last = cudaSuccess;

struct Meeting {
  unsigned here = 0;
  int64_t round = 0;
};

struct Barrier {
  int arrivals, bytes;  // that are still to come
};

struct Copy {
  void* to;
  const void* from;
  unsigned bytes;
  Barrier* barrier;
};

struct Fiber {
  ucontext_t start;
  jmp_buf at;
  bool started, done;
  unsigned turn;  // shuffles so far
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<char> stacks, memory = std::vector<char>(OWN + MOST_SHARED + 16);
  std::function<void()> kernel;
  jmp_buf home;
  Meeting all;
  std::vector<Meeting> warps;
  std::vector<float> lanes[2];
  std::vector<Copy> copies;
  bool moved;
  std::mt19937 random{1};
};
inline Block block;

inline char* memory() { return block.memory.data() + (16 - reinterpret_cast<uintptr_t>(block.memory.data()) % 16) % 16; }

__attribute__((noinline)) inline void leave() {
  if (!_setjmp(block.fibers[threadIdx.x].at)) _longjmp(block.home, 1);
}

inline void meet(Meeting& m, unsigned size) {
  const int64_t round = m.round;
  block.moved = true;
  if (++m.here == size) {
    m.here = 0;
    ++m.round;
  }
  while (m.round == round) leave();
}

inline void enter() {
  block.kernel();
  block.fibers[threadIdx.x].done = block.moved = true;
  _longjmp(block.home, 1);
}

__attribute__((noinline)) inline void resume(unsigned thread) {
  Fiber& f = block.fibers[thread];
  threadIdx.x = thread;
  if (_setjmp(block.home)) return;
  if (f.started) _longjmp(f.at, 1);
  f.started = true;
  setcontext(&f.start);
}

inline void launch(std::function<void()> kernel, unsigned blocks, unsigned threads) {
  block.kernel = kernel;
  block.fibers.resize(threads);
  block.stacks.resize(size_t(threads) * STACK);
  for (auto& lanes : block.lanes) lanes.resize(threads);
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0u);
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    std::fill(block.memory.begin(), block.memory.end(), char(0xff));
    block.all = {};
    block.copies.clear();
    block.warps.assign(threads / 32, {});
    for (unsigned t = 0; t < threads; ++t) {
      Fiber& f = block.fibers[t];
      f.started = f.done = false;
      f.turn = 0;
      getcontext(&f.start);
      f.start.uc_stack.ss_sp = block.stacks.data() + size_t(t) * STACK;
      f.start.uc_stack.ss_size = STACK;
      makecontext(&f.start, enter, 0);
    }
    const auto round = [&](unsigned sleeper) {
      block.moved = false;
      std::shuffle(order.begin(), order.end(), block.random);
      for (const unsigned t : order)
        if (t / 32 != sleeper && !block.fibers[t].done) resume(t);
      return block.moved;
    };
    for (bool moved = true; moved;) {
      moved = false;
      for (const unsigned sleeper = block.random() % (threads / 32); round(sleeper);) moved = true;
      moved |= round(threads);  // nobody sleeps
    }
    for (const Fiber& f : block.fibers)
      if (!f.done) last = cudaErrorStuck;
    if (!block.copies.empty()) last = cudaErrorStuck;  // a block may not end before what it asked for is there
    if (last != cudaSuccess) return;
  }
}

// A copy of an array that ends where memory may not be touched; written back at its end.
template <class T>
class Fenced {
 public:
  Fenced(T* from, int64_t count) : from_(from), bytes_(from ? count * sizeof(T) : 0) {
    const size_t page = 4096, need = (bytes_ + page - 1) / page * page;
    size_ = need + page;
    base_ = static_cast<char*>(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(base_ + need, page, PROT_NONE);
    at_ = base_ + need - bytes_;
    if (bytes_) std::memcpy(at_, from_, bytes_);
  }
  ~Fenced() {
    if constexpr (!std::is_const_v<T>)
      if (bytes_) std::memcpy(from_, at_, bytes_);
    munmap(base_, size_);
  }
  Fenced(const Fenced&) = delete;
  T* get() const { return from_ ? reinterpret_cast<T*>(at_) : nullptr; }

 private:
  T* from_;
  size_t bytes_, size_;
  char *base_, *at_;
};

}  // namespace gpu

inline void __syncthreads() { gpu::meet(gpu::block.all, gpu::block.fibers.size()); }

inline float __shfl_down_sync(unsigned, float x, int by) {
  const unsigned thread = threadIdx.x, turn = gpu::block.fibers[thread].turn++ % 2;
  auto& lanes = gpu::block.lanes[turn];  // the other half is still read by slower lanes
  lanes[thread] = x;
  gpu::meet(gpu::block.warps[thread / 32], 32);
  return thread % 32 + by < 32 ? lanes[thread + by] : x;
}

using gpu::Barrier;
inline void init_barriers(Barrier* barriers, int count) { std::fill_n(barriers, count, Barrier{1, 0}); }
inline void expect_bytes(Barrier* barrier, unsigned bytes) {
  --barrier->arrivals;
  barrier->bytes += int(bytes);
}
inline void bulk_load(void* to, const void* from, unsigned bytes, Barrier* barrier) {
  const auto all = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | bytes;
  if (all % 16) gpu::last = cudaErrorStuck;
  gpu::block.copies.push_back({to, from, bytes, barrier});
}
inline void wait_for(Barrier* barrier) {
  auto& copies = gpu::block.copies;
  while (barrier->arrivals || barrier->bytes) {
    if (!copies.empty()) {
      std::swap(copies[gpu::block.random() % copies.size()], copies.back());
      const gpu::Copy copy = copies.back();
      copies.pop_back();
      std::memcpy(copy.to, copy.from, copy.bytes);
      copy.barrier->bytes -= int(copy.bytes);
      gpu::block.moved = true;
    }
    gpu::leave();
  }
}

inline cudaError_t cudaDeviceGetAttribute(int* to, int, int) {
  *to = gpu::most_shared;
  return cudaSuccess;
}
template <class F>
cudaError_t cudaFuncSetAttribute(F, int, int bytes) {
  return size_t(bytes) <= gpu::MOST_SHARED ? cudaSuccess : cudaErrorStuck;
}
inline cudaError_t cudaGetLastError() { return std::exchange(gpu::last, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t) { return "threads of a block wait for one another for ever"; }
