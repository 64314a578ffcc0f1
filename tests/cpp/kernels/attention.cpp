// Attention over pixels and over tokens.
#include <utility>

#include "testing.h"

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

void test_attention(const k::Table& table, k::DType operands) {
  const int64_t sizes[][5] = {{1, 1, 1, 1, 1},     {8, 8, 64, 64, 8},  {24, 24, 256, 256, 8},
                              {5, 17, 21, 33, 3},  {3, 9, 14, 7, 1},   {13, 577, 64, 130, 2},
                              {64, 64, 32, 96, 1}, {7, 1027, 5, 81, 1}};
  for (auto [queries, keys, dim, value_dim, heads] : sizes) {
    auto q = random_floats(queries * dim), key = random_floats(keys * dim),
         v = random_floats(keys * value_dim);
    Guarded<float> out(queries * value_dim), split(queries * value_dim),
        scratch(k::attention_scratch(keys, dim / heads, value_dim / heads));
    k::AttentionArgs args = {q.data(),  key.data(), v.data(),       queries, keys,  dim,
                             value_dim, heads,      0.4f,           0,       heads, 0,
                             queries,   out.data(), scratch.data(), operands};
    // Whatever a previous call left there.
    std::fill(scratch.data(), scratch.data() + scratch.size(), NAN);
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
    auto name = text("attention", table, operands, {queries, keys, dim, value_dim, heads});
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
    expect(name, floats(out), want, operands == k::DType::f32 ? 5e-6 : 1e-2);
  }
}
