// Score maps resized, fused and smoothed.
#include <utility>

#include "testing.h"

namespace {

std::vector<double> resized(const float* src, int64_t height, int64_t width, int64_t channels,
                            int64_t out_height, int64_t out_width, bool corners) {
  auto place = [&](int64_t i, int64_t size, int64_t out_size, int64_t& first, double& share) {
    double at = corners ? (out_size > 1 ? i * double(size - 1) / double(out_size - 1) : 0)
                        : std::max(0.0, (i + 0.5) * double(size) / double(out_size) - 0.5);
    first = std::min(static_cast<int64_t>(at), size - 1);
    share = at - static_cast<double>(first);
  };
  std::vector<double> out(out_height * out_width * channels);
  for (int64_t y = 0; y < out_height; y++) {
    for (int64_t x = 0; x < out_width; x++) {
      int64_t top, left;
      double down, across;
      place(y, height, out_height, top, down);
      place(x, width, out_width, left, across);
      int64_t bottom = std::min(top + 1, height - 1), right = std::min(left + 1, width - 1);
      for (int64_t c = 0; c < channels; c++) {
        auto at = [&](int64_t i, int64_t j) { return double{src[(i * width + j) * channels + c]}; };
        out[(y * out_width + x) * channels + c] =
            (1 - down) * ((1 - across) * at(top, left) + across * at(top, right)) +
            down * ((1 - across) * at(bottom, left) + across * at(bottom, right));
      }
    }
  }
  return out;
}

}  // namespace

void test_resize_bilinear(const k::Table& table) {
  const int32_t sizes[][5] = {{1, 1, 1, 1, 1},       {1, 1, 1, 5, 7},      {3, 5, 1, 3, 5},
                              {14, 14, 1, 224, 224}, {56, 57, 1, 61, 300}, {31, 33, 1, 7, 9},
                              {40, 700, 1, 20, 600}, {4, 700, 1, 5, 701},  {5, 3, 7, 9, 11},
                              {6, 4, 65, 3, 5},      {2, 2, 1, 3, 1023}};
  for (auto [height, width, channels, out_height, out_width] : sizes) {
    for (bool corners : {false, true}) {
      auto src = random_floats(static_cast<size_t>(height) * width * channels);
      int64_t row = int64_t{out_width} * channels, stride = row + 3;
      Guarded<float> dst(static_cast<size_t>((out_height - 1) * stride + row));
      std::fill(dst.data(), dst.data() + dst.size(), -7.0f);
      auto want = resized(src.data(), height, width, channels, out_height, out_width, corners);
      auto name = text("resize_bilinear", table, k::DType::f32,
                       {height, width, channels, out_height, out_width, corners});
      auto run = [&](int32_t begin, int32_t end, float* out) {
        table.resize_bilinear({src.data(), height, width, channels, out, out_height, out_width,
                               stride, corners, begin, end});
      };
      run(0, out_height, dst.data());
      auto at = [&](size_t i) {
        return double{
            dst.data()[static_cast<int64_t>(i) / row * stride + static_cast<int64_t>(i) % row]};
      };
      expect(name, at, want, 3e-6);
      for (int64_t y = 0; y + 1 < out_height; y++) {
        for (int64_t i = row; i < stride; i++) {
          if (dst[y * stride + i] != -7.0f) expect(name + " between rows", at, {1e9}, 0);
        }
      }
      Guarded<float> split(dst.size(), true);
      std::fill(split.data(), split.data() + split.size(), -7.0f);
      int32_t cut = out_height / 3;
      run(cut, out_height, split.data());
      run(0, cut, split.data());
      if (memcmp(split.data(), dst.data(), dst.size() * 4) != 0) {
        fprintf(stderr, "[%s] rows depend on the range they are computed in\n", name.c_str());
        failures++;
      }
    }
  }
}

void test_fuse_maps(const k::Table& table) {
  struct Case {
    int32_t height, width, sides[3][2];
  };
  const Case cases[] = {{224, 224, {{56, 56}, {28, 28}, {14, 14}}},
                        {1, 1, {{1, 1}, {1, 1}, {1, 1}}},
                        {33, 301, {{9, 76}, {5, 38}, {3, 19}}},
                        {5, 7, {{11, 17}, {5, 7}, {1, 1}}}};
  for (const Case& c : cases) {
    for (int32_t mode = 1; mode <= 6; mode++) {
      std::vector<Guarded<float>> maps;
      std::vector<std::vector<double>> large;
      for (int l = 0; l < 3; l++) {
        maps.push_back(random_floats(static_cast<size_t>(c.sides[l][0]) * c.sides[l][1], 0, 1));
        large.push_back(
            resized(maps[l].data(), c.sides[l][0], c.sides[l][1], 1, c.height, c.width, false));
      }
      auto mse = random_floats(3, 0.1, 2), cosine = random_floats(3, 0.01, 0.5);
      auto lambda = random_floats(3, 0.5, 2);
      if (mode == 4) mse[0] = cosine[0] = 0;  // no anomaly at all in a layer: weight 0, not 0 / 0
      double alpha[3];
      for (int l = 0; l < 3; l++) {
        double scaled = double{lambda[l]} * cosine[l];
        alpha[l] = mse[l] + scaled == 0 ? 0 : scaled * mse[l] / (mse[l] + scaled);
      }
      Guarded<float> out(static_cast<size_t>(c.height) * c.width);
      k::FuseMapsArgs args = {};
      for (int l = 0; l < 3; l++) {
        args.map[l] = maps[l].data();
        args.map_height[l] = c.sides[l][0];
        args.map_width[l] = c.sides[l][1];
        args.mse[l] = mse.data() + l;
        args.cos[l] = cosine.data() + l;
      }
      args.lambda = lambda.data();
      args.mode = mode;
      args.height = c.height;
      args.width = c.width;
      args.out = out.data();
      table.fuse_maps(args);
      std::vector<double> want(large[0].size());
      for (size_t i = 0; i < want.size(); i++) {
        double m1 = alpha[0] * large[0][i], m2 = alpha[1] * large[1][i],
               m3 = alpha[2] * large[2][i];
        const double fused[] = {m3,           m1 * m3,      m2 * m3,
                                m1 + m2 + m3, m1 * m2 * m3, m1 * m3 + m2 * m3};
        want[i] = fused[mode - 1];
      }
      expect(text("fuse_maps", table, k::DType::f32, {mode, c.height, c.width}), floats(out), want,
             5e-6);
    }
  }
}

void test_gaussian_blur(const k::Table& table) {
  const int32_t sizes[][3] = {{1, 1, 1},    {5, 3, 3},   {17, 17, 33}, {224, 224, 33},
                              {31, 133, 5}, {40, 65, 1}, {9, 30, 11}};
  for (auto [height, width, taps] : sizes) {
    auto src = random_floats(static_cast<size_t>(height) * width, 0, 1),
         kernel = random_floats(taps, 0, 1);
    Guarded<float> dst(src.size()), scratch(k::gaussian_blur_scratch(height, width, taps));
    table.gaussian_blur(
        {src.data(), height, width, taps, kernel.data(), dst.data(), scratch.data()});
    auto mirror = [](int i, int n) { return i < 0 ? -i : i >= n ? 2 * n - 2 - i : i; };
    std::vector<double> tall(src.size()), want(src.size());
    for (int y = 0; y < height; y++) {
      for (int x = 0; x < width; x++) {
        for (int t = 0; t < taps; t++) {
          tall[y * width + x] +=
              double{kernel[t]} * src[mirror(y + t - taps / 2, height) * width + x];
        }
      }
    }
    for (int y = 0; y < height; y++) {
      for (int x = 0; x < width; x++) {
        for (int t = 0; t < taps; t++) {
          want[y * width + x] +=
              double{kernel[t]} * tall[y * width + mirror(x + t - taps / 2, width)];
        }
      }
    }
    expect(text("gaussian_blur", table, k::DType::f32, {height, width, taps}), floats(dst), want,
           3e-6);
  }
}

void test_box_filter(const k::Table& table) {
  const int32_t sizes[][4] = {
      {1, 1, 1, 1}, {7, 5, 3, 2}, {33, 31, 16, 16}, {19, 67, 1, 5}, {9, 17, 9, 17}};
  for (auto [height, width, kh, kw] : sizes) {
    const int32_t rows = height - kh + 1, columns = width - kw + 1;
    auto src = random_floats(height * width);
    Guarded<float> dst(rows * columns), scratch(width);
    for (auto [begin, end] : {std::pair{0, rows / 2}, std::pair{rows / 2, rows}}) {
      table.box_filter({src.data(), height, width, kh, kw, dst.data(), begin, end, scratch.data()});
    }
    std::vector<double> want(rows * columns);
    for (int32_t y = 0; y < rows; y++) {
      for (int32_t x = 0; x < columns; x++) {
        for (int32_t i = 0; i < kh * kw; i++) {
          want[y * columns + x] += src[(y + i / kw) * width + x + i % kw] / double(kh * kw);
        }
      }
    }
    expect(text("box_filter", table, k::DType::f32, {height, width, kh, kw}), floats(dst), want,
           2e-6);
  }
}

void test_gms_map(const k::Table& table) {
  const int64_t sizes[][3] = {{1, 1, 1}, {1, 7, 3}, {9, 1, 3}, {13, 31, 3}, {5, 17, 1}, {3, 2, 17}};
  for (auto [height, width, channels] : sizes) {
    const int64_t n = height * width * channels;
    auto a = random_floats(n), b = random_floats(n);
    Guarded<float> out(height * width), scratch(k::gms_map_scratch(width, channels));
    table.gms_map({a.data(), b.data(), height, width, channels, 0.01f, out.data(), scratch.data()});
    auto square = [&](Guarded<float>& x, int64_t row, int64_t column, int64_t c) {
      double across = 0, down = 0;
      for (int64_t i = -1; i <= 1; i++) {
        for (int64_t j = -1; j <= 1; j++) {
          int64_t at = std::clamp<int64_t>(row + i, 0, height - 1) * width +
                       std::clamp<int64_t>(column + j, 0, width - 1);
          across += double(j) * x[at * channels + c] / 3;
          down += double(i) * x[at * channels + c] / 3;
        }
      }
      return across * across + down * down;
    };
    std::vector<double> want(height * width);
    for (int64_t p = 0; p < height * width; p++) {
      for (int64_t c = 0; c < channels; c++) {
        double aa = square(a, p / width, p % width, c), bb = square(b, p / width, p % width, c);
        want[p] += (1 - (2 * std::sqrt(aa * bb) + 0.01) / (aa + bb + 0.01)) / double(channels);
      }
    }
    expect(text("gms_map", table, k::DType::f32, {height, width, channels}), floats(out), want,
           2e-6);
  }
}
