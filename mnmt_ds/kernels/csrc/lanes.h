// F for a CPU: a SIMD vector, one token in each lane, as wide as the machine's registers.
#pragma once

#include <cstring>

#include "rows.h"

namespace mnmt {

#if defined(__AVX512F__)
constexpr int LANES = 16, TALL = 14;  // TALL x 2 accumulators fill the vector registers
#elif defined(__AVX__)
constexpr int LANES = 8, TALL = 6;
#elif defined(__aarch64__)
constexpr int LANES = 4, TALL = 12;
#else
constexpr int LANES = 4, TALL = 6;
#endif
constexpr int GROUP = 2 * LANES;  // tokens that travel together

typedef float Lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t Whole __attribute__((vector_size(LANES * 4)));

ROW Lanes load(const float* from) {
  Lanes x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
ROW void store(float* to, Lanes x) { std::memcpy(to, &x, sizeof x); }

template <>
struct Of<Lanes> {
  static ROW Lanes number(float x) { return x - Lanes{}; }  // 0 + x would be an addition: it changes -0
  static ROW Lanes choose(Whole condition, Lanes yes, Lanes no) { return condition ? yes : no; }
  // e^x to about one unit in the last place, for x <= 88; 0 below -87.
  static ROW Lanes exponential(Lanes x) {
    constexpr float MAGIC = 12582912.f + 127.f;  // 1.5 * 2^23 rounds to whole numbers; 127 is the exponent's bias
    const Lanes shifted = x * 1.44269504f + MAGIC;
    const Lanes n = shifted - MAGIC;
    const Lanes r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    Lanes y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.f;
    const Lanes power = (Lanes)((Whole)shifted << 23);
    return choose(x < -87.f, Lanes{}, y * power);
  }
};

}  // namespace mnmt
