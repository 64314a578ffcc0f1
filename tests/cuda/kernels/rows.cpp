// What reduces or normalises an axis.
#include "../testing.h"

namespace {

void test_layer_norm() {
  const int64_t shapes[][2] = {{1, 1},     {3, 7},    {17, 65},  {5, 128},  {1, 300},
                               {9, 256},   {2, 1023}, {2, 1024}, {3, 1025}, {2, 2052},
                               {1100, 12}, {530, 20}, {4, 512},  {3, 33}};
  for (auto [rows, width] : shapes) {
    for (Type type : kTypes) {
      for (bool with_residual : {false, true}) {
        const size_t n = static_cast<size_t>(rows * width), w = static_cast<size_t>(width);
        // Far from zero: a variance by E[x^2] - E[x]^2 would have no digits.
        Tensor x = random_tensor(Type::f32, n, 99, 101), residual = random_tensor(Type::f32, n);
        Tensor gamma = random_tensor(Type::f32, w), beta = random_tensor(Type::f32, w);
        if (rows > 2) {
          x.host[w + w / 2] = NAN;
          x.upload();
        }
        Tensor out(type, n);
        const float* more = with_residual ? residual.host.data() : nullptr;
        std::vector<double> want(n);
        for (size_t r = 0; r < n; r += w) {
          double mean = 0, variance = 0;
          for (size_t i = 0; i < w; i++) mean += x.host[r + i] / double(width);
          for (size_t i = 0; i < w; i++) {
            variance += (x.host[r + i] - mean) * (x.host[r + i] - mean) / double(width);
          }
          for (size_t i = 0; i < w; i++) {
            want[r + i] = (x.host[r + i] - mean) / std::sqrt(variance + 1e-5) * gamma.host[i] +
                          beta.host[i] + (more ? more[r + i] : 0);
          }
        }
        const auto name = text("layer_norm", type, {rows, width, with_residual});
        run(name, {&out}, [&] {
          return gpu::layer_norm(
              {x.floats(), gamma.floats(), beta.floats(),
               with_residual ? residual.floats() : nullptr, rows, width, 1e-5f, out.data(), type},
              nullptr);
        });
        expect(name, out.values(), want, 1e-4 + rounding(type));
      }
    }
  }
}

void test_thin_product() {
  const int64_t shapes[][3] = {{1, 1, 1},    {1, 6, 24},   {1, 7, 5},     {1, 130, 33},
                               {1, 672, 28}, {1, 2688, 9}, {24, 256, 40}, {8, 64, 17},
                               {9, 5, 3},    {31, 132, 6}};
  for (auto [rows, depth, width] : shapes) {
    for (Type type : kTypes) {
      for (Type out_type : {Type::f32, type}) {
        for (bool added : {false, true}) {
          const auto op = depth % 2 == 0 ? gpu::Unary::silu : gpu::Unary::sigmoid;
          const size_t d = static_cast<size_t>(depth), w = static_cast<size_t>(width);
          const size_t r = static_cast<size_t>(rows);
          Tensor x = random_tensor(type, r * d), weight = random_tensor(type, d * w);
          Tensor bias = random_tensor(Type::f32, w), residual = random_tensor(out_type, r * w);
          Tensor out(out_type, r * w);
          std::vector<float> sum(r * w), want(r * w);
          for (size_t i = 0; i < r * w; i++) {
            double total = bias.host[i % w] + (added ? residual.host[i] : 0.0f);
            for (size_t k = 0; k < d; k++) {
              total += double{x.host[i / w * d + k]} * weight.host[i % w * d + k];
            }
            sum[i] = static_cast<float>(total);
          }
          reference().unary({static_cast<cpu::Unary>(op), sum.data(), cpu::DType::f32, want.data(),
                             cpu::DType::f32, rows * width});
          const auto name = text("thin_product", type, {rows, depth, width, added});
          run(name, {&out}, [&] {
            return gpu::thin_product(
                {x.data(), weight.data(), type, bias.floats(), added ? residual.data() : nullptr,
                 op, rows, depth, width, out.data(), out_type},
                nullptr);
          });
          expect(name, out.values(), want, 1e-5 + rounding(out_type));
        }
      }
    }
  }
}

void test_softmax() {
  const int64_t shapes[][2] = {{1, 1},   {3, 7},    {17, 65},  {600, 49}, {1100, 3}, {4, 197},
                               {2, 785}, {3, 1024}, {2, 1025}, {2, 2051}, {3, 128},  {2, 260}};
  for (auto [rows, width] : shapes) {
    for (float bad : {0.0f, NAN, -INFINITY, INFINITY}) {
      const size_t n = static_cast<size_t>(rows * width);
      Tensor x = random_tensor(Type::f32, n, -20, 20);
      x.host[n / 2] = bad;
      x.upload();
      Tensor out(Type::f32, n);
      std::vector<float> want(n);
      reference().softmax({x.host.data(), rows, width, want.data()});
      const auto name = text("softmax", Type::f32, {rows, width});
      run(name, {&out},
          [&] { return gpu::softmax({x.floats(), rows, width, out.floats()}, nullptr); });
      expect(name, out.values(), want, 2e-6);
    }
  }
}

void test_reduce() {
  const int64_t shapes[][3] = {{1, 1, 1},     {1, 50176, 1}, {3, 7, 1},     {17, 65, 1},
                               {1, 1023, 1},  {400, 33, 1},  {1, 3136, 17}, {4, 49, 65},
                               {1, 9, 300},   {7, 1, 3},     {300, 5, 2},   {2, 4097, 1},
                               {1, 70003, 1}, {2, 1030, 33}, {200, 1025, 1}};
  for (auto [rows, width, inner] : shapes) {
    for (Type type : kTypes) {
      for (int op = 0; op < 3; op++) {
        for (bool bad : {false, true}) {
          const size_t n = static_cast<size_t>(rows * width * inner);
          // Maxima below zero: what pads a tail must not win.
          Tensor x = random_tensor(type, n, op == 2 ? -3 : -1, op == 2 ? -1 : 3);
          if (bad) {
            x.host[n - 1] = NAN;
            x.upload();
          }
          // Every other run leaves its results in the operand's type.
          const Type out_type = bad ? type : Type::f32;
          Tensor out(out_type, static_cast<size_t>(rows * inner));
          Tensor scratch(Type::f32, gpu::reduce_scratch(rows, width, inner));
          std::vector<float> want(out.host.size());
          reference().reduce({static_cast<cpu::Reduce>(op), x.host.data(), cpu::DType::f32, rows,
                              width, want.data(), inner});
          const auto name = text("reduce", type, {op, rows, width, inner, bad});
          run(name, {&out, &scratch}, [&] {
            return gpu::reduce({gpu::Reduce(op), x.data(), type, rows, width, inner, out.data(),
                                scratch.floats(), out_type},
                               nullptr);
          });
          const double rounding = out_type == Type::f16 ? 6e-4 : out_type == Type::bf16 ? 5e-3 : 0;
          expect(name, out.values(), want, rounding + (op == 2 ? 0 : 4e-6));
        }
      }
    }
  }
}

}  // namespace

void test_rows() {
  test_layer_norm();
  test_thin_product();
  test_softmax();
  test_reduce();
}
