// A feature that is not a number or infinite must reach the score, and must not hang or crash a
// kernel.
#include "testing.h"

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
