// A 1x1 convolution and the depthwise one that reads it, against the definition in double.
#include "testing.h"

void test_expand_depthwise(const k::Table& table, k::DType dtype) {
  struct Case {
    int64_t height, width, channels, wide;
    int32_t kernel, stride;
    int64_t top, left, bottom, right;  // zeros around the wide map
    k::Unary first, second;
    bool bias;
    int64_t band;
  };
  constexpr auto none = k::Unary::identity, relu = k::Unary::relu, silu = k::Unary::silu;
  const Case cases[] = {
      // One pixel; tails of channels, rows and columns; bands of one row, of some, of all; no zeros
      // around; more pixels in a row than are computed at once.
      {1, 1, 2, 1, 3, 1, 1, 1, 1, 1, silu, none, true, 1},
      {7, 5, 6, 33, 3, 1, 1, 1, 1, 1, silu, silu, true, 1},
      {9, 11, 24, 72, 5, 1, 2, 2, 2, 2, silu, silu, true, 3},
      {8, 9, 10, 65, 3, 2, 0, 0, 1, 1, relu, silu, false, 2},
      {11, 13, 16, 31, 5, 2, 2, 2, 2, 2, silu, relu, true, 6},
      {6, 7, 4, 32, 3, 1, 0, 0, 0, 0, none, none, true, 2},
      {5, 70, 8, 40, 3, 1, 1, 1, 1, 1, silu, silu, true, 2},
      {12, 70, 8, 17, 5, 2, 1, 1, 2, 2, silu, silu, true, 1}};
  for (const Case& c : cases) {
    const int64_t out_height = (c.height + c.top + c.bottom - c.kernel) / c.stride + 1;
    const int64_t out_width = (c.width + c.left + c.right - c.kernel) / c.stride + 1;
    Feature x = random_feature(dtype, c.height * c.width * c.channels, -2, 2);
    Feature y(dtype, out_height * out_width * c.wide), split(dtype, y.size);
    auto expand = random_floats(c.wide * c.channels, -0.5, 0.5);
    auto expand_bias = random_floats(c.wide), bias = random_floats(c.wide);
    auto weight = random_floats(c.kernel * c.kernel * c.wide);
    Guarded<float> packed(k::winograd_weight_size(c.wide, c.channels, 1, 1, dtype));
    k::winograd_weight(expand.data(), c.wide, c.channels, 1, 1, dtype, packed.data());
    Guarded<float> scratch(k::expand_depthwise_scratch(c.width, c.kernel, c.stride, c.band));

    k::ExpandDepthwiseArgs args{};
    args.x = x.data();
    args.channels = c.channels;
    args.weight = packed.data();
    args.bias = c.bias ? expand_bias.data() : nullptr;
    args.activation = c.first;
    args.band = c.band;
    args.panel_end = k::winograd_panels(c.wide);
    args.scratch = scratch.data();
    k::DepthwiseArgs& d = args.depthwise;
    d.dtype = dtype;
    d.height = c.height;
    d.width = c.width;
    d.channels = c.wide;
    d.out_height = d.row_end = out_height;
    d.out_width = out_width;
    d.top = c.top;
    d.left = c.left;
    d.kernel = c.kernel;
    d.stride = c.stride;
    d.weight = weight.data();
    d.bias = c.bias ? bias.data() : nullptr;
    d.activation = c.second;
    d.y = y.data();
    table.expand_depthwise(args);
    // Each row of each panel by itself, and with bands of another height.
    d.y = split.data();
    args.band = 1;
    for (int64_t panel = args.panel_end - 1; panel >= 0; panel--) {
      for (int64_t row = out_height - 1; row >= 0; row--) {
        k::ExpandDepthwiseArgs part = args;
        part.panel_begin = panel;
        part.panel_end = panel + 1;
        part.depthwise.row_begin = row;
        part.depthwise.row_end = row + 1;
        table.expand_depthwise(part);
      }
    }
    const auto name = text("expand_depthwise", table, dtype,
                           {c.height, c.width, c.channels, c.wide, c.kernel, c.stride, c.band});
    if (memcmp(split.data(), y.data(), y.bytes.size()) != 0) {
      fprintf(stderr, "[%s] results depend on the range they are computed in\n", name.c_str());
      failures++;
    }
    std::vector<double> between(c.height * c.width * c.wide), want(y.size);
    for (size_t i = 0; i < between.size(); i++) {
      const int64_t out = static_cast<int64_t>(i) % c.wide,
                    pixel = static_cast<int64_t>(i) / c.wide;
      double sum = c.bias ? expand_bias[out] : 0;
      for (int64_t k = 0; k < c.channels; k++) {
        const float by = expand[out * c.channels + k];
        sum += double{x[pixel * c.channels + k]} *
               (dtype == k::DType::f32 ? by : from_bf16(to_bf16(by)));
      }
      between[i] = activated(c.first, sum);
    }
    for (size_t i = 0; i < want.size(); i++) {
      const int64_t out = static_cast<int64_t>(i) % c.wide,
                    pixel = static_cast<int64_t>(i) / c.wide;
      const int64_t top = pixel / out_width * c.stride - c.top;
      const int64_t left = pixel % out_width * c.stride - c.left;
      double sum = c.bias ? bias[out] : 0;
      for (int64_t t = 0; t < c.kernel * c.kernel; t++) {
        const int64_t row = top + t / c.kernel, column = left + t % c.kernel;
        if (row < 0 || row >= c.height || column < 0 || column >= c.width) continue;
        sum += between[(row * c.width + column) * c.wide + out] * weight[t * c.wide + out];
      }
      want[i] = activated(c.second, sum);
    }
    expect(name, values(y), want, 3e-6 + rounding(dtype));
  }
  // A value that is not a number reaches what reads its pixel, through both activations, and
  // nothing else.
  Feature x = random_feature(dtype, 50), y(dtype, 25);
  x.set(2 * 12 + 1, NAN);
  const float expand[2] = {1, 1}, weight[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  Guarded<float> packed(k::winograd_weight_size(1, 2, 1, 1, dtype));
  k::winograd_weight(expand, 1, 2, 1, 1, dtype, packed.data());
  Guarded<float> scratch(k::expand_depthwise_scratch(5, 3, 1, 2));
  for (k::Unary activation : {none, relu, silu}) {
    k::DepthwiseArgs d{nullptr, 0, dtype,  5,       5,          1,        5, 5, 1, 1,
                       3,       1, weight, nullptr, activation, y.data(), 0, 5, 0, 0};
    table.expand_depthwise(
        {x.data(), 2, packed.data(), nullptr, activation, d, 2, 0, 1, scratch.data()});
    for (int64_t p = 0; p < 25; p++) {
      const bool reads = std::abs(p / 5 - 2) <= 1 && std::abs(p % 5 - 2) <= 1;
      expect(
          text("expand_depthwise of NaN", table, dtype, {p}),
          [&](size_t) { return std::isnan(y[p]) ? 1.0 : 0.0; }, {reads ? 1.0 : 0.0}, 0);
    }
  }
}
