// Every CPU kernel of every instruction set this processor runs, against plain loops in double: odd
// sizes, vector tails, both element types, any strides, NaN and infinity.
//
// Every buffer ends at (or begins right after) a page that may not be touched, so that reading or
// writing one byte too far is a crash; that also makes every pointer but a few misaligned.
#include "kernels/cpu/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace k = adfast::kernels;

namespace {

std::mt19937 rng(20240607);
int failures = 0;

double uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(rng);
}

// n elements between two forbidden pages, touching the second one (or, if `front`, the first).
template <class T>
class Guarded {
 public:
  explicit Guarded(size_t n, bool front = false) : size_(n) {
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t bytes = n * sizeof(T), pages = (bytes + page - 1) / page;
    length_ = (pages + 2) * page;
    base_ =
        static_cast<char*>(mmap(nullptr, length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) abort();
    if (pages > 0 && mprotect(base_ + page, pages * page, PROT_READ | PROT_WRITE) != 0) abort();
    data_ = reinterpret_cast<T*>(front ? base_ + page : base_ + (pages + 1) * page - bytes);
  }
  Guarded(const Guarded&) = delete;
  Guarded(Guarded&& other) noexcept
      : base_(other.base_), length_(other.length_), data_(other.data_), size_(other.size_) {
    other.base_ = nullptr;
  }
  ~Guarded() {
    if (base_) munmap(base_, length_);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  size_t size() const { return size_; }

 private:
  char* base_;
  size_t length_;
  T* data_;
  size_t size_;
};

float from_bf16(uint16_t v) {
  uint32_t bits = uint32_t{v} << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

uint16_t to_bf16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if (f != f) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// An activation in either element type, and the values it really holds.
struct Feature {
  k::DType dtype;
  size_t size;
  Guarded<uint8_t> bytes;

  Feature(k::DType type, size_t n)
      : dtype(type), size(n), bytes(n * (type == k::DType::f32 ? 4 : 2), uniform(0, 1) < 0.3) {}
  void* data() { return bytes.data(); }
  void set(size_t i, float v) {
    if (dtype == k::DType::f32) {
      memcpy(bytes.data() + 4 * i, &v, 4);
    } else {
      uint16_t b = to_bf16(v);
      memcpy(bytes.data() + 2 * i, &b, 2);
    }
  }
  float operator[](size_t i) const {
    if (dtype == k::DType::f32) {
      float v;
      memcpy(&v, bytes.data() + 4 * i, 4);
      return v;
    }
    uint16_t b;
    memcpy(&b, bytes.data() + 2 * i, 2);
    return from_bf16(b);
  }
};

Feature random_feature(k::DType dtype, size_t n, double low = -1, double high = 1) {
  Feature f(dtype, n);
  for (size_t i = 0; i < n; i++) f.set(i, static_cast<float>(uniform(low, high)));
  return f;
}

Guarded<float> random_floats(size_t n, double low = -1, double high = 1) {
  Guarded<float> f(n);
  for (size_t i = 0; i < n; i++) f[i] = static_cast<float>(uniform(low, high));
  return f;
}

// |got - want| <= tolerance * max(|want|), and NaN exactly where it belongs.
template <class Got>
void expect(const std::string& what, const Got& got, const std::vector<double>& want,
            double tolerance) {
  double most = 1e-30;
  for (double w : want) {
    if (std::isfinite(w)) most = std::max(most, std::fabs(w));
  }
  for (size_t i = 0; i < want.size(); i++) {
    double g = got(i), w = want[i];
    bool good = std::isnan(w)   ? std::isnan(g)
                : std::isinf(w) ? g == w
                                : std::fabs(g - w) <= tolerance * most;
    if (good) continue;
    fprintf(stderr, "[%s] element %zu: expected %.9g, got %.9g (largest %.4g)\n", what.c_str(), i,
            w, g, most);
    failures++;
    return;
  }
}

auto floats(const Guarded<float>& f) {
  return [&f](size_t i) { return static_cast<double>(f.data()[i]); };
}
auto values(const Feature& f) {
  return [&f](size_t i) { return static_cast<double>(f[i]); };
}

std::string text(const char* op, const k::Table& table, k::DType dtype,
                 std::initializer_list<int64_t> sizes) {
  std::string s = std::string(op) + " " + table.name + (dtype == k::DType::f32 ? " f32" : " bf16");
  for (int64_t n : sizes) s += " " + std::to_string(n);
  return s;
}

// The rounding of an output in this type, added to what sums may lose.
double rounding(k::DType dtype) { return dtype == k::DType::f32 ? 0 : 1.0 / 256; }

std::vector<double> softmax_of(std::vector<double> x) {
  double most = *std::max_element(x.begin(), x.end()), total = 0;
  for (double& v : x) total += v = std::exp(v - most);
  for (double& v : x) v /= total;
  return x;
}

void test_token_attention(const k::Table& table, k::DType dtype) {
  const int64_t sizes[][3] = {{1, 1, 1},     {3, 7, 2},    {129, 17, 8},  {1023, 65, 8},
                              {200, 64, 11}, {49, 256, 8}, {31, 1027, 3}, {128, 32, 16}};
  for (auto [pixels, channels, groups] : sizes) {
    for (bool biased : {false, true}) {
      Feature x = random_feature(dtype, pixels * channels, -2, 2);
      auto weight = random_floats(groups * channels, -0.5, 0.5), bias = random_floats(groups);
      Guarded<float> out(groups * channels);
      Guarded<float> scratch(k::token_attention_scratch(channels, groups));
      const float scale = 0.7f;
      table.token_attention({x.data(), dtype, pixels, channels, groups, weight.data(),
                             biased ? bias.data() : nullptr, scale, out.data(), scratch.data()});
      std::vector<double> want(groups * channels);
      for (int64_t g = 0; g < groups; g++) {
        std::vector<double> logits(pixels);
        for (int64_t p = 0; p < pixels; p++) {
          double dot = biased ? bias[g] : 0;
          for (int64_t c = 0; c < channels; c++) {
            dot += double{x[p * channels + c]} * weight[g * channels + c];
          }
          logits[p] = scale * dot;
        }
        std::vector<double> share = softmax_of(logits);
        for (int64_t p = 0; p < pixels; p++) {
          for (int64_t c = 0; c < channels; c++) {
            want[g * channels + c] += share[p] * x[p * channels + c];
          }
        }
      }
      expect(text("token_attention", table, dtype, {pixels, channels, groups}), floats(out), want,
             2e-5);
    }
  }
}

struct Score {
  std::vector<double> map;
  double mse, cosine;
  double ratio;  // of the norms, >= 1
};

Score score_of(const std::vector<double>& a, const std::vector<double>& b, int64_t pixels) {
  Score s{std::vector<double>(pixels), 0, 0, 1};
  int64_t channels = static_cast<int64_t>(a.size()) / pixels;
  long double ab = 0, aa = 0, bb = 0, dd = 0;
  for (int64_t p = 0; p < pixels; p++) {
    double square = 0;
    for (int64_t c = 0; c < channels; c++) {
      double v = a[p * channels + c], w = b[p * channels + c];
      square += (v - w) * (v - w);
      aa += static_cast<long double>(v) * v;
      bb += static_cast<long double>(w) * w;
      ab += static_cast<long double>(v) * w;
    }
    dd += square;
    s.map[p] = 0.5 * square / static_cast<double>(pixels);
  }
  s.mse = static_cast<double>(dd / pixels);
  s.ratio = static_cast<double>(std::sqrt(std::max(aa, bb) / std::max(std::min(aa, bb), 1e-30L)));
  s.cosine = static_cast<double>(1 - ab / std::max(std::sqrt(aa) * std::sqrt(bb), 1e-12L));
  return s;
}

void expect_score(const std::string& what, const Guarded<float>& map, const Guarded<float>& mse,
                  const Guarded<float>& cosine, const Score& want) {
  expect(what + " map", floats(map), want.map, 1e-5);
  expect(what + " mse", floats(mse), {want.mse}, 1e-5);
  // Relative to the distance itself, however small: that is what the formula is chosen for. It pays
  // where the norms are apart.
  double allowed = 3e-5 * want.cosine + 1e-7 * (want.ratio - 1) + 1e-15;
  expect(what + " cos", floats(cosine), {want.cosine},
         allowed / std::max(std::fabs(want.cosine), 1e-30));
}

void test_projector(const k::Table& table, k::DType dtype) {
  const int64_t sizes[][3] = {{1, 1, 1},   {3, 7, 2},     {129, 17, 8}, {1023, 65, 8}, {257, 64, 5},
                              {49, 32, 8}, {31, 1027, 3}, {65, 48, 17}, {7, 256, 24}};
  for (auto [pixels, channels, tokens] : sizes) {
    for (bool biased : {false, true}) {
      size_t n = static_cast<size_t>(pixels * channels);
      Feature x = random_feature(dtype, n, -2, 2), residual = random_feature(dtype, n, -2, 2);
      auto key = random_floats(tokens * channels, -0.5, 0.5), bias = random_floats(tokens);
      auto value = random_floats(tokens * channels, -0.5, 0.5);
      Feature out(dtype, n);
      Guarded<float> scratch(k::projector_attention_scratch(channels, tokens));
      const float scale = 0.3f;
      k::ProjectorAttentionArgs args = {
          x.data(),     residual.data(), dtype,      pixels,
          channels,     tokens,          key.data(), biased ? bias.data() : nullptr,
          value.data(), scale,           out.data(), scratch.data()};
      table.projector_attention(args);
      std::vector<double> want(n), from(n);
      for (int64_t p = 0; p < pixels; p++) {
        std::vector<double> logits(tokens);
        for (int64_t t = 0; t < tokens; t++) {
          double dot = biased ? bias[t] : 0;
          for (int64_t c = 0; c < channels; c++) {
            dot += double{x[p * channels + c]} * key[t * channels + c];
          }
          logits[t] = scale * dot;
        }
        std::vector<double> share = softmax_of(logits);
        for (int64_t c = 0; c < channels; c++) {
          double v = residual[p * channels + c];
          for (int64_t t = 0; t < tokens; t++) v += share[t] * value[t * channels + c];
          want[p * channels + c] = v;
          from[p * channels + c] = x[p * channels + c];
        }
      }
      auto name = text("projector_attention", table, dtype, {pixels, channels, tokens});
      expect(name, values(out), want, 1e-5 + rounding(dtype));

      Guarded<float> map(pixels), mse(1), cosine(1);
      args.out = nullptr;
      table.projector_score_map({args, map.data(), mse.data(), cosine.data()});
      expect_score(text("projector_score_map", table, dtype, {pixels, channels, tokens}), map, mse,
                   cosine, score_of(from, want, pixels));
    }
  }
}

void test_score_map(const k::Table& table, k::DType dtype) {
  const int64_t sizes[][2] = {{1, 1},     {3, 7},     {9, 17},   {1023, 65},
                              {196, 256}, {13, 1027}, {3136, 64}};
  for (auto [pixels, channels] : sizes) {
    for (double apart : {2.0, 1e-2, 1e-4, 0.0}) {
      size_t n = static_cast<size_t>(pixels * channels);
      Feature a = random_feature(dtype, n, 0, 2), b(dtype, n);
      std::vector<double> want_a(n), want_b(n);
      for (size_t i = 0; i < n; i++) {
        b.set(i, a[i] + static_cast<float>(uniform(-apart, apart)));
        want_a[i] = a[i];
        want_b[i] = b[i];
      }
      Guarded<float> map(pixels), mse(1), cosine(1);
      table.score_map(
          {a.data(), b.data(), dtype, pixels, channels, map.data(), mse.data(), cosine.data()});
      expect_score(text("score_map", table, dtype, {pixels, channels}), map, mse, cosine,
                   score_of(want_a, want_b, pixels));
    }
  }
  // Nothing at all: the floor of the denominator decides.
  Feature zero = random_feature(dtype, 10, 0, 0);
  Guarded<float> map(2), mse(1), cosine(1);
  table.score_map({zero.data(), zero.data(), dtype, 2, 5, map.data(), mse.data(), cosine.data()});
  expect(text("score_map of zeros", table, dtype, {}), floats(cosine), {1.0}, 0);
}

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

// torch's antialiased triangle filter, cropped to `size` outputs from `start`.
struct Axis {
  Guarded<int32_t> first;
  Guarded<float> weight;
  int32_t size, taps;
  k::ResampleAxis view() { return {size, taps, first.data(), weight.data()}; }
};

Axis make_axis(int32_t input, int32_t output, int32_t start, int32_t size) {
  double scale = double(input) / output, support = std::max(scale, 1.0);
  int32_t taps = std::min(input, static_cast<int32_t>(std::ceil(support)) * 2 + 1);
  Axis axis{Guarded<int32_t>(size), Guarded<float>(static_cast<size_t>(size) * taps), size, taps};
  for (int32_t i = 0; i < size; i++) {
    double center = (start + i + 0.5) * scale, total = 0;
    int32_t first = std::max(0, static_cast<int32_t>(center - support + 0.5));
    first = std::min(first, input - taps);
    axis.first[i] = first;
    std::vector<double> weight(taps);
    for (int32_t t = 0; t < taps; t++) {
      total += weight[t] = std::max(0.0, 1 - std::fabs((first + t + 0.5 - center) / support));
    }
    for (int32_t t = 0; t < taps; t++) axis.weight[i * taps + t] = float(weight[t] / total);
  }
  return axis;
}

void test_frame(const k::Table& table, k::DType dtype) {
  struct Layout {
    const char* name;
    int channels;  // bytes of a stored pixel
    bool planar, flip_rows, flip_columns, every_second;
    int order[3];
  };
  const Layout layouts[] = {
      {"rgb", 3, false, false, false, false, {0, 1, 2}},
      {"bgr", 3, false, false, false, false, {2, 1, 0}},
      {"grey", 1, false, false, false, false, {0, 0, 0}},
      {"rgba", 4, false, false, false, false, {0, 1, 2}},
      {"argb", 4, false, false, false, false, {1, 2, 3}},
      {"upside down", 3, false, true, false, false, {0, 1, 2}},
      {"mirrored", 3, false, false, true, false, {0, 1, 2}},
      {"mirrored bgr", 3, false, true, true, false, {2, 1, 0}},
      {"mirrored grey", 1, false, true, true, false, {0, 0, 0}},
      {"planar", 3, true, false, false, false, {0, 1, 2}},
      {"mirrored planar", 3, true, true, true, false, {2, 0, 1}},
      {"subsampled planar", 3, true, false, false, true, {0, 1, 2}},
      {"subsampled", 3, false, false, false, true, {0, 1, 2}},
      {"subsampled grey", 1, false, false, true, true, {0, 0, 0}},
      {"one channel of rgb", 3, false, false, false, false, {1, 1, 1}},
  };
  const int32_t sizes[][4] = {{1, 1, 1, 1},         {3, 5, 8, 7},        {61, 47, 17, 15},
                              {100, 131, 256, 224}, {333, 1023, 64, 56}, {2, 300, 31, 30}};
  for (const Layout& layout : layouts) {
    for (auto [height, width, resize, crop] : sizes) {
      int step = layout.every_second ? 2 : 1;
      ptrdiff_t stored_width = width * step, stored_height = height * step;
      ptrdiff_t pixel = layout.planar ? 1 : layout.channels;
      ptrdiff_t pad = layout.channels == 4 ? 0 : 5;
      ptrdiff_t row = stored_width * pixel + pad, plane = row * stored_height;
      // The padding after the last row does not exist.
      ptrdiff_t bytes = (layout.planar ? layout.channels : 1) * plane - pad;
      if (layout.every_second) bytes -= row + pixel;  // nor does what is skipped
      Guarded<uint8_t> pixels(static_cast<size_t>(bytes), layout.flip_rows);
      for (size_t i = 0; i < pixels.size(); i++) pixels[i] = static_cast<uint8_t>(rng());
      Axis ya = make_axis(height, resize, (resize - crop) / 2, crop);
      Axis xa = make_axis(width, resize + 3, 1, crop + 1);
      k::FrameArgs args = {};
      args.src = pixels.data();
      args.row_stride = row * step;
      args.pixel_stride = pixel * step;
      if (layout.flip_rows) {
        args.src += (height - 1) * args.row_stride;
        args.row_stride = -args.row_stride;
      }
      if (layout.flip_columns) {
        args.src += (width - 1) * args.pixel_stride;
        args.pixel_stride = -args.pixel_stride;
      }
      for (int c = 0; c < 3; c++) {
        args.channel_offset[c] = layout.order[c] * (layout.planar ? plane : 1);
        args.scale[c] = static_cast<float>(uniform(0.01, 0.02));
        args.bias[c] = static_cast<float>(uniform(-2, -1));
      }
      args.src_height = height;
      args.src_width = width;
      args.y = ya.view();
      args.x = xa.view();
      args.dtype = dtype;
      std::vector<double> want(static_cast<size_t>(crop * (crop + 1) * 3));
      for (int c = 0; c < 3; c++) {
        std::vector<double> tall(static_cast<size_t>(crop) * width);
        for (int y = 0; y < crop; y++) {
          for (int x = 0; x < width; x++) {
            double v = 0;
            for (int t = 0; t < ya.taps; t++) {
              v += double{ya.weight[y * ya.taps + t]} *
                   args.src[(ya.first[y] + t) * args.row_stride + x * args.pixel_stride +
                            args.channel_offset[c]];
            }
            tall[y * width + x] = v;
          }
        }
        for (int y = 0; y < crop; y++) {
          for (int x = 0; x < xa.size; x++) {
            double v = 0;
            for (int t = 0; t < xa.taps; t++) {
              v += double{xa.weight[x * xa.taps + t]} * tall[y * width + xa.first[x] + t];
            }
            want[(y * xa.size + x) * 3 + c] = v * args.scale[c] + args.bias[c];
          }
        }
      }
      auto name = text(("frame_to_tensor " + std::string(layout.name)).c_str(), table, dtype,
                       {height, width, resize, crop});
      Guarded<float> scratch(k::frame_scratch(width));
      args.scratch = scratch.data();
      Feature out(dtype, want.size());
      args.dst = out.data();
      args.row_begin = 0;
      args.row_end = crop;
      table.frame_to_tensor(args);
      expect(name, values(out), want, 3e-6 + rounding(dtype));
      Feature split(dtype, want.size());
      args.dst = split.data();
      const int cuts[] = {0, crop / 3, crop / 3 + 1, crop};
      for (int i = 2; i >= 0; i--) {
        args.row_begin = cuts[i];
        args.row_end = cuts[i + 1];
        table.frame_to_tensor(args);
      }
      if (memcmp(split.data(), out.data(), out.bytes.size()) != 0) {
        fprintf(stderr, "[%s] rows depend on the range they are computed in\n", name.c_str());
        failures++;
      }
    }
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

void test_attention(const k::Table& table) {
  const int64_t sizes[][5] = {{1, 1, 1, 1, 1},     {8, 8, 64, 64, 8},  {24, 24, 256, 256, 8},
                              {5, 17, 21, 33, 3},  {3, 9, 14, 7, 1},   {13, 577, 64, 130, 2},
                              {64, 64, 32, 96, 1}, {7, 1027, 5, 81, 1}};
  for (auto [queries, keys, dim, value_dim, heads] : sizes) {
    auto q = random_floats(queries * dim), key = random_floats(keys * dim),
         v = random_floats(keys * value_dim);
    Guarded<float> out(queries * value_dim), split(queries * value_dim),
        scratch(k::attention_scratch(keys, dim / heads, value_dim / heads));
    k::AttentionArgs args = {q.data(), key.data(), v.data(), queries,    keys,
                             dim,      value_dim,  heads,    0.4f,       0,
                             heads,    0,          queries,  out.data(), scratch.data()};
    table.attention(args);
    args.out = split.data();
    for (args.head_begin = 0; args.head_begin < heads; args.head_begin++) {
      args.head_end = args.head_begin + 1;
      for (auto [begin, end] : {std::pair{int64_t{0}, queries / 3}, {queries / 3, queries}}) {
        args.query_begin = begin;
        args.query_end = end;
        table.attention(args);
      }
    }
    auto name = text("attention", table, k::DType::f32, {queries, keys, dim, value_dim, heads});
    if (memcmp(split.data(), out.data(), queries * value_dim * sizeof(float)) != 0) {
      fprintf(stderr, "[%s] rows depend on the range they are computed in\n", name.c_str());
      failures++;
    }
    std::vector<double> want(queries * value_dim);
    int64_t hd = dim / heads, hv = value_dim / heads;
    for (int64_t h = 0; h < heads; h++) {
      for (int64_t i = 0; i < queries; i++) {
        std::vector<double> logits(keys);
        for (int64_t j = 0; j < keys; j++) {
          for (int64_t d = h * hd; d < (h + 1) * hd; d++)
            logits[j] += 0.4 * q[i * dim + d] * key[j * dim + d];
        }
        logits = softmax_of(logits);
        for (int64_t j = 0; j < keys; j++) {
          for (int64_t d = h * hv; d < (h + 1) * hv; d++)
            want[i * value_dim + d] += logits[j] * v[j * value_dim + d];
        }
      }
    }
    expect(name, floats(out), want, 5e-6);
  }
}

void test_rows(const k::Table& table) {
  for (int64_t width : {1, 3, 7, 16, 17, 65, 768, 1023}) {
    const int64_t rows = 3;
    auto x = random_floats(rows * width, 90, 110), gamma = random_floats(width),
         beta = random_floats(width);
    auto residual = random_floats(rows * width);
    std::vector<double> normal(rows * width), added(rows * width), soft(rows * width);
    for (int64_t r = 0; r < rows; r++) {
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < width; i++) mean += double{x[r * width + i]} / double(width);
      for (int64_t i = 0; i < width; i++)
        variance += std::pow(x[r * width + i] - mean, 2) / double(width);
      std::vector<double> row(x.data() + r * width, x.data() + (r + 1) * width);
      row = softmax_of(row);
      for (int64_t i = 0; i < width; i++) {
        size_t at = r * width + i;
        normal[at] = (x[at] - mean) / std::sqrt(variance + 1e-5) * gamma[i] + beta[i];
        added[at] = normal[at] + residual[at];
        soft[at] = row[i];
      }
    }
    Guarded<float> out(rows * width);
    auto name = text("layer_norm", table, k::DType::f32, {rows, width});
    table.layer_norm(
        {x.data(), gamma.data(), beta.data(), nullptr, rows, width, 1e-5f, out.data()});
    if (width > 1) expect(name, floats(out), normal, 2e-5);
    table.layer_norm(
        {x.data(), gamma.data(), beta.data(), residual.data(), rows, width, 1e-5f, out.data()});
    if (width > 1) expect(name + " + residual", floats(out), added, 2e-5);
    memcpy(out.data(), x.data(), out.size() * 4);
    table.layer_norm(
        {out.data(), gamma.data(), beta.data(), residual.data(), rows, width, 1e-5f, out.data()});
    if (width > 1) expect(name + " in place", floats(out), added, 2e-5);
    Feature narrow(k::DType::bf16, rows * width);
    table.layer_norm({x.data(), gamma.data(), beta.data(), residual.data(), rows, width, 1e-5f,
                      narrow.data(), k::DType::bf16});
    if (width > 1) expect(name + " to bf16", values(narrow), added, 2e-5 + rounding(narrow.dtype));
    table.softmax({x.data(), rows, width, out.data()});
    expect(text("softmax", table, k::DType::f32, {rows, width}), floats(out), soft, 2e-6);
  }
}

void test_unary(const k::Table& table) {
  struct Case {
    k::Unary op;
    const char* name;
    std::function<double(double)> f;
    double tolerance;
  };
  const Case cases[] = {
      {k::Unary::identity, "identity", [](double v) { return v; }, 0},
      {k::Unary::relu, "relu", [](double v) { return v < 0 ? 0 : v; }, 0},
      {k::Unary::sigmoid, "sigmoid", [](double v) { return 1 / (1 + std::exp(-v)); }, 4e-7},
      {k::Unary::silu, "silu", [](double v) { return v == -INFINITY ? 0 : v / (1 + std::exp(-v)); },
       4e-7},
      {k::Unary::gelu, "gelu",
       [](double v) { return v == -INFINITY ? 0 : 0.5 * v * std::erfc(-v / std::sqrt(2.0)); },
       1e-6},
      {k::Unary::tanh, "tanh", [](double v) { return std::tanh(v); }, 4e-7},
      {k::Unary::sqrt, "sqrt", [](double v) { return std::sqrt(v); }, 1e-7},
      {k::Unary::exp, "exp", [](double v) { return std::exp(v); }, 2.5e-7},
      {k::Unary::abs, "abs", [](double v) { return std::fabs(v); }, 0},
      {k::Unary::square, "square", [](double v) { return v * v; }, 1e-7},
      {k::Unary::neg, "neg", [](double v) { return -v; }, 0},
  };
  const float special[] = {0.0f, -0.0f, NAN, INFINITY, -INFINITY};
  for (const Case& c : cases) {
    for (k::DType in : {k::DType::f32, k::DType::bf16}) {
      for (k::DType out_type : {k::DType::f32, k::DType::bf16}) {
        for (size_t n : {1, 3, 17, 65, 1023}) {
          Feature x = random_feature(in, n, c.op == k::Unary::sqrt ? 0 : -30, 30), out(out_type, n);
          for (size_t i = 0; i < n && n >= 17 && i < 5; i++) x.set(i, special[i]);
          table.unary({c.op, x.data(), in, out.data(), out_type, static_cast<int64_t>(n)});
          // Relative to each value, as the largest would hide the others.
          for (size_t i = 0; i < n; i++) {
            double want = c.f(x[i]);
            double tolerance = c.tolerance + rounding(out_type);
            if (out_type == k::DType::bf16 && in == k::DType::f32 && c.op == k::Unary::identity) {
              want = from_bf16(to_bf16(x[i]));
              tolerance = 0;
            }
            if (std::fabs(want) < 1e-30) tolerance = 1e10;  // subnormal or nearly
            // The argument of the exponential in gelu's far tail is large, and so is its rounding.
            if (c.op == k::Unary::gelu && x[i] < -2) tolerance += 2e-5;
            expect(
                text(c.name, table, in, {int64_t(n), int64_t(i)}),
                [&](size_t) { return double{out[i]}; }, {want}, tolerance);
          }
        }
      }
    }
  }
  // Rounding to bf16: ties to even, up into infinity, NaN of every payload, subnormals.
  const uint32_t bits[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x7f7fffff, 0xff7fffff,
                           0x7f800001, 0x7fffffff, 0xffffffff, 0x7f800000, 0x00000001, 0x00008000,
                           0x00008001, 0x80018000, 0x00018000, 0x007fffff, 0x7fc00000};
  Feature x(k::DType::f32, std::size(bits)), out(k::DType::bf16, std::size(bits));
  memcpy(x.data(), bits, sizeof bits);
  table.unary(
      {k::Unary::identity, x.data(), k::DType::f32, out.data(), k::DType::bf16, std::size(bits)});
  for (size_t i = 0; i < std::size(bits); i++) {
    float v;
    memcpy(&v, &bits[i], 4);
    uint16_t got;
    memcpy(&got, out.bytes.data() + 2 * i, 2);
    if (got != to_bf16(v)) {
      fprintf(stderr, "[%s] 0x%08x to bf16: expected 0x%04x, got 0x%04x\n", table.name, bits[i],
              to_bf16(v), got);
      failures++;
    }
  }
}

void test_binary(const k::Table& table) {
  const std::pair<k::Binary, std::function<double(double, double)>> cases[] = {
      {k::Binary::add, [](double a, double b) { return a + b; }},
      {k::Binary::sub, [](double a, double b) { return a - b; }},
      {k::Binary::mul, [](double a, double b) { return a * b; }},
      {k::Binary::div, [](double a, double b) { return a / b; }},
      {k::Binary::max, [](double a, double b) { return a != a || b != b ? NAN : std::max(a, b); }},
      {k::Binary::min, [](double a, double b) { return a != a || b != b ? NAN : std::min(a, b); }},
  };
  for (const auto& [op, f] : cases) {
    for (int types = 0; types < 8; types++) {
      auto type = [&](int bit) { return types >> bit & 1 ? k::DType::bf16 : k::DType::f32; };
      for (int64_t width : {1, 7, 17, 65}) {
        const int64_t rows = 5, n = rows * width;
        for (int64_t b_count : {int64_t{1}, width, n}) {
          Feature a = random_feature(type(0), n), b = random_feature(type(1), b_count, 0.5, 2),
                  out(type(2), n);
          if (n > 20) a.set(3, NAN);
          if (b_count > 20) b.set(5, NAN);
          table.binary({op, a.data(), type(0), b.data(), type(1), n, b_count, out.data(), type(2)});
          std::vector<double> want(n);
          for (int64_t i = 0; i < n; i++) want[i] = f(a[i], b[b_count == 1 ? 0 : i % b_count]);
          expect(text("binary", table, type(2), {int64_t(op), types, width, b_count}), values(out),
                 want, 2e-7 + rounding(type(2)));
        }
      }
    }
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

// A feature that is not a number or infinite must reach the score, and must not hang or crash a
// kernel.
void test_nan(const k::Table& table, k::DType dtype) {
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    const int64_t pixels = 67, channels = 37, n = 8;
    Feature x = random_feature(dtype, pixels * channels),
            y = random_feature(dtype, pixels * channels);
    x.set(40 * channels + 3, bad);
    auto key = random_floats(n * channels), value = random_floats(n * channels);
    Guarded<float> out(n * channels), map(pixels), mse(1), cosine(1), top(1);
    Guarded<float> scratch(std::max(k::token_attention_scratch(channels, n),
                                    k::projector_attention_scratch(channels, n)));
    table.token_attention(
        {x.data(), dtype, pixels, channels, n, key.data(), nullptr, 1, out.data(), scratch.data()});
    expect(
        text("token_attention of NaN", table, dtype, {}),
        [&](size_t i) { return out[i * channels + 3]; }, {NAN}, 0);
    table.projector_score_map({{x.data(), y.data(), dtype, pixels, channels, n, key.data(), nullptr,
                                value.data(), 1, nullptr, scratch.data()},
                               map.data(),
                               mse.data(),
                               cosine.data()});
    auto name = text("projector_score_map of NaN", table, dtype, {});
    expect(name, [&](size_t) { return std::isfinite(map[40]) ? 0.0 : NAN; }, {NAN}, 0);
    expect(name, [&](size_t) { return std::isfinite(map[39]) ? 0.0 : NAN; }, {0}, 0);
    expect(name + " mse", [&](size_t) { return std::isfinite(mse[0]) ? 0.0 : NAN; }, {NAN}, 0);
    table.score_map(
        {x.data(), y.data(), dtype, pixels, channels, map.data(), mse.data(), cosine.data()});
    expect(
        text("score_map of NaN", table, dtype, {}),
        [&](size_t) { return std::isfinite(cosine[0]) ? 0.0 : NAN; }, {NAN}, 0);
  }
}

}  // namespace

int main() {
  int tables = 0;
  for (k::Isa isa : {k::Isa::scalar, k::Isa::avx2, k::Isa::avx512}) {
    const k::Table* table = k::select(isa);
    if (!table) {
      printf("instruction set %d: not on this processor\n", static_cast<int>(isa));
      continue;
    }
    if (table->isa != isa) {
      fprintf(stderr, "[select] asked for %d, got %s\n", static_cast<int>(isa), table->name);
      failures++;
    }
    tables++;
    for (k::DType dtype : {k::DType::f32, k::DType::bf16}) {
      test_token_attention(*table, dtype);
      test_projector(*table, dtype);
      test_score_map(*table, dtype);
      test_frame(*table, dtype);
      test_reduce(*table, dtype);
      test_nan(*table, dtype);
    }
    test_resize_bilinear(*table);
    test_fuse_maps(*table);
    test_gaussian_blur(*table);
    test_box_filter(*table);
    test_gms_map(*table);
    test_reduce_columns(*table);
    test_attention(*table);
    test_rows(*table);
    test_unary(*table);
    test_binary(*table);
  }
  if (!k::select(k::best_isa())) failures++;
  printf("%d instruction sets, %d failures\n", tables, failures);
  return failures ? 1 : 0;
}
