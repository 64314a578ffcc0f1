// Linears by Strassen's algorithm, against the definition in double.
#include "testing.h"

void test_strassen(const k::Table& table, k::DType x_dtype) {
  constexpr k::Unary activations[] = {k::Unary::identity, k::Unary::relu, k::Unary::silu,
                                      k::Unary::sigmoid,  k::Unary::gelu, k::Unary::tanh};
  struct Case {
    int64_t rows, depth, width, block;
  };
  const Case cases[] = {{1, 4, 2, 1},        {2, 8, 64, 1},      {33, 24, 144, 5},
                        {64, 64, 32, 96},    {49, 68, 34, 7},    {100, 100, 70, 6},
                        {577, 128, 100, 96}, {40, 2052, 160, 14}};
  int turn = 0;
  for (const auto [rows, depth, width, block] : cases) {
    const k::Unary activation = activations[turn % 6];
    const k::DType y_dtype = turn % 3 == 0   ? k::DType::f32
                             : turn % 3 == 1 ? k::DType::bf16
                                             : k::DType::u8;
    const bool biased = turn % 2 == 0, added = turn % 4 < 2;
    const k::DType residual_dtype = turn % 4 == 0 ? k::DType::f32 : k::DType::bf16;
    turn++;
    // Small whole numbers, whose sums are exact in bf16 too: what is tested is the algorithm.
    Feature x(x_dtype, rows * depth);
    for (int64_t i = 0; i < rows * depth; i++) x.set(i, std::lround(uniform(-4, 4)));
    auto weight = random_floats(width * depth), offset = random_floats(width);
    for (int64_t i = 0; i < width * depth; i++) weight[i] = std::lround(uniform(-4, 4));
    Guarded<float> packed(k::strassen_weight_size(width, depth, x_dtype));
    k::strassen_weight(weight.data(), width, depth, x_dtype, packed.data());
    Guarded<float> scratch(k::strassen_scratch(block, depth, x_dtype));
    Feature residual = random_feature(residual_dtype, rows * width);
    Guarded<uint8_t> y(rows * width * size_of(y_dtype)), split(y.size());
    k::StrassenArgs args{};
    k::LinearArgs& a = args.linear;
    a.x = x.data();
    a.x_dtype = x_dtype;
    a.rows = a.row_end = rows;
    a.depth = depth;
    a.width = width;
    a.weight = packed.data();
    a.offset = biased ? offset.data() : nullptr;
    a.residual = added ? residual.data() : nullptr;
    a.residual_dtype = residual_dtype;
    a.activation = activation;
    a.y = y.data();
    a.y_dtype = y_dtype;
    a.y_levels = {20, 100};
    a.panel_end = k::strassen_panels(width);
    args.block = block;
    args.scratch = scratch.data();
    table.strassen(args);
    // A pair of rows and a panel at a time.
    a.y = split.data();
    for (int64_t row = 0; row < rows; row += 2) {
      for (int64_t panel = 0; panel < k::strassen_panels(width); panel++) {
        a.row_begin = row;
        a.row_end = std::min(rows, row + 2);
        a.panel_begin = panel;
        a.panel_end = panel + 1;
        table.strassen(args);
      }
    }
    const auto name =
        text("strassen", table, x_dtype,
             {rows, depth, width, static_cast<int64_t>(activation), static_cast<int64_t>(y_dtype)});
    if (memcmp(y.data(), split.data(), y.size()) != 0) {
      fprintf(stderr, "[%s] results depend on how they are shared\n", name.c_str());
      failures++;
    }
    std::vector<double> want(rows * width);
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t o = 0; o < width; o++) {
        double sum = biased ? offset[o] : 0;
        for (int64_t i = 0; i < depth; i++) sum += x[r * depth + i] * weight[o * depth + i];
        if (added) sum += residual[r * width + o];
        sum = activated(activation, sum);
        if (y_dtype == k::DType::u8) sum = std::clamp(sum * 20 + 100, 0.0, 255.0);
        want[r * width + o] = sum;
      }
    }
    const auto got = [&](size_t i) { return stored(y, y_dtype, i); };
    const double largest = *std::max_element(want.begin(), want.end());
    // One level more or less where the sum lies between two.
    expect(name, got, want, y_dtype == k::DType::u8 ? 0.6 / largest : 1e-6 + rounding(y_dtype));
  }
  // What is not a number stays in its pair of rows.
  const auto values = random_floats(8 * 4);
  Feature x(x_dtype, 6 * 4);
  for (int64_t i = 0; i < 24; i++) x.set(i, i == 9 ? NAN : 1.0f);
  Guarded<float> packed(k::strassen_weight_size(8, 4, x_dtype));
  k::strassen_weight(values.data(), 8, 4, x_dtype, packed.data());
  Guarded<float> scratch(k::strassen_scratch(3, 4, x_dtype)), y(6 * 8);
  k::StrassenArgs args{};
  args.linear = {x.data(), x_dtype, 6, 4, 8, packed.data()};
  args.linear.y = y.data();
  args.linear.row_end = 6;
  args.linear.panel_end = 1;
  args.block = 3;
  args.scratch = scratch.data();
  table.strassen(args);
  for (int64_t row = 0; row < 6; row++) {
    for (int64_t o = 0; o < 8; o++) {
      const bool nan = std::isnan(y[row * 8 + o]);
      if (row == 3 || nan == (row == 2)) continue;
      fprintf(stderr, "[strassen of NaN %s] row %ld, output %ld is %g\n", table.name, long(row),
              long(o), static_cast<double>(y[row * 8 + o]));
      failures++;
    }
  }
}
