#include "cpu.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "pack.h"

namespace mnmt {

namespace {

constexpr int PARTS_PER_THREAD = 16;  // of the vocabulary, in statistics: a slow thread takes fewer
constexpr int CACHED_GROUPS = 256 / GROUP;  // groups whose hidden states, GROUP widths of them, stay in the first cache

// A block of logits of one group: z[word][GROUP] = rows * columns.
void multiply_rows(const float* rows, const float* columns, int64_t width, int64_t panels, float* z,
                   Prefetcher<1> prefetcher) {
  const int64_t segments = ceil_div(width, SEGMENT);
  for (int64_t s = 0; s < segments; ++s) {  // a segment of the columns stays in the first cache for all panels
    const int64_t n = std::min<int64_t>(SEGMENT, width - s * SEGMENT);
    for (int64_t q = 0; q < panels; ++q) {
      Tile tile;
      float* to = z + q * TILE_ROWS * GROUP;
      prefetcher.prefetch(ceil_div(TILE_ROWS, segments));
      if (s) tile.read(to, GROUP);
      else tile.clear();
      const float* panel = rows + (q * segments + s) * TILE_ROWS * SEGMENT_STRIDE;
      tile.add<SEGMENT_STRIDE, 1>(panel, columns + s * SEGMENT * GROUP, n);
      tile.write(to, GROUP, TILE_ROWS);
    }
  }
}

// One of several nearly equal ranges of the vocabulary's blocks.
struct BlockRange {
  int64_t begin, end;
  BlockRange(int64_t blocks, int part, int parts) : begin(blocks * part / parts), end(blocks * (part + 1) / parts) {}
};

// The running statistics of LANES tokens.
template <int K>
struct RunningStatistics {
  StudentStatistics<Lanes> student[K];
  TeacherStatistics<Lanes, K> teacher[MAX_TEACHERS];
  LogSumExp<Lanes> teacher_at_one[MAX_TEACHERS];             // at temperature 1, where the teacher's own differs
  LogSumExp<Lanes> student_at_temperature[MAX_TEACHERS][K];  // at the teacher's temperature
  void clear() {
    for (auto& s : student) s = StudentStatistics<Lanes>::empty();
    for (auto& t : teacher) t = TeacherStatistics<Lanes, K>::empty();
    for (auto& lse : teacher_at_one) lse = LogSumExp<Lanes>::empty();
    for (auto& row : student_at_temperature)
      for (auto& lse : row) lse = LogSumExp<Lanes>::empty();
  }
  void merge_with(const RunningStatistics& next, int teachers) {
    for (int k = 0; k < K; ++k) student[k] = merge(student[k], next.student[k]);
    for (int j = 0; j < teachers; ++j) {
      teacher[j] = merge(teacher[j], next.teacher[j]);
      teacher_at_one[j] = merge(teacher_at_one[j], next.teacher_at_one[j]);
      for (int k = 0; k < K; ++k)
        student_at_temperature[j][k] = merge(student_at_temperature[j][k], next.student_at_temperature[j][k]);
    }
  }
};

// Loads a vector of each of K (or J) logits; `step` floats between them.
template <int K>
INLINE void load_all(const float* from, int64_t step, Lanes* to) {
  for (int k = 0; k < K; ++k) to[k] = load(from + k * step);
}

// Adds a block of n words to the statistics of LANES tokens; z, y: logits of students and teachers, `step` floats from
// one pass (or teacher) to the next.
template <int K>
void update_block(RunningStatistics<K>& running, const Chunk& c, const float* z, const float* y, int64_t step, int n,
                  int first) {
  for (int k = 0; k < K; ++k) {
    const auto at = [=](int i) { return load(z + k * step + i * GROUP); };
    if (c.teachers) update<true>(running.student[k], at, at, n, first);
    else update<false>(running.student[k], at, at, n, first);
  }
  const auto student = [=](int k, int i) { return load(z + k * step + i * GROUP); };
  for (int j = 0; j < c.teachers; ++j) {
    const auto teacher = [=](int i) { return load(y + j * step + i * GROUP); };
    const float scale = 1.f / c.temperature[j];
    update<Lanes, K>(running.teacher[j], teacher, student, n, first, scale);
    if (scale == 1.f) continue;
    update(running.teacher_at_one[j], teacher, n, 1.f);
    for (int k = 0; k < K; ++k)
      update(running.student_at_temperature[j][k], [=](int i) { return student(k, i); }, n, scale);
  }
}

// Writes the lanes of the tokens from `first` on that exist.
void write_lanes(float* row, int64_t first, int64_t tokens, Lanes x) {
  for (int i = 0; i < LANES && first + i < tokens; ++i) row[first + i] = x[i];
}

// The finished log-sum-exp of LANES tokens.
LogNormalizer<Lanes> log_normalizer(const LogSumExp<Lanes>& lse) {
  LogNormalizer<Lanes> x{lse.max, {}};
  for (int i = 0; i < LANES; ++i) x.log_sum[i] = std::log(lse.sum[i]);
  return x;
}

// Writes the packed statistics of LANES tokens, all but the gold logits.
template <int K>
void write_statistics(const Chunk& c, const RunningStatistics<K>& running, int64_t first, float* packed) {
  const auto row = [&](int64_t r, Lanes x) { write_lanes(packed + r * c.tokens, first, c.tokens, x); };
  const auto normalizer = [&](int64_t r, const LogNormalizer<Lanes>& x) {
    row(r, x.max);
    row(r + 1, x.log_sum);
  };
  for (int k = 0; k < K; ++k) {
    normalizer(PASS_ROWS * k, log_normalizer(running.student[k].lse));
    row(PASS_ROWS * k + 2, running.student[k].logit_sum);
    row(PASS_ROWS * k + 4, running.student[k].argmax);
  }
  for (int j = 0; j < c.teachers; ++j) {
    const int64_t base = PASS_ROWS * K + j * teacher_rows(K);
    const LogNormalizer<Lanes> teacher = log_normalizer(running.teacher[j].lse);
    const bool tempered = c.temperature[j] != 1.f;
    normalizer(base, tempered ? log_normalizer(running.teacher_at_one[j]) : teacher);
    normalizer(base + 2, teacher);
    row(base + 5, running.teacher[j].argmax);
    for (int k = 0; k < K; ++k) {
      row(base + 6 + 3 * k, running.teacher[j].dot[k] / running.teacher[j].lse.sum);
      const LogSumExp<Lanes>& student = tempered ? running.student_at_temperature[j][k] : running.student[k].lse;
      normalizer(base + 7 + 3 * k, log_normalizer(student));
    }
  }
}

// Writes the gold logits of a group's tokens whose gold word is in this block.
void write_gold(const Chunk& c, const float* z, int64_t group, int64_t first, float* row) {
  for (int64_t t = group * GROUP; t < std::min((group + 1) * GROUP, c.tokens); ++t) {
    const int64_t r = c.gold[t] - first;
    if (r >= 0 && r < BLOCK) row[t] = z[r * GROUP + t % GROUP];
  }
}

// Computes the logits of a range of blocks, and adds each to the statistics while it is in the cache.
template <int K>
void process_blocks(const Chunk& c, const BlockRange& range, const float* columns,
                    const std::vector<Buffer>& teacher_columns, float* rows, RunningStatistics<K>* running,
                    float* packed) {
  const int64_t groups_per_pass = groups(c.tokens), padded_vocab = padded(c.vocab_size);
  const int64_t step = groups_per_pass * padded_vocab * GROUP;  // from one pass (or teacher) to the next
  for (int64_t b = range.begin; b < range.end; ++b) {
    const int64_t first = b * BLOCK, n = std::min<int64_t>(BLOCK, c.vocab_size - first);
    const int64_t panels = ceil_div(n, TILE_ROWS);
    const auto block = [&](float* z, int64_t pass, int64_t g) {
      return z + pass * step + (g * padded_vocab + first) * GROUP;
    };
    for (int j = 0; j < c.teachers; ++j) {
      const int64_t width = c.teacher_projection[j].width;
      pack_rows(c.teacher_projection[j], first, rows);
      for (int64_t g = 0; g < groups_per_pass; ++g) {
        float* y = block(c.teacher_logits, j, g);
        const Prefetcher<1> next{{y + padded_vocab * GROUP}, g + 1 < groups_per_pass ? n : 0};
        multiply_rows(rows, teacher_columns[j].get() + g * width * GROUP, width, panels, y, next);
        if (c.vocabulary[j])
          for (int64_t v = 0; v < n; ++v)
            if (!c.vocabulary[j][first + v]) std::fill(y + v * GROUP, y + (v + 1) * GROUP, LOWEST);
        write_gold(c, y, g, first, packed + (PASS_ROWS * K + j * teacher_rows(K) + 4) * c.tokens);
      }
    }
    const int64_t width = c.projection.width;
    pack_rows(c.projection, first, rows);
    for (int64_t g = 0; g < groups_per_pass; ++g) {
      for (int k = 0; k < K; ++k) {
        float* z = block(c.logits, k, g);
        const Prefetcher<1> next{{z + padded_vocab * GROUP}, g + 1 < groups_per_pass ? n : 0};
        multiply_rows(rows, columns + (k * groups_per_pass + g) * width * GROUP, width, panels, z, next);
        write_gold(c, z, g, first, packed + (PASS_ROWS * k + 3) * c.tokens);
      }
      for (int half = 0; half < 2; ++half) {
        const float* y = c.teachers ? block(c.teacher_logits, 0, g) + half * LANES : nullptr;
        update_block<K>(running[2 * g + half], c, block(c.logits, 0, g) + half * LANES, y, step, int(n), int(first));
      }
    }
  }
}

// Statistics of K passes.
template <int K>
void statistics_of(const Chunk& c, float* packed) {
  const int64_t rows_of_lanes = groups(c.tokens) * 2, blocks = ceil_div(c.vocab_size, BLOCK);
  const int parts = int(std::min<int64_t>(int64_t(PARTS_PER_THREAD) * c.threads, blocks));
  const int threads = std::min(c.threads, parts);
  const Buffer columns = pack_columns(c.hidden, c.tokens, c.threads);
  std::vector<Buffer> teacher_columns;
  int64_t size = packed_rows_size(c.projection.width);
  for (int j = 0; j < c.teachers; ++j) {
    teacher_columns.push_back(pack_columns({c.teacher_hidden[j]}, c.tokens, c.threads));
    size = std::max(size, packed_rows_size(c.teacher_projection[j].width));
  }
  std::vector<RunningStatistics<K>> running(parts * rows_of_lanes);
#pragma omp parallel num_threads(threads)
  {
    const Buffer rows = buffer(size);
#pragma omp for schedule(dynamic)
    for (int part = 0; part < parts; ++part) {
      RunningStatistics<K>* part_statistics = running.data() + part * rows_of_lanes;
      for (int64_t i = 0; i < rows_of_lanes; ++i) part_statistics[i].clear();
      process_blocks<K>(c, BlockRange(blocks, part, parts), columns.get(), teacher_columns, rows.get(),
                        part_statistics, packed);
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows_of_lanes; ++i) {
      for (int part = 1; part < parts; ++part) running[i].merge_with(running[part * rows_of_lanes + i], c.teachers);
      write_statistics<K>(c, running[i], i * LANES, packed);
    }
  }
}

// Reads a row's numbers of the tokens from `first` on; 0 past the end.
Lanes read_lanes(const float* row, int64_t first, int64_t tokens) {
  Lanes x{};
  for (int i = 0; i < LANES && first + i < tokens; ++i) x[i] = row[first + i];
  return x;
}

// X-divergence of K passes.
template <int K>
void divergence_of(const Chunk& c, const float* packed, float* divergences) {
  const int64_t groups_per_pass = groups(c.tokens), padded_vocab = padded(c.vocab_size);
  const int64_t step = groups_per_pass * padded_vocab * GROUP;
#pragma omp parallel for schedule(static) num_threads(c.threads)
  for (int64_t g = 0; g < groups_per_pass * 2; ++g) {
    LogNormalizer<Lanes> student[K];
    for (int k = 0; k < K; ++k) {
      const float* row = packed + PASS_ROWS * k * c.tokens;
      student[k] = {read_lanes(row, g * LANES, c.tokens), read_lanes(row + c.tokens, g * LANES, c.tokens)};
    }
    auto total = DivergenceSums<Lanes, K>::empty();
    const float* at = c.logits + g / 2 * padded_vocab * GROUP + g % 2 * LANES;
    for (int64_t v = 0; v < c.vocab_size;) {
      auto part = DivergenceSums<Lanes, K>::empty();  // short sums first: they lose less to rounding
      for (const int64_t end = std::min<int64_t>(v + BLOCK, c.vocab_size); v < end; ++v) {
        Lanes z[K];
        load_all<K>(at + v * GROUP, step, z);
        update<Lanes, K>(part, z, student);
      }
      total.value += part.value;
      for (int k = 0; k < K; ++k) total.expected_log_ratio[k] += part.expected_log_ratio[k];
    }
    write_lanes(divergences, g * LANES, c.tokens, total.value);
    for (int k = 0; k < K; ++k)
      write_lanes(divergences + (k + 1) * c.tokens, g * LANES, c.tokens, total.expected_log_ratio[k]);
  }
}

// One token's coefficients.
template <int K, int J>
GradientCoefficients<float, K, J> token_coefficients(const Chunk& c, const GradientArguments& arguments, int64_t token,
                                                     float* gold) {
  const auto at = [&](const float* rows, int64_t row) { return rows[row * c.tokens + token]; };
  const auto normalizer_at = [&](int64_t row) {
    return LogNormalizer<float>{at(arguments.packed, row), at(arguments.packed, row + 1)};
  };
  TokenState<K, J> t{};
  t.weight = arguments.weight[token];
  for (int k = 0; k < K; ++k) {
    t.student[k] = normalizer_at(PASS_ROWS * k);
    t.expected_log_ratio[k] = K > 1 ? at(arguments.expected_log_ratio, k) : 0.f;
  }
  for (int j = 0; j < J; ++j) {
    const int64_t base = PASS_ROWS * K + j * teacher_rows(K);
    t.temperature[j] = c.temperature[j];
    t.teacher[j] = normalizer_at(base + 2);
    t.teacher_weight[j] = at(arguments.teacher_weight, j);
    for (int k = 0; k < K; ++k) {
      t.student_at_temperature[j][k] = normalizer_at(base + 7 + 3 * k);
      t.gate[j][k] = at(arguments.gate, j * K + k);
    }
  }
  return make_coefficients<K, J>(t, arguments.smoothing, float(c.vocab_size), arguments.divergence_weight, 1.f, gold);
}

// LANES tokens' coefficients, one in each lane; lanes past the last token make no gradient.
template <int K, int J>
GradientCoefficients<Lanes, K, J> lane_coefficients(const Chunk& c, const GradientArguments& arguments, int64_t first,
                                                    float* gold) {
  GradientCoefficients<Lanes, K, J> lanes{};
  for (int j = 0; j < J; ++j) lanes.scale[j] = 1.f / c.temperature[j];
  for (int i = 0; i < LANES && first + i < c.tokens; ++i) {
    const auto token = token_coefficients<K, J>(c, arguments, first + i, gold + first + i);
    lanes.smoothing_term[i] = token.smoothing_term;
    lanes.divergence[i] = token.divergence;
    for (int k = 0; k < K; ++k) {
      lanes.student[k].max[i] = token.student[k].max;
      lanes.student[k].log_sum[i] = token.student[k].log_sum;
      lanes.student_factor[k][i] = token.student_factor[k];
      lanes.expected_log_ratio[k][i] = token.expected_log_ratio[k];
    }
    for (int j = 0; j < J; ++j) {
      lanes.teacher[j].max[i] = token.teacher[j].max;
      lanes.teacher[j].log_sum[i] = token.teacher[j].log_sum;
      for (int k = 0; k < K; ++k) {
        lanes.student_at_temperature[j][k].max[i] = token.student_at_temperature[j][k].max;
        lanes.student_at_temperature[j][k].log_sum[i] = token.student_at_temperature[j][k].log_sum;
        lanes.kd_factor[j][k][i] = token.kd_factor[j][k];
      }
    }
  }
  return lanes;
}

// The derivatives of a block of n words for LANES tokens; `pass_stride` floats from one pass's to the next.
template <int K, int J>
void gradient_block(const GradientCoefficients<Lanes, K, J>& coefficients, const float* z, const float* y, int64_t step,
                    int64_t n, float* dz, int64_t pass_stride) {
  for (int64_t v = 0; v < n; ++v) {
    Lanes from[K], teacher[J + 1], to[K];
    load_all<K>(z + v * GROUP, step, from);
    load_all<J>(y + v * GROUP, step, teacher);
    gradient<Lanes, K, J>(coefficients, from, teacher, to);
    for (int k = 0; k < K; ++k) store(dz + k * pass_stride + v * GROUP, to[k]);
  }
}

// sums[panel of TILE_ROWS widths][TILE_ROWS][GROUP] += projection block (transposed) * gradient block.
template <int STREAMS>
void add_hidden(const float* rows, const float* dz, int64_t panels, int n, float* sums, Prefetcher<STREAMS>& prefetcher,
                int64_t prefetch_rows) {
  for (int64_t q = 0; q < panels; ++q) {
    prefetcher.prefetch(prefetch_rows);
    Tile tile;  // sums of a block's words from 0: short sums lose less to rounding than one long one
    tile.clear();
    tile.add<1, TILE_ROWS>(rows + q * BLOCK * TILE_ROWS, dz, n);
    float* to = sums + q * TILE_ROWS * GROUP;
    for (int i = 0; i < TILE_ROWS; ++i, to += GROUP) {
      store(to, load(to) + tile.sum[i][0]);
      store(to + LANES, load(to + LANES) + tile.sum[i][1]);
    }
  }
}

// Writes (overwrite) or adds the first `rows` rows and `columns` columns of a tile to a matrix.
void add_rows(const Tile& tile, float* to, int64_t width, int64_t rows, int64_t columns, bool overwrite) {
  for (int64_t i = 0; i < rows; ++i, to += width) {
    if (columns == GROUP) {
      store(to, overwrite ? tile.sum[i][0] : load(to) + tile.sum[i][0]);
      store(to + LANES, overwrite ? tile.sum[i][1] : load(to + LANES) + tile.sum[i][1]);
    } else {
      float flat[GROUP];
      store(flat, tile.sum[i][0]);
      store(flat + LANES, tile.sum[i][1]);
      for (int64_t d = 0; d < columns; ++d) to[d] = overwrite ? flat[d] : to[d] + flat[d];
    }
  }
}

// A block's rows of the projection's gradient: derivatives of all groups, [group][BLOCK][GROUP], times hidden states.
void add_projection(const float* dz, const float* panels, int64_t all_groups, int64_t n, int64_t width, float* to,
                    bool overwrite) {
  for (int64_t begin = 0; begin < all_groups; begin += CACHED_GROUPS) {
    const int64_t end = std::min<int64_t>(begin + CACHED_GROUPS, all_groups);
    for (int64_t q = 0; q < ceil_div(width, GROUP); ++q) {
      for (int64_t v = 0; v < n; v += TILE_ROWS) {
        Tile tile;
        tile.clear();
        float* corner = to + v * width + q * GROUP;
        const float* next = corner;
        const int64_t rows = std::min<int64_t>(TILE_ROWS, n - v);
        int64_t left = rows;
        for (int64_t g = begin; g < end; ++g) {
          for (int i = 0; i < 2 && left > 0; ++i, --left, next += width) Prefetcher<1>{{next}, 1}.prefetch(1);
          tile.add<GROUP, 1>(dz + (g * BLOCK + v) * GROUP, panels + (q * all_groups + g) * GROUP * GROUP, GROUP);
        }
        add_rows(tile, corner, width, rows, std::min<int64_t>(GROUP, width - q * GROUP), overwrite && begin == 0);
      }
    }
  }
}

// Gradients of K passes and J teachers.
template <int K, int J>
void gradients_of(const Chunk& c, const GradientArguments& arguments, float* dhidden, float* dprojection,
                  bool overwrite) {
  const int64_t groups_per_pass = groups(c.tokens), padded_vocab = padded(c.vocab_size);
  const int64_t blocks = ceil_div(c.vocab_size, BLOCK);
  const int64_t step = groups_per_pass * padded_vocab * GROUP, width = c.projection.width;
  const int64_t all_groups = K * groups_per_pass;
  const int64_t pass_stride = groups_per_pass * BLOCK * GROUP;  // from one pass's gradients of a block to the next
  const int64_t width_panels = ceil_div(width, TILE_ROWS), sums_size = width_panels * TILE_ROWS * GROUP;
  const int threads = int(std::max<int64_t>(1, std::min<int64_t>(c.threads, blocks)));
  std::vector<float> gold(c.tokens);
  std::vector<GradientCoefficients<Lanes, K, J>> coefficients(groups_per_pass * 2);
  for (int64_t g = 0; g < groups_per_pass * 2; ++g)
    coefficients[g] = lane_coefficients<K, J>(c, arguments, g * LANES, gold.data());
  const Buffer panels = dprojection ? pack_panels(c.hidden, c.tokens, c.threads) : buffer(0);
  const Buffer sums = buffer(dhidden ? threads * all_groups * sums_size : 0);
  std::vector<std::atomic_flag> is_taken(blocks);  // a thread makes these rows of the projection's gradient
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    const Buffer rows = buffer(dhidden ? width_panels * TILE_ROWS * BLOCK : 0), dz = buffer(K * pass_stride);
    std::fill(dz.get(), dz.get() + K * pass_stride, 0.f);
    float* thread_sums = sums.get() + thread * all_groups * sums_size;
    if (dhidden) std::fill(thread_sums, thread_sums + all_groups * sums_size, 0.f);
    const auto process_block = [&](int64_t b, bool hidden, bool projection) {
      const int64_t first = b * BLOCK, n = std::min<int64_t>(BLOCK, c.vocab_size - first);
      const int64_t prefetch_rows = ceil_div(n, K * width_panels);
      if (hidden) pack_across(c.projection, first, n, rows.get());
      for (int64_t g = 0; g < groups_per_pass; ++g) {
        const float* z = c.logits + (g * padded_vocab + first) * GROUP;
        const float* y = c.teacher_logits + (J ? (g * padded_vocab + first) * GROUP : 0);
        float* to = dz.get() + g * BLOCK * GROUP;
        Prefetcher<K + J> next_group{{}, g + 1 < groups_per_pass ? n : 0};
        for (int k = 0; k < K; ++k) next_group.next[k] = z + k * step + padded_vocab * GROUP;
        for (int j = 0; j < J; ++j) next_group.next[K + j] = y + j * step + padded_vocab * GROUP;
        if (!hidden) next_group.prefetch(n);
        for (int half = 0; half < 2; ++half)
          gradient_block<K, J>(coefficients[2 * g + half], z + half * LANES, y + (J ? half * LANES : 0), step, n,
                               to + half * LANES, pass_stride);
        for (int64_t t = g * GROUP; t < std::min((g + 1) * GROUP, c.tokens); ++t) {
          const int64_t r = c.gold[t] - first;
          if (r >= 0 && r < n)
            for (int k = 0; k < K; ++k) to[k * pass_stride + r * GROUP + t % GROUP] -= gold[t];
        }
        for (int k = 0; k < K && hidden; ++k)
          add_hidden(rows.get(), to + k * pass_stride, width_panels, int(n),
                     thread_sums + (k * groups_per_pass + g) * sums_size, next_group, prefetch_rows);
      }
      if (projection)
        add_projection(dz.get(), panels.get(), all_groups, n, width, dprojection + first * width, overwrite);
    };
    const BlockRange thread_blocks(blocks, thread, threads);
    for (int64_t b = thread_blocks.begin; b < thread_blocks.end; ++b) {
      const bool projection = dprojection && !is_taken[b].test_and_set();
      if (dhidden || projection) process_block(b, dhidden, projection);
    }
    // Helps slower threads with the projection's gradient, from their ends; hidden gradients stay theirs.
    for (int t = 1; t < threads && dprojection; ++t) {
      const BlockRange other_blocks(blocks, (thread + t) % threads, threads);
      for (int64_t b = other_blocks.end - 1; b >= other_blocks.begin; --b)
        if (!is_taken[b].test_and_set()) process_block(b, false, true);
    }
#pragma omp barrier
    if (dhidden) {
#pragma omp for schedule(static)
      for (int64_t g = 0; g < all_groups; ++g) {
        float* group_sums = sums.get() + g * sums_size;
        for (int t = 1; t < threads; ++t) {
          const float* other = sums.get() + (t * all_groups + g) * sums_size;
          for (int64_t i = 0; i < sums_size; ++i) group_sums[i] += other[i];
        }
        for (int64_t t = 0; t < std::min<int64_t>(GROUP, c.tokens - g % groups_per_pass * GROUP); ++t) {
          float* to = dhidden + (g / groups_per_pass * c.tokens + g % groups_per_pass * GROUP + t) * width;
          for (int64_t d = 0; d < width; ++d) to[d] = group_sums[d * GROUP + t];
        }
      }
    }
  }
}

// Gradients of K passes.
template <int K>
void gradients_for(const Chunk& c, const GradientArguments& arguments, float* dh, float* dw, bool overwrite) {
  switch (c.teachers) {
    case 0: return gradients_of<K, 0>(c, arguments, dh, dw, overwrite);
    case 1: return gradients_of<K, 1>(c, arguments, dh, dw, overwrite);
    default: return gradients_of<K, 2>(c, arguments, dh, dw, overwrite);
  }
}

}  // namespace

int64_t groups(int64_t tokens) { return ceil_div(tokens, GROUP); }
int64_t padded(int64_t vocab_size) { return ceil_div(vocab_size, TILE_ROWS) * TILE_ROWS; }
int64_t group_tokens() { return GROUP; }

void statistics(const Chunk& c, float* packed) {
  switch (c.passes) {
    case 1: return statistics_of<1>(c, packed);
    case 2: return statistics_of<2>(c, packed);
    case 3: return statistics_of<3>(c, packed);
    default: return statistics_of<4>(c, packed);
  }
}

void divergence(const Chunk& c, const float* packed, float* divergences) {
  switch (c.passes) {
    case 2: return divergence_of<2>(c, packed, divergences);
    case 3: return divergence_of<3>(c, packed, divergences);
    default: return divergence_of<4>(c, packed, divergences);
  }
}

void gradients(const Chunk& c, const GradientArguments& arguments, float* dh, float* dw, bool overwrite) {
  switch (c.passes) {
    case 1: return gradients_for<1>(c, arguments, dh, dw, overwrite);
    case 2: return gradients_for<2>(c, arguments, dh, dw, overwrite);
    case 3: return gradients_for<3>(c, arguments, dh, dw, overwrite);
    default: return gradients_for<4>(c, arguments, dh, dw, overwrite);
  }
}

}  // namespace mnmt
