// Products of many rows with a constant matrix, against the definition in double.
#include "testing.h"

namespace {

// A matrix of whole numbers from -limit to limit, or of bf16 in [-0.5, 0.5].
struct Matrix {
  std::vector<double> values;
  std::vector<uint16_t> narrow;
  std::vector<int8_t> whole;
  Matrix(int64_t n, bool bytes) {
    for (int64_t i = 0; i < n; i++) {
      if (bytes) {
        whole.push_back(static_cast<int8_t>(std::lround(uniform(-127, 127))));
        values.push_back(whole.back());
      } else {
        narrow.push_back(to_bf16(static_cast<float>(uniform(-0.5, 0.5))));
        values.push_back(from_bf16(narrow.back()));
      }
    }
  }
  const void* data() const {
    return whole.empty() ? static_cast<const void*>(narrow.data()) : whole.data();
  }
};

}  // namespace

void test_linear(const k::Table& table, k::DType x_dtype) {
  if (table.linear == nullptr) return;
  const bool bytes = x_dtype == k::DType::u8;
  constexpr k::Unary activations[] = {k::Unary::identity, k::Unary::relu, k::Unary::silu,
                                      k::Unary::sigmoid,  k::Unary::gelu, k::Unary::tanh};
  const int64_t sizes[][3] = {{32, 1, 1},    {33, 24, 144},   {64, 64, 32},   {49, 65, 33},
                              {100, 31, 70}, {577, 128, 100}, {40, 4100, 160}};
  int turn = 0;
  for (auto [rows, depth, width] : sizes) {
    for (const k::Unary activation : activations) {
      const k::DType y_dtype = turn % 3 == 0   ? k::DType::f32
                               : turn % 3 == 1 ? k::DType::bf16
                                               : k::DType::u8;
      const bool biased = turn % 2 == 0, added = turn % 4 < 2;
      const k::DType residual_dtype = turn % 4 == 0 ? k::DType::f32 : k::DType::bf16;
      turn++;
      Guarded<uint8_t> x(rows * depth * (bytes ? 1 : 2));
      std::vector<double> xs(rows * depth);
      for (int64_t i = 0; i < rows * depth; i++) {
        if (bytes) {
          xs[i] = x[i] = static_cast<uint8_t>(std::lround(uniform(0, 255)));
        } else {
          const uint16_t v = to_bf16(static_cast<float>(uniform(-1, 1)));
          memcpy(x.data() + 2 * i, &v, 2);
          xs[i] = from_bf16(v);
        }
      }
      const Matrix weight(width * depth, bytes);
      Guarded<uint8_t> packed(k::linear_weight_bytes(width, depth, x_dtype));
      k::linear_weight(weight.data(), width, depth, x_dtype, packed.data());
      auto factor = random_floats(width, 1e-4, 2e-4), offset = random_floats(width);
      Feature residual = random_feature(residual_dtype, rows * width);
      Guarded<uint8_t> y(rows * width * size_of(y_dtype)), split(y.size());
      k::LinearArgs args{};
      args.x = x.data();
      args.x_dtype = x_dtype;
      args.rows = args.row_end = rows;
      args.depth = depth;
      args.width = width;
      args.weight = packed.data();
      args.factor = factor.data();
      args.offset = biased ? offset.data() : nullptr;
      args.residual = added ? residual.data() : nullptr;
      args.residual_dtype = residual_dtype;
      args.activation = activation;
      args.y = y.data();
      args.y_dtype = y_dtype;
      args.y_levels = {20, 100};
      args.panel_end = k::linear_panels(width);
      table.linear(args);
      // In shares of rows and of panels.
      args.y = split.data();
      for (int64_t row = 0; row < rows; row += 32) {
        for (int64_t panel = 0; panel < k::linear_panels(width); panel++) {
          args.row_begin = row;
          args.row_end = std::min(rows, row + 32);
          args.panel_begin = panel;
          args.panel_end = panel + 1;
          table.linear(args);
        }
      }
      const auto name = text(
          "linear", table, x_dtype,
          {rows, depth, width, static_cast<int64_t>(activation), static_cast<int64_t>(y_dtype)});
      if (memcmp(y.data(), split.data(), y.size()) != 0) {
        fprintf(stderr, "[%s] results depend on how they are shared\n", name.c_str());
        failures++;
      }
      std::vector<double> want(rows * width);
      for (int64_t r = 0; r < rows; r++) {
        for (int64_t o = 0; o < width; o++) {
          double sum = 0;
          for (int64_t i = 0; i < depth; i++)
            sum += xs[r * depth + i] * weight.values[o * depth + i];
          if (bytes) sum *= factor[o];
          if (biased) sum += offset[o];
          if (added) sum += residual[r * width + o];
          sum = activated(activation, sum);
          // One level more or less where the sum lies between two.
          if (y_dtype == k::DType::u8) sum = std::clamp(sum * 20 + 100, 0.0, 255.0);
          want[r * width + o] = sum;
        }
      }
      const auto got = [&](size_t i) { return stored(y, y_dtype, i); };
      const double largest = *std::max_element(want.begin(), want.end());
      expect(name, got, want, y_dtype == k::DType::u8 ? 0.6 / largest : 1e-5 + rounding(y_dtype));
    }
  }
  if (bytes) return;
  // What is not a number stays in its row; the one behind it lies where a row's last step reads.
  const uint16_t nan = 0x7fc0, one = 0x3f80;
  std::vector<uint16_t> x(40 * 33, one), weight(33, one);
  for (int64_t i = 0; i < 33; i++) x[20 * 33 + i] = nan;
  std::vector<uint8_t> packed(k::linear_weight_bytes(1, 33, x_dtype));
  k::linear_weight(weight.data(), 1, 33, x_dtype, packed.data());
  for (const k::Unary activation : activations) {
    std::vector<float> y(40);
    k::LinearArgs args{};
    args.x = x.data();
    args.x_dtype = x_dtype;
    args.rows = args.row_end = 40;
    args.depth = 33;
    args.width = 1;
    args.weight = packed.data();
    args.activation = activation;
    args.y = y.data();
    args.panel_end = 1;
    table.linear(args);
    std::vector<double> want(40, activated(activation, 33));
    want[20] = NAN;
    expect(
        text("linear of NaN", table, x_dtype, {static_cast<int64_t>(activation)}),
        [&](size_t i) { return static_cast<double>(y[i]); }, want, 1e-5);
  }
}
