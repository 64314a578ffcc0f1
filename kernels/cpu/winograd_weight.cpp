// Winograd's transform of the kernels, once at load and in double: its roundings would otherwise be
// those of every frame.
#include "kernels.h"
#include "operand_panels.h"

namespace adfast::kernels {
namespace {

// The points without infinity, which comes last; those of winograd.h.
constexpr double kPoints4[] = {0, 1, -1};
constexpr double kPoints6[] = {0, 0.70710678118654752440, -0.70710678118654752440,
                               1.41421356237309504880, -1.41421356237309504880};
constexpr int kMaxSide = 6, kMaxKernel = 5;

int side_of(int32_t outputs, int32_t kernel) { return outputs + kernel - 1; }

// g[i][j] = point_i^j / prod over the other points of (point_i - point): a kernel's coefficients to
// its values at the points.
void fill_matrix(int side, int kernel, double g[kMaxSide][kMaxKernel]) {
  const double* points = side == 4 ? kPoints4 : kPoints6;
  for (int i = 0; i + 1 < side; i++) {
    double divisor = 1, power = 1;
    for (int j = 0; j + 1 < side; j++) divisor *= j == i ? 1 : points[i] - points[j];
    for (int j = 0; j < kernel; j++, power *= points[i]) g[i][j] = power / divisor;
  }
  for (int j = 0; j < kernel; j++) g[side - 1][j] = j + 1 == kernel ? 1 : 0;
}

void add(double factor, const double* x, double* sum) {
  for (int64_t k = 0; k < kChannelPanel; k++) sum[k] += factor * x[k];
}

}  // namespace

int64_t winograd_panels(int64_t out_channels) {
  return (out_channels + kChannelPanel - 1) / kChannelPanel;
}

size_t winograd_tiles(int64_t tiles, int64_t channels, int32_t outputs, int32_t kernel,
                      DType operands) {
  const int64_t side = side_of(outputs, kernel);
  const int64_t row = winograd_row(words_of(channels, operands == DType::bf16));
  return static_cast<size_t>(side * side * winograd_plane(tiles, row));
}

size_t winograd_products(int64_t tiles, int32_t outputs, int32_t kernel) {
  const int64_t side = side_of(outputs, kernel);
  return static_cast<size_t>(side * side * winograd_plane(tiles, kChannelPanel));
}

size_t winograd_weight_size(int64_t out_channels, int64_t channels, int32_t outputs, int32_t kernel,
                            DType operands) {
  const int64_t side = side_of(outputs, kernel);
  return static_cast<size_t>(winograd_panels(out_channels) * side * side *
                             words_of(channels, operands == DType::bf16) * kChannelPanel);
}

// packed[panel][point]; zero past the last channel of either kind.
void winograd_weight(const float* weight, int64_t out_channels, int64_t channels, int32_t outputs,
                     int32_t kernel, DType operands, void* packed) {
  const int side = side_of(outputs, kernel);
  double g[kMaxSide][kMaxKernel];
  fill_matrix(side, kernel, g);
  const int64_t points = side * side, panels = winograd_panels(out_channels);
  const bool pairs = operands == DType::bf16;
  const int64_t words = words_of(channels, pairs), depth = pairs ? 2 * words : words;
  const auto put = [&](int64_t panel, int64_t point, int64_t c, int64_t k, double value) {
    put_operand(static_cast<float*>(packed) + (panel * points + point) * words * kChannelPanel,
                words, pairs, c, k, static_cast<float>(value));
  };
  // Channel by channel, all of a panel's kernels side by side: vectors of equal work.
  constexpr int kTaps = kMaxKernel * kMaxKernel;
  double from[kTaps][kChannelPanel] = {}, row[kMaxKernel][kChannelPanel], value[kChannelPanel];
  for (int64_t panel = 0; panel < panels; panel++) {
    const int64_t first = panel * kChannelPanel;
    for (int64_t c = 0; c < depth; c++) {
      for (int64_t k = 0; k < kChannelPanel; k++) {
        const bool inside = first + k < out_channels && c < channels;
        const int64_t at = ((first + k) * channels + c) * kernel * kernel;
        for (int t = 0; t < kernel * kernel; t++) from[t][k] = inside ? weight[at + t] : 0;
      }
      for (int i = 0; i < side; i++) {
        for (int s = 0; s < kernel; s++) {
          for (double& sum : row[s]) sum = 0;
          for (int r = 0; r < kernel; r++) add(g[i][r], from[r * kernel + s], row[s]);
        }
        for (int j = 0; j < side; j++) {
          for (double& sum : value) sum = 0;
          for (int s = 0; s < kernel; s++) add(g[j][s], row[s], value);
          for (int64_t k = 0; k < kChannelPanel; k++) put(panel, i * side + j, c, k, value[k]);
        }
      }
    }
  }
}

}  // namespace adfast::kernels
