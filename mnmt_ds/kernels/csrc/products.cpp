#include "products.h"

#include "pack.h"

namespace mnmt {

namespace {

constexpr int64_t DEPTH = 8 * SEGMENT;  // terms that are packed, and added up, at once
constexpr int64_t COLUMNS = 32 * GROUP;  // columns that are packed at once
constexpr int64_t PANELS = BLOCK / TILE_ROWS;  // row panels of a block
constexpr int HALF = (TILE_ROWS + 2) / 2, QUARTER = HALF / 2;  // rows of tiles at c's lower end
constexpr int PARTS_PER_THREAD = 4;  // a slow thread takes fewer

// A matrix that is read, perhaps transposed; an element counts where that of `mask` is above 0.
struct Operand {
  const float* data;
  int64_t stride;  // from one of its contiguous rows to the next
  bool transposed;
  const float* mask = nullptr;
};

// c = a b + bias, then ReLU. a: rows * depth, b: depth * columns, c: rows * columns.
struct Product {
  Operand a, b;
  int64_t rows, columns, depth;
  const float* bias;
  bool relu;
  float* c;
};

// This thread's buffer of at least n floats: fresh memory costs more than what is written into it.
float* scratch(int which, int64_t n) {
  thread_local Buffer buffers[2];
  thread_local int64_t sizes[2];
  if (sizes[which] < n) {
    buffers[which].reset();
    buffers[which] = buffer(n);
    sizes[which] = n;
  }
  return buffers[which].get();
}

// Exchanges rows and columns of a square of LANES vectors.
INLINE void transpose(Lanes* square) {
#pragma GCC unroll 4
  for (int step = 1; step < LANES; step *= 2) {
    IntLanes low, high;
    for (int i = 0; i < LANES; ++i) {
      low[i] = i & step ? LANES + i - step : i;
      high[i] = i & step ? LANES + i : i + step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) {
      if (i & step) continue;
      const Lanes a = square[i], b = square[i + step];
      square[i] = __builtin_shuffle(a, b, low);
      square[i + step] = __builtin_shuffle(a, b, high);
    }
  }
}

// Packs a panel of b as [depth][GROUP]; columns past the end are 0.
void pack_b(const Operand& b, int64_t from_depth, int64_t depth, int64_t from_column, int64_t columns, float* to) {
  columns = std::min<int64_t>(columns, GROUP);
  if (!b.transposed) {
    const float* from = b.data + from_depth * b.stride + from_column;
    for (int64_t k = 0; k < depth; ++k, from += b.stride, to += GROUP) {
      if (columns == GROUP) {
        store(to, load(from));
        store(to + LANES, load(from + LANES));
      } else {
        std::copy(from, from + columns, to);
        std::fill(to + columns, to + GROUP, 0.f);
      }
    }
    return;
  }
  for (int half = 0; half < GROUP; half += LANES) {
    const float* from = b.data + (from_column + half) * b.stride + from_depth;
    const int64_t n = std::clamp<int64_t>(columns - half, 0, LANES);
    int64_t k = 0;
    for (; n == LANES && k + LANES <= depth; k += LANES) {
      Lanes square[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; ++i) square[i] = load(from + i * b.stride + k);
      transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < LANES; ++i) store(to + (k + i) * GROUP + half, square[i]);
    }
    for (; k < depth; ++k)
      for (int i = 0; i < LANES; ++i) to[k * GROUP + half + i] = i < n ? from[i * b.stride + k] : 0.f;
  }
}

// Copies n numbers; those whose mask is not above 0 become 0.
INLINE void copy_masked(const float* __restrict from, const float* __restrict mask, int64_t n, float* __restrict to) {
  if (mask) for (int64_t i = 0; i < n; ++i) to[i] = mask[i] > 0.f ? from[i] : 0.f;
  else std::memcpy(to, from, n * sizeof(float));
}

// The same for TILE_ROWS numbers: two vectors that overlap.
INLINE void copy_masked(const float* from, const float* mask, float* to) {
  constexpr int WIDTH = TILE_ROWS > 8 ? 8 : 4;
  typedef float Part __attribute__((vector_size(WIDTH * 4)));
  for (const int at : {0, TILE_ROWS - WIDTH}) {
    Part x, m;
    std::memcpy(&x, from + at, sizeof x);
    if (mask) {
      std::memcpy(&m, mask + at, sizeof m);
      x = m > 0.f ? x : Part{};
    }
    std::memcpy(to + at, &x, sizeof x);
  }
}

// Packs a panel of a's rows for one segment: as [TILE_ROWS][SEGMENT_STRIDE], or, of a transposed matrix, as
// [segment][TILE_ROWS]; rows past the end are 0.
void pack_a(const Operand& a, int64_t row, int64_t rows, int64_t from, int64_t n, float* to) {
  rows = std::min<int64_t>(rows, TILE_ROWS);
  const int64_t at = a.transposed ? from * a.stride + row : row * a.stride + from;
  const float *data = a.data + at, *mask = a.mask ? a.mask + at : nullptr;
  const auto next = [&] {
    data += a.stride;
    if (mask) mask += a.stride;
  };
  if (a.transposed) {
    for (int64_t k = 0; k < n; ++k, next(), to += TILE_ROWS) {
      if (rows == TILE_ROWS) copy_masked(data, mask, to);
      else {
        copy_masked(data, mask, rows, to);
        std::fill(to + rows, to + TILE_ROWS, 0.f);
      }
    }
    return;
  }
  for (int64_t i = 0; i < TILE_ROWS; ++i, to += SEGMENT_STRIDE) {
    if (i < rows) copy_masked(data, mask, n, to), next();
    else std::fill(to, to + n, 0.f);
  }
}

// Writes a tile's first rows and columns: plus what is there (`add`), bias and ReLU (`last`).
template <int ROWS>
INLINE void finish(const Product& p, const TileOf<ROWS>& tile, int64_t row, int64_t column, int64_t columns, bool add,
                   bool last) {
  const int64_t rows = p.rows - row;
  const bool whole = columns >= GROUP;
  float flat[GROUP];
  Lanes bias[2] = {};
  if (last && p.bias) {
    const float* from = p.bias + column;
    if (!whole) from = std::copy_n(from, columns, flat) - columns;
    bias[0] = load(from), bias[1] = load(from + LANES);
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i) {
    if (i >= rows) break;
    float* to = p.c + (row + i) * p.columns + column;
    float* at = whole ? to : flat;
    if (add && !whole) std::copy_n(to, columns, flat);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Lanes sum = tile.sum[i][half];
      if (add) sum += load(at + half * LANES);
      if (last) {
        sum += bias[half];
        if (p.relu) sum = sum < 0.f ? Lanes{} : sum;  // NaN stays
      }
      store(at + half * LANES, sum);
    }
    if (!whole) std::copy_n(flat, columns, to);
  }
}

// What a tile is made of: packed panels of a and b for one segment, and the sums of the segments before.
struct TileInput {
  const float *a, *b;
  int n;
  float* sums;
  bool first, complete;  // whether this is the first segment, and the last
};

// One tile's products of a segment. TRANSPOSED: a is.
template <int ROWS, bool TRANSPOSED>
void multiply_tile(const Product& p, const TileInput& in, int64_t row, int64_t column, int64_t columns, bool add,
                          bool last) {
  TileOf<ROWS> tile;
  if (in.first) tile.clear();
  else tile.read(in.sums, GROUP);
  if (TRANSPOSED) tile.template add<1, TILE_ROWS>(in.a, in.b, in.n);
  else tile.template add<SEGMENT_STRIDE, 1>(in.a, in.b, in.n);
  if (in.complete) finish(p, tile, row, column, columns, add, last);
  else tile.write(in.sums, GROUP, ROWS);
}

// Some of c's row panels, at some of its column panels; the latter of b are packed. TRANSPOSED: a is.
template <bool TRANSPOSED>
void multiply_block(const Product& p, int64_t panel, int64_t panels, int64_t from_depth, int64_t depth,
                    const float* packed, int64_t column, int64_t columns, bool add, bool last) {
  const int64_t segments = std::max<int64_t>(1, ceil_div(depth, SEGMENT)), size = TILE_ROWS * SEGMENT_STRIDE;
  float* a = scratch(1, PANELS * (DEPTH / SEGMENT * size + TILE_ROWS * GROUP));
  float* sums = a + PANELS * DEPTH / SEGMENT * size;
  for (int64_t s = 0; s < segments; ++s) {
    const int64_t from = s * SEGMENT, n = std::min<int64_t>(SEGMENT, depth - from);
    for (int64_t q = 0; q < panels; ++q) {
      const int64_t row = (panel + q) * TILE_ROWS;
      pack_a(p.a, row, p.rows - row, from_depth + from, n, a + (s * panels + q) * size);
    }
  }
  for (int64_t c = 0; c < columns; c += GROUP, packed += depth * GROUP) {
    for (int64_t s = 0; s < segments; ++s) {  // a segment of b's panel stays in the first cache for all of a's
      const int64_t n = std::min<int64_t>(SEGMENT, depth - s * SEGMENT);
      Prefetcher<1> next{{packed + (s + 1) * SEGMENT * GROUP}, SEGMENT};
      for (int64_t q = 0; q < panels; ++q) {
        next.prefetch(ceil_div(SEGMENT, panels));
        const TileInput in{a + (s * panels + q) * size, packed + s * SEGMENT * GROUP, int(n),
                           sums + q * TILE_ROWS * GROUP, s == 0, s + 1 == segments};
        const int64_t row = (panel + q) * TILE_ROWS, rows = p.rows - row;
        const auto run = rows > HALF      ? multiply_tile<TILE_ROWS, TRANSPOSED>
                         : rows > QUARTER ? multiply_tile<HALF, TRANSPOSED>
                                          : multiply_tile<QUARTER, TRANSPOSED>;
        run(p, in, row, column + c, columns - c, add, last);
      }
    }
  }
}

void multiply(const Product& p, int threads) {
  if (!p.rows || !p.columns) return;
  const int64_t row_panels = ceil_div(p.rows, TILE_ROWS), blocks = ceil_div(row_panels, PANELS);
  const int64_t all_columns = std::min<int64_t>(COLUMNS, ceil_div(p.columns, GROUP) * GROUP);
  float* packed = scratch(0, std::min<int64_t>(DEPTH, p.depth) * all_columns);
#pragma omp parallel num_threads(threads) if (threads > 1)
  for (int64_t from = 0; from == 0 || from < p.depth; from += DEPTH) {
    const int64_t depth = std::min<int64_t>(DEPTH, p.depth - from);
    const bool last = from + depth >= p.depth;
    for (int64_t column = 0; column < p.columns; column += COLUMNS) {
      const int64_t columns = std::min<int64_t>(COLUMNS, p.columns - column), panels = ceil_div(columns, GROUP);
#pragma omp for schedule(static)
      for (int64_t j = 0; j < panels; ++j)
        pack_b(p.b, from, depth, column + j * GROUP, columns - j * GROUP, packed + j * depth * GROUP);
      const int64_t wanted = threads > 1 ? ceil_div(PARTS_PER_THREAD * threads, blocks) : 1;
      const int64_t parts = std::min(wanted, panels);
#pragma omp for schedule(dynamic)
      for (int64_t part = 0; part < blocks * parts; ++part) {
        const int64_t block = part / parts, j = part % parts;
        const int64_t panel = row_panels * block / blocks, next = row_panels * (block + 1) / blocks;
        const int64_t c = panels * j / parts * GROUP, end = std::min(panels * (j + 1) / parts * GROUP, columns);
        const auto run = p.a.transposed ? multiply_block<true> : multiply_block<false>;
        run(p, panel, next - panel, from, depth, packed + c * depth, column + c, end - c, from > 0, last);
      }
    }
  }
}

}  // namespace

void linear(const LinearShape& s, const float* x, const float* w, const float* bias, bool relu, float* y) {
  multiply({{x, s.inputs, false}, {w, s.inputs, true}, s.rows, s.outputs, s.inputs, bias, relu, y}, s.threads);
}

void linear_input_gradient(const LinearShape& s, const float* dy, const float* y, const float* w, float* dx) {
  multiply({{dy, s.outputs, false, y}, {w, s.inputs, false}, s.rows, s.inputs, s.outputs, nullptr, false, dx},
           s.threads);
}

void linear_weight_gradient(const LinearShape& s, const float* dy, const float* y, const float* x, float* dw,
                            float* dbias) {
  if (dw)
    multiply({{dy, s.outputs, true, y}, {x, s.inputs, false}, s.outputs, s.inputs, s.rows, nullptr, false, dw},
             s.threads);
  if (!dbias) return;
  constexpr int64_t WIDTH = 256;  // columns that a thread adds up at once
#pragma omp parallel for schedule(static) num_threads(s.threads) if (s.threads > 1)
  for (int64_t from = 0; from < s.outputs; from += WIDTH) {
    const int64_t n = std::min(WIDTH, s.outputs - from);
    float total[WIDTH] = {};
    for (int64_t first = 0; first < s.rows; first += SEGMENT) {  // short sums first: they lose less to rounding
      float sum[WIDTH] = {};
      for (int64_t r = first; r < std::min<int64_t>(first + SEGMENT, s.rows); ++r) {
        const int64_t at = r * s.outputs + from;
        if (y) for (int64_t i = 0; i < n; ++i) sum[i] += y[at + i] > 0.f ? dy[at + i] : 0.f;
        else for (int64_t i = 0; i < n; ++i) sum[i] += dy[at + i];
      }
      for (int64_t i = 0; i < n; ++i) total[i] += sum[i];
    }
    std::copy_n(total, n, dbias + from);
  }
}

int64_t fill_registers(int64_t repeats) {
  constexpr int SUMS = 10;  // so many that none waits for itself
  Lanes sums[SUMS] = {}, a = Lanes{} + 1.f, b = Lanes{} + 1e-9f;
  for (int64_t r = 0; r < repeats; ++r) {
#pragma GCC unroll 10
    for (Lanes& sum : sums) {
      sum += a * b;
#if defined(__aarch64__)
      asm volatile("" : "+w"(sum), "+w"(a));
#else
      asm volatile("" : "+v"(sum), "+v"(a));  // nothing is known of them: each is computed, in its register
#endif
    }
  }
  return repeats * SUMS * LANES * 2;
}

}  // namespace mnmt
