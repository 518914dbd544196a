// The linear layers' products behind a plain C interface, for a build with other instructions than this machine's best.
#include "../../mnmt_ds/kernels/csrc/products.cpp"

extern "C" void run(int64_t rows, int64_t inputs, int64_t outputs, const float* x, const float* w, const float* bias,
                    const float* dy, float* y, float* dx, float* dw, float* dbias) {
  const mnmt::LinearShape shape{rows, inputs, outputs, 1};
  mnmt::linear(shape, x, w, bias, true, y);
  mnmt::linear_input_gradient(shape, dy, y, w, dx);
  mnmt::linear_weight_gradient(shape, dy, y, x, dw, dbias);
}
