// GTrans's tokens, mapper and score maps.
#include "../testing.h"

namespace {

void test_token_attention() {
  const int64_t sizes[][3] = {{1, 1, 1},     {3, 7, 2},     {129, 17, 8},  {1023, 65, 8},
                              {200, 64, 11}, {49, 256, 8},  {31, 1027, 3}, {128, 32, 16},
                              {4400, 20, 8}, {20, 1100, 8}, {35000, 1, 3}};
  for (auto [pixels, channels, groups] : sizes) {
    for (Type type : kTypes) {
      for (bool biased : {false, true}) {
        if (pixels > 1000 && (biased || type != Type::f16)) continue;
        for (float bad : {0.0f, NAN, INFINITY, -INFINITY}) {
          if (bad != 0 && (biased || type == Type::bf16 || pixels > 200)) continue;
          Tensor x = random_tensor(type, static_cast<size_t>(pixels * channels), -2, 2);
          const size_t n = static_cast<size_t>(groups * channels);
          if (bad != 0) {
            x.host[x.host.size() / 2] = bad;
            x.upload();
          }
          Tensor weight = random_tensor(Type::f32, n, -0.5, 0.5);
          Tensor bias = random_tensor(Type::f32, static_cast<size_t>(groups));
          Tensor out(Type::f32, n);
          Tensor scratch(Type::f32, gpu::token_attention_scratch(pixels, channels, groups));
          std::vector<float> want(n), space(cpu::token_attention_scratch(channels, groups));
          reference().token_attention({x.host.data(), cpu::DType::f32, pixels, channels, groups,
                                       weight.host.data(), biased ? bias.host.data() : nullptr,
                                       0.7f, want.data(), space.data()});
          // An infinity makes some results NaN and some not, by rounding: all that counts is that
          // it shows.
          const auto name = text("token_attention", type, {pixels, channels, groups, biased});
          run(name, {&out, &scratch}, [&] {
            return gpu::token_attention(
                {x.data(), type, pixels, channels, groups, weight.floats(),
                 biased ? bias.floats() : nullptr, 0.7f, out.floats(), scratch.floats()},
                nullptr);
          });
          expect(name, out.values(), want, 3e-5);
        }
      }
    }
  }
}

// 0.5 |a - b|^2 / pixels, mse and cos in long double.
struct Score {
  std::vector<double> map;
  double mse = 0, cosine = 0, ratio = 1;  // of the norms, >= 1
};
Score score_of(const std::vector<double>& a, const std::vector<double>& b, int64_t pixels) {
  Score s;
  const int64_t channels = static_cast<int64_t>(a.size()) / pixels;
  long double ab = 0, aa = 0, bb = 0, dd = 0;
  for (int64_t p = 0; p < pixels; p++) {
    double square = 0;
    for (int64_t c = 0; c < channels; c++) {
      const double v = a[static_cast<size_t>(p * channels + c)];
      const double w = b[static_cast<size_t>(p * channels + c)];
      square += (v - w) * (v - w);
      aa += static_cast<long double>(v) * v;
      bb += static_cast<long double>(w) * w;
      ab += static_cast<long double>(v) * w;
    }
    dd += square;
    s.map.push_back(0.5 * square / static_cast<double>(pixels));
  }
  s.mse = static_cast<double>(dd / pixels);
  s.ratio = static_cast<double>(std::sqrt(std::max(aa, bb) / std::max(std::min(aa, bb), 1e-30L)));
  s.cosine = static_cast<double>(1 - ab / std::max(std::sqrt(aa) * std::sqrt(bb), 1e-12L));
  return s;
}

void expect_score(const std::string& what, const Tensor& map, const Tensor& mse,
                  const Tensor& cosine, const Score& want) {
  expect(what + " map", map.values(), want.map, 1e-5);
  expect(what + " mse", mse.values(), std::vector<double>{want.mse}, 1e-5);
  // Relative to the distance itself, however small: that is what the formula is chosen for. It pays
  // where the norms are apart.
  const double allowed = 3e-5 * want.cosine + 1e-7 * (want.ratio - 1) + 1e-15;
  expect(what + " cos", cosine.values(), std::vector<double>{want.cosine},
         allowed / std::max(std::fabs(want.cosine), 1e-30));
}

void test_projector() {
  const int64_t sizes[][3] = {{1, 1, 1},    {3, 7, 2},      {129, 17, 8},  {1023, 65, 8},
                              {257, 64, 5}, {49, 32, 8},    {31, 1027, 3}, {65, 48, 17},
                              {7, 256, 24}, {2113, 20, 11}, {2114, 64, 8}};
  for (auto [pixels, channels, tokens] : sizes) {
    for (Type type : kTypes) {
      for (bool biased : {false, true}) {
        if (pixels > 1000 && (biased || type != (channels == 64 ? Type::f32 : Type::f16))) continue;
        const size_t n = static_cast<size_t>(pixels * channels);
        const size_t m = static_cast<size_t>(tokens * channels);
        Tensor x = random_tensor(type, n, -2, 2), residual = random_tensor(type, n, -2, 2);
        Tensor key = random_tensor(Type::f32, m, -0.5, 0.5);
        Tensor value = random_tensor(Type::f32, m, -0.5, 0.5);
        Tensor bias = random_tensor(Type::f32, static_cast<size_t>(tokens)), out(type, n);
        std::vector<float> want(n), space(cpu::projector_attention_scratch(channels, tokens));
        reference().projector_attention({x.host.data(), residual.host.data(), cpu::DType::f32,
                                         pixels, channels, tokens, key.host.data(),
                                         biased ? bias.host.data() : nullptr, value.host.data(),
                                         0.3f, want.data(), space.data()});
        gpu::ProjectorAttentionArgs args = {x.data(),       residual.data(),
                                            type,           pixels,
                                            channels,       tokens,
                                            key.floats(),   biased ? bias.floats() : nullptr,
                                            value.floats(), 0.3f,
                                            out.data()};
        auto name = text("projector_attention", type, {pixels, channels, tokens, biased});
        run(name, {&out}, [&] { return gpu::projector_attention(args, nullptr); });
        expect(name, out.values(), want, 1e-5 + rounding(type));

        Tensor map(Type::f32, static_cast<size_t>(pixels)), mse(Type::f32, 1), cosine(Type::f32, 1);
        Tensor scratch(Type::f32, gpu::score_map_scratch(pixels, channels));
        args.out = nullptr;
        name = text("projector_score_map", type, {pixels, channels, tokens, biased});
        run(name, {&map, &mse, &cosine, &scratch}, [&] {
          return gpu::projector_score_map(
              {args, map.floats(), mse.floats(), cosine.floats(), scratch.floats()}, nullptr);
        });
        expect_score(name, map, mse, cosine,
                     score_of({x.host.begin(), x.host.end()}, {want.begin(), want.end()}, pixels));
      }
    }
  }
}

void test_score_map() {
  const int64_t sizes[][2] = {{1, 1},     {3, 7},     {9, 17}, {1023, 65}, {196, 256},
                              {13, 1027}, {1003, 64}, {40, 8}, {17, 68}};
  for (auto [pixels, channels] : sizes) {
    for (Type type : kTypes) {
      for (double apart : {2.0, 1e-2, 1e-4, 0.0}) {
        if (pixels > 1000 && apart == 1e-2) continue;
        const size_t n = static_cast<size_t>(pixels * channels);
        Tensor a = random_tensor(type, n, 0, 2), b(type, n);
        for (size_t i = 0; i < n; i++) {
          b.host[i] = a.host[i] + static_cast<float>(uniform(-apart, apart));
        }
        b.upload();
        Tensor map(Type::f32, static_cast<size_t>(pixels)), mse(Type::f32, 1), cosine(Type::f32, 1);
        Tensor scratch(Type::f32, gpu::score_map_scratch(pixels, channels));
        const auto name = text("score_map", type, {pixels, channels});
        run(name, {&map, &mse, &cosine, &scratch}, [&] {
          return gpu::score_map({a.data(), b.data(), type, pixels, channels, map.floats(),
                                 mse.floats(), cosine.floats(), scratch.floats()},
                                nullptr);
        });
        expect_score(
            name, map, mse, cosine,
            score_of({a.host.begin(), a.host.end()}, {b.host.begin(), b.host.end()}, pixels));
      }
    }
  }
  // Longer but not turned: what the norms differ by must cancel to the last digits.
  for (int i = 0; i < 20; i++) {
    Tensor a = random_tensor(Type::f32, 21, 0.5, 2), b(Type::f32, 21);
    for (size_t j = 0; j < 21; j++) b.host[j] = a.host[j] * 1.001f;
    b.upload();
    Tensor map(Type::f32, 3), mse(Type::f32, 1), cosine(Type::f32, 1);
    Tensor scratch(Type::f32, gpu::score_map_scratch(3, 7));
    run("score_map of longer features", {&map, &mse, &cosine, &scratch}, [&] {
      return gpu::score_map({a.data(), b.data(), Type::f32, 3, 7, map.floats(), mse.floats(),
                             cosine.floats(), scratch.floats()},
                            nullptr);
    });
    if (!(cosine.values()[0] < 2e-12f)) {
      fprintf(stderr, "[score_map] of longer features: %g\n",
              static_cast<double>(cosine.values()[0]));
      failures++;
    }
  }
  // Nothing at all: the floor of the denominator decides.
  Tensor zero(Type::f32, std::vector<float>(10)), map(Type::f32, 2), mse(Type::f32, 1),
      cosine(Type::f32, 1), scratch(Type::f32, gpu::score_map_scratch(2, 5));
  run("score_map of zeros", {&map, &mse, &cosine}, [&] {
    return gpu::score_map({zero.data(), zero.data(), Type::f32, 2, 5, map.floats(), mse.floats(),
                           cosine.floats(), scratch.floats()},
                          nullptr);
  });
  expect("score_map of zeros", cosine.values(), std::vector<double>{1.0}, 0);
}

// What is not a number or infinite must reach the score, and only its own pixel's map.
void test_bad_features() {
  for (Type type : kTypes) {
    for (float bad : {NAN, INFINITY, -INFINITY}) {
      for (int64_t channels : {37, 36}) {
        const int64_t pixels = 67, n = 8;
        const size_t size = static_cast<size_t>(pixels * channels);
        Tensor x = random_tensor(type, size), y = random_tensor(type, size);
        x.host[static_cast<size_t>(40 * channels + 3)] = bad;
        x.upload();
        Tensor key = random_tensor(Type::f32, static_cast<size_t>(n * channels));
        Tensor value = random_tensor(Type::f32, static_cast<size_t>(n * channels));
        Tensor map(Type::f32, static_cast<size_t>(pixels)), mse(Type::f32, 1), cosine(Type::f32, 1);
        Tensor scratch(Type::f32, gpu::score_map_scratch(pixels, channels));
        const auto judge = [&](const std::string& name) {
          const auto values = map.values();
          const bool good = !std::isfinite(values[40]) && std::isfinite(values[39]) &&
                            std::isfinite(values[41]) && !std::isfinite(mse.values()[0]) &&
                            !std::isfinite(cosine.values()[0]);
          if (good) return;
          fprintf(stderr, "[%s] a bad feature is not where it belongs\n", name.c_str());
          failures++;
        };
        const gpu::ProjectorAttentionArgs args = {x.data(),       y.data(), type,         pixels,
                                                  channels,       n,        key.floats(), nullptr,
                                                  value.floats(), 1.0f,     nullptr};
        run("projector_score_map of NaN", {&map, &mse, &cosine, &scratch}, [&] {
          return gpu::projector_score_map(
              {args, map.floats(), mse.floats(), cosine.floats(), scratch.floats()}, nullptr);
        });
        judge("projector_score_map of NaN");
        run("score_map of NaN", {&map, &mse, &cosine, &scratch}, [&] {
          return gpu::score_map({x.data(), y.data(), type, pixels, channels, map.floats(),
                                 mse.floats(), cosine.floats(), scratch.floats()},
                                nullptr);
        });
        judge("score_map of NaN");
      }
    }
  }
}

}  // namespace

void test_gtrans() {
  test_token_attention();
  test_projector();
  test_score_map();
  test_bad_features();
}
