#include "cpu.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>

#include "tile.h"

namespace mnmt {

namespace {

constexpr int BLOCK = TALL * (112 / TALL);  // words that a thread takes through all steps while they are in its cache
constexpr int SEGMENT = 128;                // of a packed row; rows lie SEGMENT + 16 apart, clear of cache aliasing
constexpr int STEP = SEGMENT + 16;
constexpr int PARTS = 16;  // of the vocabulary, a thread, in statistics: a slow thread takes fewer
constexpr int NEAR = 256 / GROUP;  // groups whose hidden states, GROUP widths of them, stay near

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float[], Free>;

Buffer buffer(int64_t n) {
  void* p = std::aligned_alloc(64, std::max<int64_t>(64, ceil_div(n * 4, 64) * 64));
  if (!p) throw std::bad_alloc();
  return Buffer(static_cast<float*>(p));
}

float widen(float x) { return x; }
float widen(_Float16 x) { return static_cast<float>(x); }
struct Brain {
  uint16_t bits;
};
float widen(Brain x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

template <class T>
void fetch_as(const Matrix& m, int64_t row, int64_t from, int64_t n, float* to) {
  const T* p = static_cast<const T*>(m.data) + row * m.stride + from;
  for (int64_t i = 0; i < n; ++i) to[i] = widen(p[i]);
}

// Asks for rows of GROUP numbers that will be read or written soon and lie too far away for the CPU to guess; a few
// with every tile, since many at once wait for one another.
template <int PLACES>
struct Ahead {
  const float* at[PLACES];
  int64_t rows;
  ROW void ask(int64_t most) {
    constexpr int LINE = 64 / sizeof(float);
    const int64_t n = std::min(most, rows) * GROUP;
    for (auto& from : at) {
      for (int64_t i = 0; i < n; i += LINE) __builtin_prefetch(from + i, 0, 2);
      from += n;
    }
    rows -= n / GROUP;
  }
};

void fetch(const Matrix& m, int64_t row, int64_t from, int64_t n, float* to) {
  switch (m.kind) {
    case Kind::float32: return fetch_as<float>(m, row, from, n, to);
    case Kind::bfloat16: return fetch_as<Brain>(m, row, from, n, to);
    case Kind::float16: return fetch_as<_Float16>(m, row, from, n, to);
  }
}

// [group][width][GROUP]: the transposed hidden states, padding tokens 0.
Buffer pack_columns(const std::vector<Matrix>& hidden, int64_t tokens, int threads) {
  const int64_t per = groups(tokens), width = hidden[0].width, total = per * int64_t(hidden.size());
  Buffer packed = buffer(total * width * GROUP);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t g = 0; g < total; ++g) {
    std::vector<float> row(width);
    float* to = packed.get() + g * width * GROUP;
    for (int64_t t = 0; t < GROUP; ++t) {
      const int64_t token = g % per * GROUP + t;
      if (token < tokens) fetch(hidden[g / per], token, 0, width, row.data());
      else std::fill(row.begin(), row.end(), 0.f);
      for (int64_t d = 0; d < width; ++d) to[d * GROUP + t] = row[d];
    }
  }
  return packed;
}

// [panel of GROUP widths][group][token][GROUP widths]: hidden states cut into panels, zeros outside.
Buffer pack_panels(const std::vector<Matrix>& hidden, int64_t tokens, int threads) {
  const int64_t per = groups(tokens), width = hidden[0].width, total = per * int64_t(hidden.size());
  const int64_t panels = ceil_div(width, GROUP);
  Buffer packed = buffer(panels * total * GROUP * GROUP);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t g = 0; g < total; ++g) {
    for (int64_t t = 0; t < GROUP; ++t) {
      const int64_t token = g % per * GROUP + t;
      for (int64_t q = 0; q < panels; ++q) {
        float* to = packed.get() + ((q * total + g) * GROUP + t) * GROUP;
        const int64_t n = token < tokens ? std::min<int64_t>(GROUP, width - q * GROUP) : 0;
        if (n) fetch(hidden[g / per], token, q * GROUP, n, to);
        std::fill(to + n, to + GROUP, 0.f);
      }
    }
  }
  return packed;
}

int64_t packed_rows_size(int64_t width) { return int64_t(BLOCK) * ceil_div(width, SEGMENT) * STEP; }

// [panel of TALL words][segment][TALL][STEP]: a block of the projection's rows; words past the end are 0.
void pack_rows(const Matrix& projection, int64_t first, float* to) {
  const int64_t segments = ceil_div(projection.width, SEGMENT);
  for (int64_t r = 0; r < BLOCK; ++r) {
    for (int64_t s = 0; s < segments; ++s) {
      float* row = to + ((r / TALL * segments + s) * TALL + r % TALL) * STEP;
      const int64_t n = std::min<int64_t>(SEGMENT, projection.width - s * SEGMENT);
      if (first + r < projection.rows) fetch(projection, first + r, s * SEGMENT, n, row);
      else std::fill(row, row + n, 0.f);
    }
  }
}

// A block of logits of one group: z[word][GROUP] = rows * columns.
void multiply_rows(const float* rows, const float* columns, int64_t width, int64_t panels, float* z,
                   Ahead<1> ahead) {
  const int64_t segments = ceil_div(width, SEGMENT);
  for (int64_t s = 0; s < segments; ++s) {  // a segment of the columns stays in the first cache for all panels
    const int64_t n = std::min<int64_t>(SEGMENT, width - s * SEGMENT);
    for (int64_t q = 0; q < panels; ++q) {
      Tile tile;
      float* to = z + q * TALL * GROUP;
      ahead.ask(ceil_div(TALL, segments));
      if (s) tile.read(to, GROUP);
      else tile.clear();
      tile.add<STEP, 1>(rows + (q * segments + s) * TALL * STEP, columns + s * SEGMENT * GROUP, n);
      tile.write(to, GROUP, TALL);
    }
  }
}

// One of several nearly equal ranges of blocks.
struct Share {
  int64_t begin, end;
  Share(int64_t blocks, int part, int parts) : begin(blocks * part / parts), end(blocks * (part + 1) / parts) {}
};

template <int K>
struct Running {  // statistics of LANES tokens
  Student<Lanes> student[K];
  Teacher<Lanes, K> teacher[MOST_TEACHERS];
  Mass<Lanes> cool[MOST_TEACHERS];     // teacher at temperature 1, where its own differs
  Mass<Lanes> warm[MOST_TEACHERS][K];  // student at the teacher's temperature
  void clear() {
    for (auto& s : student) s = Student<Lanes>::none();
    for (auto& t : teacher) t = Teacher<Lanes, K>::none();
    for (auto& m : cool) m = Mass<Lanes>::none();
    for (auto& row : warm)
      for (auto& m : row) m = Mass<Lanes>::none();
  }
  void join(const Running& next, int teachers) {
    for (int k = 0; k < K; ++k) student[k] = merge(student[k], next.student[k]);
    for (int j = 0; j < teachers; ++j) {
      teacher[j] = merge(teacher[j], next.teacher[j]);
      cool[j] = merge(cool[j], next.cool[j]);
      for (int k = 0; k < K; ++k) warm[j][k] = merge(warm[j][k], next.warm[j][k]);
    }
  }
};

// A SIMD vector of each of K (or J) logits; `step` floats between them.
template <int K>
ROW void load_all(const float* from, int64_t step, Lanes* to) {
  for (int k = 0; k < K; ++k) to[k] = load(from + k * step);
}

template <int K>
void absorb_block(Running<K>& run, const Chunk& c, const float* z, const float* y, int64_t step, int n, int first) {
  for (int k = 0; k < K; ++k) {
    const auto at = [=](int i) { return load(z + k * step + i * GROUP); };
    if (c.teachers) absorb<true>(run.student[k], at, at, n, first);
    else absorb<false>(run.student[k], at, at, n, first);
  }
  const auto student = [=](int k, int i) { return load(z + k * step + i * GROUP); };
  for (int j = 0; j < c.teachers; ++j) {
    const auto teacher = [=](int i) { return load(y + j * step + i * GROUP); };
    const float scale = 1.f / c.temperature[j];
    absorb<Lanes, K>(run.teacher[j], teacher, student, n, first, scale);
    if (scale == 1.f) continue;
    absorb(run.cool[j], teacher, n, 1.f);
    for (int k = 0; k < K; ++k) absorb(run.warm[j][k], [=](int i) { return student(k, i); }, n, scale);
  }
}

void write_lanes(float* row, int64_t first, int64_t tokens, Lanes x) {
  for (int i = 0; i < LANES && first + i < tokens; ++i) row[first + i] = x[i];
}

Level<Lanes> level(const Mass<Lanes>& m) {
  Level<Lanes> x{m.top, {}};
  for (int i = 0; i < LANES; ++i) x.log[i] = std::log(m.sum[i]);
  return x;
}

template <int K>
void write_found(const Chunk& c, const Running<K>& run, int64_t first, float* found) {
  const auto row = [&](int64_t r, Lanes x) { write_lanes(found + r * c.tokens, first, c.tokens, x); };
  const auto rows = [&](int64_t r, const Level<Lanes>& x) {
    row(r, x.top);
    row(r + 1, x.log);
  };
  for (int k = 0; k < K; ++k) {
    rows(PASS_ROWS * k, level(run.student[k].mass));
    row(PASS_ROWS * k + 2, run.student[k].total);
    row(PASS_ROWS * k + 4, run.student[k].best);
  }
  for (int j = 0; j < c.teachers; ++j) {
    const int64_t base = PASS_ROWS * K + j * teacher_rows(K);
    const Level<Lanes> own = level(run.teacher[j].mass);
    const bool warm = c.temperature[j] != 1.f;
    rows(base, warm ? level(run.cool[j]) : own);
    rows(base + 2, own);
    row(base + 5, run.teacher[j].best);
    for (int k = 0; k < K; ++k) {
      row(base + 6 + 3 * k, run.teacher[j].dot[k] / run.teacher[j].mass.sum);
      rows(base + 7 + 3 * k, level(warm ? run.warm[j][k] : run.student[k].mass));
    }
  }
}

// The gold logits of the tokens whose gold word is in this block.
void write_gold(const Chunk& c, const float* z, int64_t group, int64_t first, float* row) {
  for (int64_t t = group * GROUP; t < std::min((group + 1) * GROUP, c.tokens); ++t) {
    const int64_t r = c.gold[t] - first;
    if (r >= 0 && r < BLOCK) row[t] = z[r * GROUP + t % GROUP];
  }
}

// Logits of a part of the vocabulary, block by block, each absorbed while it is in the cache.
template <int K>
void take_part(const Chunk& c, const Share& part, const float* columns, const std::vector<Buffer>& teacher_columns,
               float* rows, Running<K>* run, float* found) {
  const int64_t per = groups(c.tokens), high = padded(c.words);
  const int64_t step = per * high * GROUP;  // from one pass (or teacher) to the next
  for (int64_t b = part.begin; b < part.end; ++b) {
    const int64_t first = b * BLOCK, n = std::min<int64_t>(BLOCK, c.words - first), panels = ceil_div(n, TALL);
    const auto block = [&](float* z, int64_t slot, int64_t g) { return z + slot * step + (g * high + first) * GROUP; };
    for (int j = 0; j < c.teachers; ++j) {
      const int64_t width = c.teacher_projection[j].width;
      pack_rows(c.teacher_projection[j], first, rows);
      for (int64_t g = 0; g < per; ++g) {
        float* y = block(c.teacher_logits, j, g);
        const Ahead<1> next{{y + high * GROUP}, g + 1 < per ? n : 0};
        multiply_rows(rows, teacher_columns[j].get() + g * width * GROUP, width, panels, y, next);
        if (c.vocabulary[j])
          for (int64_t v = 0; v < n; ++v)
            if (!c.vocabulary[j][first + v]) std::fill(y + v * GROUP, y + (v + 1) * GROUP, LOWEST);
        write_gold(c, y, g, first, found + (PASS_ROWS * K + j * teacher_rows(K) + 4) * c.tokens);
      }
    }
    const int64_t width = c.projection.width;
    pack_rows(c.projection, first, rows);
    for (int64_t g = 0; g < per; ++g) {
      for (int k = 0; k < K; ++k) {
        float* z = block(c.logits, k, g);
        const Ahead<1> next{{z + high * GROUP}, g + 1 < per ? n : 0};
        multiply_rows(rows, columns + (k * per + g) * width * GROUP, width, panels, z, next);
        write_gold(c, z, g, first, found + (PASS_ROWS * k + 3) * c.tokens);
      }
      for (int half = 0; half < 2; ++half) {
        const float* y = c.teachers ? block(c.teacher_logits, 0, g) + half * LANES : nullptr;
        absorb_block<K>(run[2 * g + half], c, block(c.logits, 0, g) + half * LANES, y, step, int(n), int(first));
      }
    }
  }
}

template <int K>
void statistics_of(const Chunk& c, float* found) {
  const int64_t rows_of_lanes = groups(c.tokens) * 2, blocks = ceil_div(c.words, BLOCK);
  const int parts = int(std::min<int64_t>(int64_t(PARTS) * c.threads, blocks)), threads = std::min(c.threads, parts);
  const Buffer columns = pack_columns(c.hidden, c.tokens, c.threads);
  std::vector<Buffer> teacher_columns;
  int64_t size = packed_rows_size(c.projection.width);
  for (int j = 0; j < c.teachers; ++j) {
    teacher_columns.push_back(pack_columns({c.teacher_hidden[j]}, c.tokens, c.threads));
    size = std::max(size, packed_rows_size(c.teacher_projection[j].width));
  }
  std::vector<Running<K>> running(parts * rows_of_lanes);
#pragma omp parallel num_threads(threads)
  {
    const Buffer rows = buffer(size);
#pragma omp for schedule(dynamic)
    for (int part = 0; part < parts; ++part) {
      Running<K>* run = running.data() + part * rows_of_lanes;
      for (int64_t i = 0; i < rows_of_lanes; ++i) run[i].clear();
      take_part<K>(c, Share(blocks, part, parts), columns.get(), teacher_columns, rows.get(), run, found);
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows_of_lanes; ++i) {
      for (int part = 1; part < parts; ++part) running[i].join(running[part * rows_of_lanes + i], c.teachers);
      write_found<K>(c, running[i], i * LANES, found);
    }
  }
}

Lanes read_lanes(const float* row, int64_t first, int64_t tokens) {
  Lanes x{};
  for (int i = 0; i < LANES && first + i < tokens; ++i) x[i] = row[first + i];
  return x;
}

template <int K>
void divergence_of(const Chunk& c, const float* found, float* diverging) {
  const int64_t per = groups(c.tokens), high = padded(c.words), step = per * high * GROUP;
#pragma omp parallel for schedule(static) num_threads(c.threads)
  for (int64_t g = 0; g < per * 2; ++g) {
    Level<Lanes> pass[K];
    for (int k = 0; k < K; ++k) {
      const float* row = found + PASS_ROWS * k * c.tokens;
      pass[k] = {read_lanes(row, g * LANES, c.tokens), read_lanes(row + c.tokens, g * LANES, c.tokens)};
    }
    auto whole = Divergence<Lanes, K>::none();
    const float* at = c.logits + g / 2 * high * GROUP + g % 2 * LANES;
    for (int64_t v = 0; v < c.words;) {
      auto part = Divergence<Lanes, K>::none();  // short sums first: they lose less to rounding
      for (const int64_t end = std::min<int64_t>(v + BLOCK, c.words); v < end; ++v) {
        Lanes z[K];
        load_all<K>(at + v * GROUP, step, z);
        absorb<Lanes, K>(part, z, pass);
      }
      whole.value += part.value;
      for (int k = 0; k < K; ++k) whole.lean[k] += part.lean[k];
    }
    write_lanes(diverging, g * LANES, c.tokens, whole.value);
    for (int k = 0; k < K; ++k) write_lanes(diverging + (k + 1) * c.tokens, g * LANES, c.tokens, whole.lean[k]);
  }
}

template <int K, int J>
Slope<float, K, J> slope_of(const Chunk& c, const Demand& want, int64_t token, float* gold) {
  const auto at = [&](const float* rows, int64_t row) { return rows[row * c.tokens + token]; };
  const auto level_at = [&](int64_t row) { return Level<float>{at(want.found, row), at(want.found, row + 1)}; };
  Known<K, J> t{};
  t.weight = want.weight[token];
  for (int k = 0; k < K; ++k) {
    t.pass[k] = level_at(PASS_ROWS * k);
    t.lean[k] = K > 1 ? at(want.lean, k) : 0.f;
  }
  for (int j = 0; j < J; ++j) {
    const int64_t base = PASS_ROWS * K + j * teacher_rows(K);
    t.temperature[j] = c.temperature[j];
    t.teacher[j] = level_at(base + 2);
    t.teacher_weight[j] = at(want.teacher_weight, j);
    for (int k = 0; k < K; ++k) {
      t.warm[j][k] = level_at(base + 7 + 3 * k);
      t.gate[j][k] = at(want.gate, j * K + k);
    }
  }
  return make_slope<K, J>(t, want.smoothing, float(c.words), want.divergence_weight, 1.f, gold);
}

// LANES tokens' slopes, one in each lane; lanes past the last token make no gradient.
template <int K, int J>
Slope<Lanes, K, J> slopes_of(const Chunk& c, const Demand& want, int64_t first, float* gold) {
  Slope<Lanes, K, J> all{};
  for (int j = 0; j < J; ++j) all.scale[j] = 1.f / c.temperature[j];
  for (int i = 0; i < LANES && first + i < c.tokens; ++i) {
    const auto one = slope_of<K, J>(c, want, first + i, gold + first + i);
    all.floor[i] = one.floor;
    all.divergence[i] = one.divergence;
    for (int k = 0; k < K; ++k) {
      all.pass[k].top[i] = one.pass[k].top;
      all.pass[k].log[i] = one.pass[k].log;
      all.mass[k][i] = one.mass[k];
      all.lean[k][i] = one.lean[k];
    }
    for (int j = 0; j < J; ++j) {
      all.teacher[j].top[i] = one.teacher[j].top;
      all.teacher[j].log[i] = one.teacher[j].log;
      for (int k = 0; k < K; ++k) {
        all.warm[j][k].top[i] = one.warm[j][k].top;
        all.warm[j][k].log[i] = one.warm[j][k].log;
        all.pull[j][k][i] = one.pull[j][k];
      }
    }
  }
  return all;
}

template <int K, int J>
void gradient_block(const Slope<Lanes, K, J>& s, const float* z, const float* y, int64_t step, int64_t n, float* dz,
                    int64_t apart) {
  for (int64_t v = 0; v < n; ++v) {
    Lanes from[K], teacher[J + 1], to[K];
    load_all<K>(z + v * GROUP, step, from);
    load_all<J>(y + v * GROUP, step, teacher);
    gradient<Lanes, K, J>(s, from, teacher, to);
    for (int k = 0; k < K; ++k) store(dz + k * apart + v * GROUP, to[k]);
  }
}

// sums[panel of TALL widths][TALL][GROUP] += projection block (transposed) * gradient block.
template <int PLACES>
void add_hidden(const float* rows, const float* dz, int64_t panels, int n, float* sums, Ahead<PLACES>& ahead,
                int64_t asked) {
  for (int64_t q = 0; q < panels; ++q) {
    ahead.ask(asked);
    Tile tile;  // sums of a block's words from 0: short sums lose less to rounding than one long one
    tile.clear();
    tile.add<1, TALL>(rows + q * BLOCK * TALL, dz, n);
    float* to = sums + q * TALL * GROUP;
    for (int i = 0; i < TALL; ++i, to += GROUP) {
      store(to, load(to) + tile.sum[i][0]);
      store(to + LANES, load(to + LANES) + tile.sum[i][1]);
    }
  }
}

// [panel of TALL widths][BLOCK words][TALL]; a few words at a time, whose rows the CPU can follow side by side.
void pack_across(const Matrix& projection, int64_t first, int64_t n, float* to) {
  constexpr int64_t FEW = 8;
  for (int64_t begin = 0; begin < n; begin += FEW) {
    const int64_t end = std::min(begin + FEW, n);
    for (int64_t d = 0; d < projection.width; d += TALL) {
      const int64_t m = std::min<int64_t>(TALL, projection.width - d);
      float* at = to + d * BLOCK + begin * TALL;
      for (int64_t v = first + begin; v < first + end; ++v, at += TALL) {
        if (projection.kind == Kind::float32 && m == TALL) {
          std::memcpy(at, static_cast<const float*>(projection.data) + v * projection.stride + d, TALL * sizeof(float));
        } else {
          fetch(projection, v, d, m, at);
          std::fill(at + m, at + TALL, 0.f);
        }
      }
    }
  }
}

// The first `rows` rows of a tile written (fresh) or added to a matrix, `columns` of them.
void add_rows(const Tile& tile, float* to, int64_t width, int64_t rows, int64_t columns, bool fresh) {
  for (int64_t i = 0; i < rows; ++i, to += width) {
    if (columns == GROUP) {
      store(to, fresh ? tile.sum[i][0] : load(to) + tile.sum[i][0]);
      store(to + LANES, fresh ? tile.sum[i][1] : load(to + LANES) + tile.sum[i][1]);
    } else {
      float flat[GROUP];
      store(flat, tile.sum[i][0]);
      store(flat + LANES, tile.sum[i][1]);
      for (int64_t d = 0; d < columns; ++d) to[d] = fresh ? flat[d] : to[d] + flat[d];
    }
  }
}

// A block's rows of the projection's gradient: gradients of `all` groups, [group][BLOCK][GROUP], times hidden states.
void add_projection(const float* dz, const float* panels, int64_t all, int64_t n, int64_t width, float* to, bool fresh) {
  for (int64_t begin = 0; begin < all; begin += NEAR) {  // some groups' hidden states stay in the first cache
    const int64_t end = std::min<int64_t>(begin + NEAR, all);
    for (int64_t q = 0; q < ceil_div(width, GROUP); ++q) {
      for (int64_t v = 0; v < n; v += TALL) {
        Tile tile;
        tile.clear();
        float* corner = to + v * width + q * GROUP;
        const float* next = corner;
        const int64_t rows = std::min<int64_t>(TALL, n - v);
        int64_t left = rows;
        for (int64_t g = begin; g < end; ++g) {
          for (int i = 0; i < 2 && left > 0; ++i, --left, next += width) Ahead<1>{{next}, 1}.ask(1);
          tile.add<GROUP, 1>(dz + (g * BLOCK + v) * GROUP, panels + (q * all + g) * GROUP * GROUP, GROUP);
        }
        add_rows(tile, corner, width, rows, std::min<int64_t>(GROUP, width - q * GROUP), fresh && begin == 0);
      }
    }
  }
}

template <int K, int J>
void gradients_of(const Chunk& c, const Demand& want, float* dhidden, float* dprojection, bool fresh) {
  const int64_t per = groups(c.tokens), high = padded(c.words), blocks = ceil_div(c.words, BLOCK);
  const int64_t step = per * high * GROUP, width = c.projection.width, all = K * per;
  const int64_t apart = per * BLOCK * GROUP;  // from one pass's gradients of a block to the next
  const int64_t tall = ceil_div(width, TALL), sums_size = tall * TALL * GROUP;
  const int threads = int(std::max<int64_t>(1, std::min<int64_t>(c.threads, blocks)));
  std::vector<float> gold(c.tokens);
  std::vector<Slope<Lanes, K, J>> slopes(per * 2);
  for (int64_t g = 0; g < per * 2; ++g) slopes[g] = slopes_of<K, J>(c, want, g * LANES, gold.data());
  const Buffer panels = dprojection ? pack_panels(c.hidden, c.tokens, c.threads) : buffer(0);
  const Buffer sums = buffer(dhidden ? threads * all * sums_size : 0);
  std::vector<std::atomic_flag> taken(blocks);  // blocks whose rows of the projection's gradient a thread makes
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    const Buffer rows = buffer(dhidden ? tall * TALL * BLOCK : 0), dz = buffer(K * apart);
    std::fill(dz.get(), dz.get() + K * apart, 0.f);
    float* mine = sums.get() + thread * all * sums_size;
    if (dhidden) std::fill(mine, mine + all * sums_size, 0.f);
    const auto take = [&](int64_t b, bool hidden, bool projection) {
      const int64_t first = b * BLOCK, n = std::min<int64_t>(BLOCK, c.words - first);
      const int64_t asked = ceil_div(n, K * tall);
      if (hidden) pack_across(c.projection, first, n, rows.get());
      for (int64_t g = 0; g < per; ++g) {
        const float* z = c.logits + (g * high + first) * GROUP;
        const float* y = c.teacher_logits + (J ? (g * high + first) * GROUP : 0);
        float* to = dz.get() + g * BLOCK * GROUP;
        Ahead<K + J> next{{}, g + 1 < per ? n : 0};
        for (int k = 0; k < K; ++k) next.at[k] = z + k * step + high * GROUP;
        for (int j = 0; j < J; ++j) next.at[K + j] = y + j * step + high * GROUP;
        if (!hidden) next.ask(n);
        for (int half = 0; half < 2; ++half)
          gradient_block<K, J>(slopes[2 * g + half], z + half * LANES, y + (J ? half * LANES : 0), step, n,
                               to + half * LANES, apart);
        for (int64_t t = g * GROUP; t < std::min((g + 1) * GROUP, c.tokens); ++t) {
          const int64_t r = c.gold[t] - first;
          if (r >= 0 && r < n)
            for (int k = 0; k < K; ++k) to[k * apart + r * GROUP + t % GROUP] -= gold[t];
        }
        for (int k = 0; k < K && hidden; ++k)
          add_hidden(rows.get(), to + k * apart, tall, int(n), mine + (k * per + g) * sums_size, next, asked);
      }
      if (projection) add_projection(dz.get(), panels.get(), all, n, width, dprojection + first * width, fresh);
    };
    const Share own(blocks, thread, threads);
    for (int64_t b = own.begin; b < own.end; ++b) {
      const bool projection = dprojection && !taken[b].test_and_set();
      if (dhidden || projection) take(b, dhidden, projection);
    }
    for (int t = 1; t < threads && dprojection; ++t) {  // help slower threads, from their ends; sums stay their own
      const Share other(blocks, (thread + t) % threads, threads);
      for (int64_t b = other.end - 1; b >= other.begin; --b)
        if (!taken[b].test_and_set()) take(b, false, true);
    }
#pragma omp barrier
    if (dhidden) {
#pragma omp for schedule(static)
      for (int64_t g = 0; g < all; ++g) {
        float* first = sums.get() + g * sums_size;
        for (int t = 1; t < threads; ++t) {
          const float* other = sums.get() + (t * all + g) * sums_size;
          for (int64_t i = 0; i < sums_size; ++i) first[i] += other[i];
        }
        for (int64_t t = 0; t < std::min<int64_t>(GROUP, c.tokens - g % per * GROUP); ++t) {
          float* to = dhidden + (g / per * c.tokens + g % per * GROUP + t) * width;
          for (int64_t d = 0; d < width; ++d) to[d] = first[d * GROUP + t];
        }
      }
    }
  }
}

template <int K>
void gradients_for(const Chunk& c, const Demand& want, float* dh, float* dw, bool fresh) {
  switch (c.teachers) {
    case 0: return gradients_of<K, 0>(c, want, dh, dw, fresh);
    case 1: return gradients_of<K, 1>(c, want, dh, dw, fresh);
    default: return gradients_of<K, 2>(c, want, dh, dw, fresh);
  }
}

}  // namespace

int64_t groups(int64_t tokens) { return ceil_div(tokens, GROUP); }
int64_t padded(int64_t words) { return ceil_div(words, TALL) * TALL; }
int64_t lanes_of_a_group() { return GROUP; }

void statistics(const Chunk& c, float* found) {
  switch (c.passes) {
    case 1: return statistics_of<1>(c, found);
    case 2: return statistics_of<2>(c, found);
    case 3: return statistics_of<3>(c, found);
    default: return statistics_of<4>(c, found);
  }
}

void divergence(const Chunk& c, const float* found, float* diverging) {
  switch (c.passes) {
    case 2: return divergence_of<2>(c, found, diverging);
    case 3: return divergence_of<3>(c, found, diverging);
    default: return divergence_of<4>(c, found, diverging);
  }
}

void gradients(const Chunk& c, const Demand& want, float* dh, float* dw, bool fresh) {
  switch (c.passes) {
    case 1: return gradients_for<1>(c, want, dh, dw, fresh);
    case 2: return gradients_for<2>(c, want, dh, dw, fresh);
    case 3: return gradients_for<3>(c, want, dh, dw, fresh);
    default: return gradients_for<4>(c, want, dh, dw, fresh);
  }
}

}  // namespace mnmt
