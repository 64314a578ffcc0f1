// Functions of one and two operands.
#include <functional>
#include <iterator>
#include <utility>

#include "testing.h"

void test_unary(const k::Table& table) {
  struct Case {
    k::Unary op;
    const char* name;
    std::function<double(double)> f;
    double tolerance;
  };
  const Case cases[] = {
      {k::Unary::identity, "identity", [](double v) { return v; }, 0},
      {k::Unary::relu, "relu", [](double v) { return v < 0 ? 0 : v; }, 0},
      {k::Unary::sigmoid, "sigmoid", [](double v) { return 1 / (1 + std::exp(-v)); }, 4e-7},
      {k::Unary::silu, "silu", [](double v) { return v == -INFINITY ? 0 : v / (1 + std::exp(-v)); },
       4e-7},
      {k::Unary::gelu, "gelu",
       [](double v) { return v == -INFINITY ? 0 : 0.5 * v * std::erfc(-v / std::sqrt(2.0)); },
       1e-6},
      {k::Unary::tanh, "tanh", [](double v) { return std::tanh(v); }, 4e-7},
      {k::Unary::sqrt, "sqrt", [](double v) { return std::sqrt(v); }, 1e-7},
      {k::Unary::exp, "exp", [](double v) { return std::exp(v); }, 2.5e-7},
      {k::Unary::abs, "abs", [](double v) { return std::fabs(v); }, 0},
      {k::Unary::square, "square", [](double v) { return v * v; }, 1e-7},
      {k::Unary::neg, "neg", [](double v) { return -v; }, 0},
  };
  const float special[] = {0.0f, -0.0f, NAN, INFINITY, -INFINITY};
  for (const Case& c : cases) {
    for (k::DType in : {k::DType::f32, k::DType::bf16}) {
      for (k::DType out_type : {k::DType::f32, k::DType::bf16}) {
        for (size_t n : {1, 3, 17, 65, 1023}) {
          Feature x = random_feature(in, n, c.op == k::Unary::sqrt ? 0 : -30, 30), out(out_type, n);
          for (size_t i = 0; i < n && n >= 17 && i < 5; i++) x.set(i, special[i]);
          table.unary({c.op, x.data(), in, out.data(), out_type, static_cast<int64_t>(n)});
          // Relative to each value, as the largest would hide the others.
          for (size_t i = 0; i < n; i++) {
            double want = c.f(x[i]);
            double tolerance = c.tolerance + rounding(out_type);
            if (out_type == k::DType::bf16 && in == k::DType::f32 && c.op == k::Unary::identity) {
              want = from_bf16(to_bf16(x[i]));
              tolerance = 0;
            }
            if (std::fabs(want) < 1e-30) tolerance = 1e10;  // subnormal or nearly
            // The argument of the exponential in the far tails is large, and so is its rounding.
            if (c.op == k::Unary::gelu && x[i] < -2) tolerance += 2e-5;
            // Scalar kernels have no fused products, which would spare one.
            if (c.op == k::Unary::silu && x[i] < -4) {
              tolerance += table.isa == k::Isa::scalar ? 2e-6 : 2e-7;
            }
            expect(
                text(c.name, table, in, {int64_t(n), int64_t(i)}),
                [&](size_t) { return double{out[i]}; }, {want}, tolerance);
          }
        }
      }
    }
  }
  // Rounding to bf16: ties to even, up into infinity, NaN of every payload, subnormals.
  const uint32_t bits[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x7f7fffff, 0xff7fffff,
                           0x7f800001, 0x7fffffff, 0xffffffff, 0x7f800000, 0x00000001, 0x00008000,
                           0x00008001, 0x80018000, 0x00018000, 0x007fffff, 0x7fc00000};
  Feature x(k::DType::f32, std::size(bits)), out(k::DType::bf16, std::size(bits));
  memcpy(x.data(), bits, sizeof bits);
  table.unary(
      {k::Unary::identity, x.data(), k::DType::f32, out.data(), k::DType::bf16, std::size(bits)});
  for (size_t i = 0; i < std::size(bits); i++) {
    float v;
    memcpy(&v, &bits[i], 4);
    uint16_t got;
    memcpy(&got, out.bytes.data() + 2 * i, 2);
    // The instruction of AVX512_BF16 takes subnormals for zero, as all threads of the engine do.
    const bool zero = table.isa >= k::Isa::avx512_bf16 && (bits[i] & 0x7f800000) == 0 &&
                      got == (bits[i] >> 31 << 15);
    if (got != to_bf16(v) && !zero) {
      fprintf(stderr, "[%s] 0x%08x to bf16: expected 0x%04x, got 0x%04x\n", table.name, bits[i],
              to_bf16(v), got);
      failures++;
    }
  }
  // Rounding to u8: ties to even, clipped, NaN to 0; every tail, never past the end.
  const float stored[] = {-1e30f, -0.6f, -0.5f, 0.5f,   1.5f, 2.5f,     254.5f,    255.4f,
                          255.5f, 1e30f, NAN,   100.0f, 7.4f, INFINITY, -INFINITY, 127.6f};
  const uint8_t rounded[] = {0, 0, 0, 0, 2, 2, 254, 255, 255, 255, 0, 100, 7, 255, 0, 128};
  for (size_t n = 1; n <= 40; n++) {
    Guarded<float> values(n);
    Guarded<uint8_t> bytes(n);
    for (size_t i = 0; i < n; i++) values[i] = (stored[i % 16] - 16) * 0.5f;
    table.unary({k::Unary::identity,
                 values.data(),
                 k::DType::f32,
                 bytes.data(),
                 k::DType::u8,
                 static_cast<int64_t>(n),
                 {2, 16}});
    for (size_t i = 0; i < n; i++) {
      if (bytes[i] == rounded[i % 16]) continue;
      fprintf(stderr, "[%s] %g to u8: expected %d, got %d\n", table.name, stored[i % 16],
              rounded[i % 16], bytes[i]);
      failures++;
    }
  }
}

void test_binary(const k::Table& table) {
  const std::pair<k::Binary, std::function<double(double, double)>> cases[] = {
      {k::Binary::add, [](double a, double b) { return a + b; }},
      {k::Binary::sub, [](double a, double b) { return a - b; }},
      {k::Binary::mul, [](double a, double b) { return a * b; }},
      {k::Binary::div, [](double a, double b) { return a / b; }},
      {k::Binary::max, [](double a, double b) { return a != a || b != b ? NAN : std::max(a, b); }},
      {k::Binary::min, [](double a, double b) { return a != a || b != b ? NAN : std::min(a, b); }},
  };
  for (const auto& [op, f] : cases) {
    for (int types = 0; types < 8; types++) {
      auto type = [&](int bit) { return types >> bit & 1 ? k::DType::bf16 : k::DType::f32; };
      for (int64_t width : {1, 7, 17, 65}) {
        const int64_t rows = 5, n = rows * width;
        for (int64_t b_count : {int64_t{1}, width, n}) {
          Feature a = random_feature(type(0), n), b = random_feature(type(1), b_count, 0.5, 2),
                  out(type(2), n);
          if (n > 20) a.set(3, NAN);
          if (b_count > 20) b.set(5, NAN);
          table.binary({op, a.data(), type(0), b.data(), type(1), n, b_count, out.data(), type(2)});
          std::vector<double> want(n);
          for (int64_t i = 0; i < n; i++) want[i] = f(a[i], b[b_count == 1 ? 0 : i % b_count]);
          expect(text("binary", table, type(2), {int64_t(op), types, width, b_count}), values(out),
                 want, 2e-7 + rounding(type(2)));
        }
      }
    }
  }
}
