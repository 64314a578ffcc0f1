// Norms, softmaxes and reductions of rows.
#include "testing.h"

void test_rows(const k::Table& table) {
  for (int64_t width : {1, 3, 7, 16, 17, 65, 768, 1023}) {
    const int64_t rows = 3;
    auto x = random_floats(rows * width, 90, 110), gamma = random_floats(width),
         beta = random_floats(width);
    auto residual = random_floats(rows * width);
    std::vector<double> normal(rows * width), added(rows * width), soft(rows * width);
    double flattest = INFINITY;
    for (int64_t r = 0; r < rows; r++) {
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < width; i++) mean += double{x[r * width + i]} / double(width);
      for (int64_t i = 0; i < width; i++)
        variance += std::pow(x[r * width + i] - mean, 2) / double(width);
      flattest = std::min(flattest, std::sqrt(variance + 1e-5));
      std::vector<double> row(x.data() + r * width, x.data() + (r + 1) * width);
      row = softmax_of(row);
      for (int64_t i = 0; i < width; i++) {
        size_t at = r * width + i;
        normal[at] = (x[at] - mean) / std::sqrt(variance + 1e-5) * gamma[i] + beta[i];
        added[at] = normal[at] + residual[at];
        soft[at] = row[i];
      }
    }
    // The mean, about 100, is rounded: in units of a row's spread that may be much.
    const double tolerance = 2e-5 + 4 * 110 * 0x1p-24 / flattest;
    Guarded<float> out(rows * width);
    auto name = text("layer_norm", table, k::DType::f32, {rows, width});
    table.layer_norm(
        {x.data(), gamma.data(), beta.data(), nullptr, rows, width, 1e-5f, out.data()});
    if (width > 1) expect(name, floats(out), normal, tolerance);
    table.layer_norm(
        {x.data(), gamma.data(), beta.data(), residual.data(), rows, width, 1e-5f, out.data()});
    if (width > 1) expect(name + " + residual", floats(out), added, tolerance);
    memcpy(out.data(), x.data(), out.size() * 4);
    table.layer_norm(
        {out.data(), gamma.data(), beta.data(), residual.data(), rows, width, 1e-5f, out.data()});
    if (width > 1) expect(name + " in place", floats(out), added, tolerance);
    Feature narrow(k::DType::bf16, rows * width);
    table.layer_norm({x.data(), gamma.data(), beta.data(), residual.data(), rows, width, 1e-5f,
                      narrow.data(), k::DType::bf16});
    if (width > 1)
      expect(name + " to bf16", values(narrow), added, tolerance + rounding(narrow.dtype));
    table.softmax({x.data(), rows, width, out.data()});
    expect(text("softmax", table, k::DType::f32, {rows, width}), floats(out), soft, 2e-6);
  }
}

void test_reduce(const k::Table& table, k::DType dtype) {
  const int64_t sizes[][2] = {{1, 1}, {3, 7}, {5, 16}, {2, 17}, {1, 50176}, {9, 65}, {1, 1023}};
  for (auto [rows, width] : sizes) {
    for (bool nan : {false, true}) {
      Feature x = random_feature(dtype, rows * width, -3, -1);
      // Wherever the NaN stands, the maximum must not lose it.
      int64_t at = static_cast<int64_t>(uniform(0, double(width)));
      if (nan) x.set((rows - 1) * width + at, NAN);
      std::vector<double> sums(rows), means(rows), most(rows, -INFINITY);
      for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width; i++) {
          double v = x[r * width + i];
          sums[r] += v;
          most[r] = v != v || most[r] != most[r] ? NAN : std::max(most[r], v);
        }
        means[r] = sums[r] / double(width);
      }
      Guarded<float> out(rows);
      auto run = [&](k::Reduce op) {
        table.reduce({op, x.data(), dtype, rows, width, out.data()});
      };
      auto name = text("reduce", table, dtype, {rows, width, nan});
      run(k::Reduce::sum);
      expect(name + " sum", floats(out), sums, 2e-6);
      run(k::Reduce::mean);
      expect(name + " mean", floats(out), means, 2e-6);
      run(k::Reduce::max);
      expect(name + " max", floats(out), most, 0);
    }
  }
}

void test_reduce_columns(const k::Table& table) {
  const int64_t sizes[][3] = {{1, 1, 2}, {3, 7, 5}, {2, 49, 17}, {2, 3, 64}};
  for (auto [rows, width, inner] : sizes) {
    auto x = random_floats(rows * width * inner, -3, -1);
    std::vector<double> means(rows * inner), most(rows * inner, -INFINITY);
    for (int64_t i = 0; i < rows * width * inner; i++) {
      int64_t at = i / (width * inner) * inner + i % inner;
      means[at] += double{x[i]} / double(width);
      most[at] = std::max(most[at], double{x[i]});
    }
    Guarded<float> out(rows * inner);
    auto name = text("reduce columns", table, k::DType::f32, {rows, width, inner});
    table.reduce({k::Reduce::mean, x.data(), k::DType::f32, rows, width, out.data(), inner});
    expect(name + " mean", floats(out), means, 2e-6);
    table.reduce({k::Reduce::max, x.data(), k::DType::f32, rows, width, out.data(), inner});
    expect(name + " max", floats(out), most, 0);
  }
}
