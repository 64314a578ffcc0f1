// A vector times a constant matrix, against the definition in double.
#include "testing.h"

void test_matvec(const k::Table& table, k::DType dtype) {
  constexpr k::Unary activations[] = {k::Unary::identity, k::Unary::relu, k::Unary::silu,
                                      k::Unary::sigmoid};
  const int64_t sizes[][2] = {{1, 1}, {3, 15}, {16, 16}, {48, 12}, {33, 65}, {7, 129}, {672, 28}};
  for (auto [depth, width] : sizes) {
    for (const k::Unary activation : activations) {
      const int64_t panels = (width + k::kMatvecPanel - 1) / k::kMatvecPanel;
      Feature x = random_feature(dtype, depth), y(dtype, width);
      Feature weight = random_feature(dtype, panels * depth * k::kMatvecPanel, -0.5, 0.5);
      auto bias = random_floats(width);
      const bool biased = depth % 2 == 1;
      table.matvec({x.data(), dtype, depth, width, weight.data(), biased ? bias.data() : nullptr,
                    activation, y.data()});
      std::vector<double> want(width);
      for (int64_t o = 0; o < width; o++) {
        double sum = biased ? bias[o] : 0;
        const int64_t panel = o / k::kMatvecPanel * depth;
        for (int64_t i = 0; i < depth; i++) {
          sum += double{x[i]} * weight[(panel + i) * k::kMatvecPanel + o % k::kMatvecPanel];
        }
        want[o] = activation == k::Unary::relu      ? std::max(sum, 0.0)
                  : activation == k::Unary::silu    ? sum / (1 + std::exp(-sum))
                  : activation == k::Unary::sigmoid ? 1 / (1 + std::exp(-sum))
                                                    : sum;
      }
      expect(text("matvec", table, dtype, {depth, width, static_cast<int64_t>(activation)}),
             values(y), want, 5e-6 + rounding(dtype));
    }
  }
  Feature x = random_feature(dtype, 2), weight = random_feature(dtype, 2 * k::kMatvecPanel);
  Feature y(dtype, 1);
  x.set(1, NAN);
  for (const k::Unary activation : activations) {
    table.matvec({x.data(), dtype, 2, 1, weight.data(), nullptr, activation, y.data()});
    expect(text("matvec of NaN", table, dtype, {static_cast<int64_t>(activation)}), values(y),
           {NAN}, 0);
  }
}
