// Convolutions by Winograd's algorithm, against the definition in double.
#include "testing.h"

namespace {

struct Case {
  int64_t height, width, channels, out_channels;
  int32_t outputs, kernel;
  int64_t pad;
  bool bias, residual, relu;
};

// A tensor's position, or none outside.
int64_t at(int64_t y, int64_t x, int64_t height, int64_t width) {
  return y < 0 || x < 0 || y >= height || x >= width ? -1 : y * width + x;
}

}  // namespace

void test_winograd(const k::Table& table, k::DType dtype, k::DType operands) {
  const Case cases[] = {
      // Smaller than a tile, tails of rows, columns, channels and panels, and without padding.
      {1, 1, 1, 1, 2, 3, 1, false, false, false},   {1, 1, 3, 5, 4, 3, 1, true, true, true},
      {3, 2, 17, 33, 2, 3, 1, true, false, true},   {9, 7, 16, 31, 4, 3, 1, true, true, false},
      {5, 11, 33, 64, 4, 3, 0, false, true, true},  {4, 4, 1, 96, 4, 3, 2, true, false, false},
      {3, 3, 4, 7, 2, 5, 2, true, true, true},      {13, 6, 19, 35, 2, 5, 2, true, false, true},
      {9, 12, 15, 3, 2, 5, 0, false, false, false}, {31, 29, 8, 40, 4, 3, 1, true, true, true},
      {17, 33, 5, 2, 2, 3, 1, true, true, true}};
  for (const Case& c : cases) {
    const int64_t size = c.kernel * c.kernel;
    const int64_t out_height = c.height + 2 * c.pad - c.kernel + 1;
    const int64_t out_width = c.width + 2 * c.pad - c.kernel + 1;
    Feature x = random_feature(dtype, c.height * c.width * c.channels);
    Feature y(dtype, out_height * out_width * c.out_channels), split(dtype, y.size);
    Feature residual = random_feature(dtype, y.size);
    auto weight = random_floats(c.out_channels * c.channels * size);
    auto bias = random_floats(c.out_channels);
    Guarded<float> packed(
        k::winograd_weight_size(c.out_channels, c.channels, c.outputs, c.kernel, operands));
    k::winograd_weight(weight.data(), c.out_channels, c.channels, c.outputs, c.kernel, operands,
                       packed.data());
    const int64_t tiles =
        ((out_height + c.outputs - 1) / c.outputs) * ((out_width + c.outputs - 1) / c.outputs);
    const int64_t panels = k::winograd_panels(c.out_channels);
    Guarded<float> points(k::winograd_tiles(tiles, c.channels, c.outputs, c.kernel, operands));
    Guarded<float> products(k::winograd_products(tiles, c.outputs, c.kernel));
    k::WinogradArgs args{};
    args.x = x.data();
    args.dtype = dtype;
    args.height = c.height;
    args.width = c.width;
    args.channels = c.channels;
    args.out_height = out_height;
    args.out_width = out_width;
    args.out_channels = c.out_channels;
    args.top = args.left = c.pad;
    args.outputs = c.outputs;
    args.kernel = c.kernel;
    args.operands = operands;
    args.weight = packed.data();
    args.bias = c.bias ? bias.data() : nullptr;
    args.residual = c.residual ? residual.data() : nullptr;
    args.relu = c.relu;
    args.y = y.data();
    args.y_dtype = dtype;
    args.block_end = args.tile_end = tiles;
    args.panel_end = panels;
    args.tiles = points.data();
    args.products = products.data();
    // Whatever a previous call left there.
    std::fill(points.data(), points.data() + points.size(), NAN);
    std::fill(products.data(), products.data() + products.size(), NAN);
    table.winograd_transform(args);
    table.winograd_multiply(args);

    // The same in blocks of two tiles, panel by panel.
    args.y = split.data();
    for (int64_t tile = 0; tile < tiles; tile += 2) {
      args.block_begin = tile;
      args.block_end = std::min(tile + 2, tiles);
      for (int64_t t = args.block_begin; t < args.block_end; t++) {
        args.tile_begin = t;
        args.tile_end = t + 1;
        table.winograd_transform(args);
      }
      for (int64_t panel = panels - 1; panel >= 0; panel--) {
        args.panel_begin = panel;
        args.panel_end = panel + 1;
        table.winograd_multiply(args);
      }
    }
    const auto name = text(operands == k::DType::f32 ? "winograd" : "winograd_bf16", table, dtype,
                           {c.height, c.width, c.channels, c.out_channels, c.outputs, c.kernel});
    if (memcmp(split.data(), y.data(), y.bytes.size()) != 0) {
      fprintf(stderr, "[%s] values depend on the block they are computed in\n", name.c_str());
      failures++;
    }
    std::vector<double> want(y.size);
    for (int64_t p = 0; p < out_height * out_width; p++) {
      for (int64_t o = 0; o < c.out_channels; o++) {
        double sum = c.bias ? bias[o] : 0;
        for (int64_t t = 0; t < size; t++) {
          const int64_t from = at(p / out_width + t / c.kernel - c.pad,
                                  p % out_width + t % c.kernel - c.pad, c.height, c.width);
          for (int64_t i = 0; i < c.channels && from >= 0; i++) {
            sum += double{x[from * c.channels + i]} * weight[(o * c.channels + i) * size + t];
          }
        }
        if (c.residual) sum += residual[p * c.out_channels + o];
        want[p * c.out_channels + o] = c.relu ? std::max(sum, 0.0) : sum;
      }
    }
    // Operands in bf16 lose some digits; six times those in large tiles, whose points lie apart.
    const double lost = operands == k::DType::f32 ? 5e-6 : c.outputs + c.kernel == 5 ? 8e-3 : 5e-2;
    expect(name, values(y), want, lost + rounding(dtype));

    // Written as u8: within half a level, and what the sums lose.
    Guarded<uint8_t> bytes(y.size);
    args.y = bytes.data();
    args.y_dtype = k::DType::u8;
    args.y_levels = {20, 100};
    args.block_begin = args.tile_begin = args.panel_begin = 0;
    args.block_end = args.tile_end = tiles;
    args.panel_end = panels;
    table.winograd_transform(args);
    table.winograd_multiply(args);
    double most = 0, largest = 0;
    for (double& w : want) {
      most = std::max(most, std::fabs(w));
      w = std::clamp(w * 20 + 100, 0.0, 255.0);
      largest = std::max(largest, w);
    }
    expect(
        name + " to u8", [&](size_t i) { return static_cast<double>(bytes[i]); }, want,
        (0.501 + 20 * most * lost) / largest);
  }
  // A value that is not a number reaches every output that reads it, through relu too.
  Feature x = random_feature(dtype, 25), y(dtype, 25);
  x.set(12, NAN);
  const float weight[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  Guarded<float> packed(k::winograd_weight_size(1, 1, 2, 3, operands));
  k::winograd_weight(weight, 1, 1, 2, 3, operands, packed.data());
  Guarded<float> points(k::winograd_tiles(9, 1, 2, 3, operands)),
      products(k::winograd_products(9, 2, 3));
  k::WinogradArgs args{
      x.data(),      dtype,          5,       5,    1,        5,     5,  1, 1, 1, 2, 3, operands,
      packed.data(), nullptr,        nullptr, true, y.data(), dtype, {}, 0, 9, 0, 9, 0, 1,
      points.data(), products.data()};
  table.winograd_transform(args);
  table.winograd_multiply(args);
  for (int64_t p : {6, 7, 8, 11, 12, 13, 16, 17, 18}) {
    expect(
        text("winograd of NaN", table, dtype, {p}), [&](size_t) { return double{y[p]}; }, {NAN}, 0);
  }
}
