// Pooling and convolutions with groups, against plain loops.
#include "../testing.h"

namespace {

void test_pool() {
  struct Case {
    int32_t height, width, channels, kernel_y, kernel_x, stride_y, stride_x, top, left, bottom,
        right;
    int32_t more;  // rows and columns that rounding the size up adds
  };
  const Case cases[] = {
      {1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0},    {7, 5, 3, 3, 2, 1, 2, 1, 0, 1, 1, 0},
      {13, 17, 64, 3, 3, 2, 2, 1, 1, 1, 1, 0}, {9, 10, 17, 2, 2, 2, 2, 0, 0, 0, 0, 1},
      {4, 4, 300, 4, 4, 4, 4, 0, 0, 0, 0, 0},  {8, 6, 65, 5, 3, 3, 2, 2, 1, 2, 1, 0},
      {8, 8, 4, 3, 3, 2, 2, 1, 1, 0, 0, 1}};
  for (const Case& c : cases) {
    for (Type type : kTypes) {
      for (int op = 0; op < 3; op++) {
        const int32_t out_height =
            (c.height + c.top + c.bottom - c.kernel_y) / c.stride_y + 1 + c.more;
        const int32_t out_width =
            (c.width + c.left + c.right - c.kernel_x) / c.stride_x + 1 + c.more;
        const bool mean = op > 0, include = op == 2;
        Tensor x =
            random_tensor(type, static_cast<size_t>(c.height * c.width * c.channels), -3, -1);
        if (op == 0) {
          x.host[x.host.size() / 3] = NAN;
          x.upload();
        }
        Tensor out(type, static_cast<size_t>(out_height * out_width * c.channels));
        std::vector<double> want(out.host.size());
        for (int y = 0; y < out_height; y++) {
          for (int column = 0; column < out_width; column++) {
            for (int ch = 0; ch < c.channels; ch++) {
              double most = -INFINITY, total = 0;
              int inside = 0, padded = 0;
              for (int i = 0; i < c.kernel_y; i++) {
                for (int j = 0; j < c.kernel_x; j++) {
                  const int iy = y * c.stride_y - c.top + i, ix = column * c.stride_x - c.left + j;
                  if (iy >= c.height + c.bottom || ix >= c.width + c.right) continue;
                  padded++;
                  if (iy < 0 || ix < 0 || iy >= c.height || ix >= c.width) continue;
                  inside++;
                  const double v =
                      x.host[static_cast<size_t>((iy * c.width + ix) * c.channels + ch)];
                  total += v;
                  most = std::isnan(v) || v > most ? v : most;
                }
              }
              want[static_cast<size_t>((y * out_width + column) * c.channels + ch)] =
                  mean ? total / (include ? padded : inside) : most;
            }
          }
        }
        const gpu::PoolArgs args = {x.data(),   type,       c.height,   c.width,    c.channels,
                                    c.kernel_y, c.kernel_x, c.stride_y, c.stride_x, c.top,
                                    c.left,     c.bottom,   c.right,    out_height, out_width,
                                    include,    out.data()};
        const auto name = text("pool", type, {op, c.height, c.width, c.channels});
        run(name, {&out},
            [&] { return mean ? gpu::avg_pool(args, nullptr) : gpu::max_pool(args, nullptr); });
        expect(name, out.values(), want, mean ? 1e-6 + rounding(type) : 0);
      }
    }
  }
}

void test_group_conv() {
  struct Case {
    int32_t height, width, channels, out_channels, groups, kernel_y, kernel_x, stride_y, stride_x,
        pad, dilation;
  };
  const Case cases[] = {
      {1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1},         {7, 9, 64, 64, 64, 3, 3, 1, 1, 1, 1},
      {8, 7, 64, 64, 64, 3, 3, 2, 2, 1, 1},      {9, 11, 32, 32, 32, 5, 5, 1, 1, 2, 1},
      {10, 9, 12, 12, 12, 5, 5, 2, 2, 2, 1},     {7, 5, 17, 17, 17, 3, 3, 1, 1, 1, 1},
      {9, 9, 8, 8, 8, 3, 3, 1, 1, 2, 2},         {6, 9, 20, 20, 20, 1, 7, 1, 2, 3, 1},
      {5, 6, 12, 24, 4, 3, 3, 1, 1, 1, 1},       {7, 7, 65, 13, 13, 3, 1, 2, 1, 0, 1},
      {6, 5, 8, 16, 8, 3, 3, 1, 1, 1, 1},        {4, 5, 7, 9, 1, 3, 3, 1, 1, 1, 1},
      {72, 71, 128, 128, 128, 3, 3, 1, 1, 1, 1}, {66, 67, 32, 128, 32, 3, 3, 1, 1, 1, 1}};
  for (const Case& c : cases) {
    const bool large = c.height > 60;
    for (Type type : kTypes) {
      for (int mask = 0; mask < 4; mask++) {
        if (large && (mask != 3 || type == Type::bf16)) continue;
        const int32_t out_height =
            (c.height + 2 * c.pad - c.dilation * (c.kernel_y - 1) - 1) / c.stride_y + 1;
        const int32_t out_width =
            (c.width + 2 * c.pad - c.dilation * (c.kernel_x - 1) - 1) / c.stride_x + 1;
        const int32_t inputs = c.channels / c.groups, outputs = c.out_channels / c.groups;
        Tensor x = random_tensor(type, static_cast<size_t>(c.height * c.width * c.channels));
        Tensor weight = random_tensor(
            Type::f32, static_cast<size_t>(c.kernel_y * c.kernel_x * inputs * c.out_channels));
        Tensor bias = random_tensor(Type::f32, static_cast<size_t>(c.out_channels));
        const size_t n = static_cast<size_t>(out_height * out_width * c.out_channels);
        Tensor residual = random_tensor(type, n), out(type, n);
        std::vector<double> want(n);
        for (size_t at = 0; at < n; at++) {
          const int o = static_cast<int>(at) % c.out_channels;
          const int px = static_cast<int>(at) / c.out_channels % out_width;
          const int py = static_cast<int>(at) / c.out_channels / out_width;
          double sum = mask & 1 ? bias.host[static_cast<size_t>(o)] : 0;
          for (int i = 0; i < c.kernel_y; i++) {
            for (int j = 0; j < c.kernel_x; j++) {
              const int y = py * c.stride_y - c.pad + i * c.dilation;
              const int xx = px * c.stride_x - c.pad + j * c.dilation;
              if (y < 0 || xx < 0 || y >= c.height || xx >= c.width) continue;
              for (int k = 0; k < inputs; k++) {
                const int in = o / outputs * inputs + k;
                sum += double{x.host[static_cast<size_t>((y * c.width + xx) * c.channels + in)]} *
                       weight.host[static_cast<size_t>(
                           ((i * c.kernel_x + j) * inputs + k) * c.out_channels + o)];
              }
            }
          }
          if (mask & 2) sum += residual.host[at];
          want[at] = mask == 3 ? std::max(sum, 0.0) : sum;
        }
        const gpu::GroupConvArgs args = {x.data(),
                                         type,
                                         c.height,
                                         c.width,
                                         c.channels,
                                         out_height,
                                         out_width,
                                         c.out_channels,
                                         c.groups,
                                         c.kernel_y,
                                         c.kernel_x,
                                         c.stride_y,
                                         c.stride_x,
                                         c.pad,
                                         c.pad,
                                         c.dilation,
                                         c.dilation,
                                         weight.floats(),
                                         mask & 1 ? bias.floats() : nullptr,
                                         mask & 2 ? residual.data() : nullptr,
                                         mask == 3 ? gpu::Unary::relu : gpu::Unary::identity,
                                         out.data()};
        const auto name = text("group_conv", type,
                               {c.height, c.width, c.channels, c.out_channels, c.groups, c.kernel_y,
                                c.kernel_x, c.stride_y, mask});
        run(name, {&out}, [&] { return gpu::group_conv(args, nullptr); });
        expect(name, out.values(), want, 2e-6 + rounding(type));
      }
    }
  }
}

}  // namespace

void test_windows() {
  test_pool();
  test_group_conv();
}
