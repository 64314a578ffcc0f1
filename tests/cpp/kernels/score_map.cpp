// GTrans's mapper and its score maps.
#include "testing.h"

namespace {

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

}  // namespace

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
