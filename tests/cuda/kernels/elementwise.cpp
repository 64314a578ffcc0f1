// Functions of one and two operands, epilogues and map calibration.
#include <array>

#include "../testing.h"

namespace {

const int64_t kSizes[] = {1, 3, 4, 17, 300, 1023, 5000};

void unary_of(gpu::Unary op, Type from, Type to, std::vector<float> x) {
  const int64_t n = static_cast<int64_t>(x.size());
  Tensor in(from, std::move(x)), out(to, in.host.size());
  std::vector<float> want(in.host.size());
  reference().unary({static_cast<cpu::Unary>(op), in.host.data(), cpu::DType::f32, want.data(),
                     cpu::DType::f32, n});
  const auto name = text("unary", from, {static_cast<int64_t>(op), static_cast<int64_t>(to), n});
  run(name, {&out}, [&] { return gpu::unary({op, in.data(), from, out.data(), to, n}, nullptr); });
  // Each element to its own size: what is small is right, too.
  const auto got = out.values();
  for (size_t i = 0; i < want.size(); i++) {
    const double w = rounded(to, want[i]), g = got[i];
    // The tail of gelu takes the exponential of a square; that of silu ends before 2e-36.
    const double sums = op == gpu::Unary::gelu ? 2e-5 : 3e-6;
    const double slack =
        (sums + 2 * rounding(to)) * std::fabs(w) + (to == Type::f16 ? 6e-8 : 2e-36);
    const bool good = std::isnan(w)   ? std::isnan(g)
                      : std::isinf(w) ? g == w || std::fabs(g) > 60000
                                      : std::fabs(g - w) <= slack;
    if (good) continue;
    fprintf(stderr, "[%s] of %.9g: expected %.9g, got %.9g\n", name.c_str(),
            static_cast<double>(in.host[i]), w, g);
    failures++;
    return;
  }
}

void test_unary() {
  const std::vector<float> special = {0.0f,  -0.0f, NAN,    INFINITY, -INFINITY, 1e-30f, -1e-30f,
                                      30.0f, 88.0f, -5.0f,  -13.0f,   -87.0f,    1e-3f,  65504.0f,
                                      0.3f,  0.7f,  -0.62f, 2049.0f,  1025.5f};
  for (int op = 0; op <= 10; op++) {
    for (Type type : kTypes) {
      for (int64_t n : {1, 17, 1023}) {
        unary_of(gpu::Unary(op), type, type, numbers(static_cast<size_t>(n), -9, 9));
      }
      unary_of(gpu::Unary(op), type, type, special);
    }
  }
  for (Type from : kTypes) {
    for (Type to : kTypes) {
      for (int64_t n : kSizes) {
        unary_of(gpu::Unary::identity, from, to, numbers(static_cast<size_t>(n), -1000, 1000));
      }
      unary_of(gpu::Unary::identity, from, to, special);
      // Conversions to the bit.
      Tensor in(from, numbers(4099, -70, 70)), out(to, 4099);
      run("convert", {&out}, [&] {
        return gpu::unary({gpu::Unary::identity, in.data(), from, out.data(), to, 4099}, nullptr);
      });
      std::vector<float> want;
      for (float v : in.host) want.push_back(rounded(to, v));
      expect("convert", out.values(), want, 0);
    }
  }
  Tensor x(Type::f16, numbers(1023));
  const auto want = x.host;
  check("in place",
        gpu::unary({gpu::Unary::neg, x.data(), Type::f16, x.data(), Type::f16, 1023}, nullptr));
  auto got = x.values();
  for (float& v : got) v = -v;
  expect("unary in place", got, want, 0);
}

void test_binary() {
  const int64_t shapes[][2] = {{1, 1},   {17, 17},   {17, 1},   {1023, 1023},
                               {51, 17}, {1024, 64}, {1024, 1}, {3000, 300},
                               {28, 7},  {1026, 2},  {2052, 4}, {1024, 1024}};
  for (auto [count, b_count] : shapes) {
    for (int op = 0; op <= 5; op++) {
      for (int types = 0; types < 27; types += op == 0 ? 1 : 13) {
        const Type ta = kTypes[types % 3], tb = kTypes[types / 3 % 3], to = kTypes[types / 9];
        Tensor a = random_tensor(ta, static_cast<size_t>(count), 0.5, 2);
        Tensor b = random_tensor(tb, static_cast<size_t>(b_count), 0.5, 2);
        a.host[a.host.size() / 2] = NAN;
        a.upload();
        if (op >= 4) b.host[b.host.size() - 1] = NAN;
        b.upload();
        Tensor out(to, a.host.size());
        std::vector<float> want(a.host.size());
        reference().binary({static_cast<cpu::Binary>(op), a.host.data(), cpu::DType::f32,
                            b.host.data(), cpu::DType::f32, count, b_count, want.data(),
                            cpu::DType::f32});
        const auto name = text("binary", to, {op, types, count, b_count});
        run(name, {&out}, [&] {
          return gpu::binary(
              {gpu::Binary(op), a.data(), ta, b.data(), tb, count, b_count, out.data(), to},
              nullptr);
        });
        expect(name, out.values(), want, 1e-6 + rounding(to));
      }
    }
  }
}

void test_epilogue() {
  const int64_t shapes[][2] = {{1, 1}, {3, 7}, {17, 65}, {49, 64}, {5, 300}, {1023, 3}, {64, 2}};
  for (auto [rows, width] : shapes) {
    for (int mask = 0; mask < 4; mask++) {
      for (Type type : kTypes) {
        for (Type out_type : {Type::f32, type}) {
          const auto op = mask % 2 ? gpu::Unary::relu : gpu::Unary::gelu;
          const size_t n = static_cast<size_t>(rows * width);
          Tensor x = random_tensor(type, n, -2, 2), residual = random_tensor(out_type, n, -2, 2);
          Tensor bias = random_tensor(Type::f32, static_cast<size_t>(width));
          Tensor out(out_type, n);
          std::vector<float> sum = x.host, want(n);
          for (size_t i = 0; i < n; i++) {
            if (mask & 1) sum[i] += bias.host[i % static_cast<size_t>(width)];
            if (mask & 2) sum[i] += residual.host[i];
          }
          reference().unary({static_cast<cpu::Unary>(op), sum.data(), cpu::DType::f32, want.data(),
                             cpu::DType::f32, rows * width});
          const auto name = text("epilogue", type, {rows, width, mask});
          run(name, {&out}, [&] {
            return gpu::epilogue({x.data(), type, mask & 1 ? bias.floats() : nullptr,
                                  mask & 2 ? residual.data() : nullptr, out_type, op, rows, width,
                                  out.data(), out_type},
                                 nullptr);
          });
          expect(name, out.values(), want, 2e-6 + rounding(out_type));
        }
      }
    }
  }
}

// Shares of a product's depth, added up on the way.
void test_epilogue_of_parts() {
  for (auto [rows, width] : {std::array<int64_t, 2>{1, 1}, {3, 7}, {17, 64}, {1023, 3}}) {
    for (int64_t parts : {2, 3, 8}) {
      for (Type out_type : kTypes) {
        const size_t n = static_cast<size_t>(rows * width);
        Tensor x = random_tensor(Type::f32, n * static_cast<size_t>(parts), -2, 2);
        Tensor bias = random_tensor(Type::f32, static_cast<size_t>(width));
        Tensor residual = random_tensor(out_type, n, -2, 2), out(out_type, n);
        std::vector<float> sum(n), want(n);
        for (size_t i = 0; i < n; i++) {
          for (size_t part = 0; part < static_cast<size_t>(parts); part++) {
            sum[i] += x.host[part * n + i];
          }
          sum[i] += bias.host[i % static_cast<size_t>(width)] + residual.host[i];
        }
        reference().unary({cpu::Unary::silu, sum.data(), cpu::DType::f32, want.data(),
                           cpu::DType::f32, rows * width});
        const auto name = text("epilogue of parts", out_type, {rows, width, parts});
        run(name, {&out}, [&] {
          return gpu::epilogue({x.data(), Type::f32, bias.floats(), residual.data(), out_type,
                                gpu::Unary::silu, rows, width, out.data(), out_type, parts},
                               nullptr);
        });
        expect(name, out.values(), want, 2e-6 + rounding(out_type));
      }
    }
  }
}

// Activations that are rounded to a half precision are computed roughly: each to its own size, from
// one end of the numbers to the other.
void test_rough_activations() {
  std::vector<float> values = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e30f, -1e30f};
  for (int i = -1200; i <= 1200; i++) values.push_back(static_cast<float>(i) * 0.08f);
  const int64_t n = static_cast<int64_t>(values.size());
  const Tensor x(Type::f32, values);
  for (auto op : {gpu::Unary::sigmoid, gpu::Unary::silu, gpu::Unary::gelu, gpu::Unary::tanh}) {
    std::vector<float> want(values.size());
    reference().unary({static_cast<cpu::Unary>(op), values.data(), cpu::DType::f32, want.data(),
                       cpu::DType::f32, n});
    for (Type type : {Type::f16, Type::bf16}) {
      Tensor out(type, values.size());
      const auto name = text("rough activation", type, {static_cast<int64_t>(op)});
      run(name, {&out}, [&] {
        return gpu::epilogue(
            {x.data(), Type::f32, nullptr, nullptr, type, op, 1, n, out.data(), type}, nullptr);
      });
      const auto got = out.values();
      for (size_t i = 0; i < want.size(); i++) {
        const double w = rounded(type, want[i]), g = got[i];
        // One more rounding than the exact one, and what has hardly a digit left.
        const double slack = 2 * rounding(type) * std::fabs(w) + 2e-7;
        const bool good = std::isnan(w)   ? std::isnan(g)
                          : std::isinf(w) ? g == w
                                          : std::fabs(g - w) <= slack;
        if (good) continue;
        fprintf(stderr, "[%s] of %.9g: expected %.9g, got %.9g\n", name.c_str(),
                static_cast<double>(values[i]), w, g);
        failures++;
      }
    }
  }
}

void test_calibrate_map() {
  for (int64_t n : kSizes) {
    for (bool square : {false, true}) {
      Tensor x = random_tensor(Type::f32, static_cast<size_t>(n));
      Tensor mean = random_tensor(Type::f32, static_cast<size_t>(n));
      x.host[0] = NAN;
      x.upload();
      Tensor out(Type::f32, x.host.size());
      std::vector<float> want(x.host.size());
      reference().calibrate_map({x.host.data(), mean.host.data(), n, square, want.data()});
      run("calibrate_map", {&out}, [&] {
        return gpu::calibrate_map({x.floats(), mean.floats(), n, square, out.floats()}, nullptr);
      });
      expect("calibrate_map", out.values(), want, 1e-6);
    }
  }
}

// No work is no error.
void test_nothing() {
  check("nothing",
        gpu::unary({gpu::Unary::relu, nullptr, Type::f32, nullptr, Type::f16, 0}, nullptr));
  check("nothing", gpu::softmax({nullptr, 0, 17, nullptr}, nullptr));
  check("nothing",
        gpu::layer_norm({nullptr, nullptr, nullptr, nullptr, 0, 17, 1e-5f, nullptr, Type::f16},
                        nullptr));
  check("nothing", gpu::copy_strips({nullptr, nullptr, 0, 4, 4, 4}, nullptr));
  check("nothing", gpu::gather_rows({nullptr, nullptr, 0, 4, nullptr}, nullptr));
  check("nothing",
        gpu::attention({nullptr, nullptr, nullptr, Type::f16, 0, 49, 49, 64, 64, 2, 1.0f, nullptr},
                       nullptr));
  check("nothing", cudaDeviceSynchronize());
  // Bytes are no type to compute in.
  if (gpu::attention({nullptr, nullptr, nullptr, Type::u8, 1, 1, 1, 1, 1, 1, 1.0f, nullptr},
                     nullptr) != cudaErrorInvalidValue) {
    fprintf(stderr, "[attention] computes in bytes\n");
    failures++;
  }
}

}  // namespace

void test_elementwise() {
  test_nothing();
  test_unary();
  test_binary();
  test_epilogue();
  test_epilogue_of_parts();
  test_rough_activations();
  test_calibrate_map();
}
