// Depthwise convolutions, against the definition in double.
#include "testing.h"

void test_depthwise(const k::Table& table, k::DType dtype) {
  struct Case {
    int64_t height, width, channels;
    int32_t kernel, stride;
    int64_t top, left, bottom, right;  // zeros around x
    k::Unary activation;
    bool bias;
  };
  constexpr auto none = k::Unary::identity, relu = k::Unary::relu, silu = k::Unary::silu;
  const Case cases[] = {
      // Narrower than the kernel, than a row of outputs, and with tails of both; no zeros around.
      {1, 1, 1, 3, 1, 1, 1, 1, 1, none, false},  {1, 2, 17, 5, 1, 2, 2, 2, 2, silu, true},
      {3, 3, 16, 3, 1, 0, 0, 0, 0, relu, true},  {5, 23, 33, 3, 1, 1, 1, 1, 1, silu, true},
      {9, 11, 15, 5, 1, 2, 2, 2, 2, none, true}, {8, 8, 48, 5, 1, 2, 2, 2, 2, silu, false},
      {7, 9, 31, 3, 2, 1, 1, 1, 1, silu, true},  {8, 20, 24, 3, 2, 0, 0, 1, 1, relu, false},
      {11, 4, 5, 5, 2, 1, 1, 2, 2, silu, true},  {6, 33, 64, 5, 2, 2, 2, 2, 2, none, true}};
  for (const Case& c : cases) {
    const int64_t out_height = (c.height + c.top + c.bottom - c.kernel) / c.stride + 1;
    const int64_t out_width = (c.width + c.left + c.right - c.kernel) / c.stride + 1;
    Feature x = random_feature(dtype, c.height * c.width * c.channels, -2, 2);
    Feature y(dtype, out_height * out_width * c.channels), split(dtype, y.size);
    auto weight = random_floats(c.kernel * c.kernel * c.channels);
    auto bias = random_floats(c.channels);
    k::DepthwiseArgs args{};
    args.x = x.data();
    args.x_pixel = args.channel_end = c.channels;
    args.dtype = dtype;
    args.height = c.height;
    args.width = c.width;
    args.channels = c.channels;
    args.out_height = out_height;
    args.out_width = out_width;
    args.top = c.top;
    args.left = c.left;
    args.kernel = c.kernel;
    args.stride = c.stride;
    args.weight = weight.data();
    args.bias = c.bias ? bias.data() : nullptr;
    args.activation = c.activation;
    args.y = y.data();
    args.row_end = out_height;
    table.depthwise(args);
    args.y = split.data();
    for (int64_t row = out_height - 1; row >= 0; row--) {
      args.row_begin = row;
      args.row_end = row + 1;
      table.depthwise(args);
    }
    const auto name =
        text("depthwise", table, dtype, {c.height, c.width, c.channels, c.kernel, c.stride});
    if (memcmp(split.data(), y.data(), y.bytes.size()) != 0) {
      fprintf(stderr, "[%s] rows depend on the range they are computed in\n", name.c_str());
      failures++;
    }
    std::vector<double> want(y.size);
    for (size_t i = 0; i < want.size(); i++) {
      const auto channel = static_cast<int64_t>(i) % c.channels;
      const int64_t pixel = static_cast<int64_t>(i) / c.channels;
      const int64_t top = pixel / out_width * c.stride - c.top;
      const int64_t left = pixel % out_width * c.stride - c.left;
      double sum = c.bias ? bias[channel] : 0;
      for (int64_t t = 0; t < c.kernel * c.kernel; t++) {
        const int64_t row = top + t / c.kernel, column = left + t % c.kernel;
        if (row < 0 || row >= c.height || column < 0 || column >= c.width) continue;
        sum += double{x[(row * c.width + column) * c.channels + channel]} *
               weight[t * c.channels + channel];
      }
      want[i] = c.activation == relu   ? std::max(sum, 0.0)
                : c.activation == silu ? sum / (1 + std::exp(-sum))
                                       : sum;
    }
    expect(name, values(y), want, 2e-6 + rounding(dtype));
  }
  // A value that is not a number reaches the outputs that read it, through the activation, and no
  // other.
  for (k::Unary activation : {none, relu, silu}) {
    Feature x = random_feature(dtype, 25), y(dtype, 25);
    x.set(12, NAN);
    const float weight[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    table.depthwise({x.data(), 1, dtype,  5,       5,          1,        5, 5, 1, 1,
                     3,        1, weight, nullptr, activation, y.data(), 0, 5, 0, 1});
    for (int64_t p = 0; p < 25; p++) {
      const bool reads = std::abs(p / 5 - 2) <= 1 && std::abs(p % 5 - 2) <= 1;
      expect(
          text("depthwise of NaN", table, dtype, {p}),
          [&](size_t) { return std::isnan(y[p]) ? 1.0 : 0.0; }, {reads ? 1.0 : 0.0}, 0);
    }
  }
}
