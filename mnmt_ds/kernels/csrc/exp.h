// e^x for SIMD vectors, shared by the loss's kernels and the decoder's: the steps that follow the choice of n below.
//
// e^x = 2^n * e^r with n = x / ln 2 rounded to a whole number and r = x - n * ln 2, |r| <= ln 2 / 2. The callers round
// and scale by 2^n each in their own way, since they treat very small x differently.
#pragma once

namespace mnmt {

// e^(x - n * ln 2) by Cephes' polynomial, to about one unit in the last place; ln 2 in two parts, so that the first
// product is exact.
template <class V>
inline __attribute__((always_inline)) V exp_reduced(V x, V n) {
  const V r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  V y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  return y * (r * r) + r + 1.f;
}

}  // namespace mnmt
