// Attention within blocks of a feature map, against the definition in kernels.h.
#include "testing.h"

void test_halo_attention(const k::Table& table, k::DType dtype, k::DType operands) {
  struct Case {
    int64_t height, width, block, halo, heads, dim, value_dim;  // dim and value_dim of a head
  };
  const Case cases[] = {
      {1, 1, 1, 0, 1, 1, 1},     {3, 3, 3, 1, 1, 5, 3},    {6, 9, 3, 1, 2, 16, 17},
      {8, 4, 4, 0, 3, 7, 16},    {6, 4, 2, 3, 1, 33, 65},  {24, 12, 12, 2, 2, 16, 16},
      {36, 36, 12, 2, 1, 16, 8}, {10, 5, 5, 1, 1, 4, 130}, {1, 3, 1, 1, 1, 2, 48}};
  for (const Case& c : cases) {
    for (bool legacy : {false, true}) {
      const int64_t pixels = c.height * c.width, side = c.block + 2 * c.halo;
      const int64_t dim = c.heads * c.dim, value_dim = c.heads * c.value_dim;
      Feature q = random_feature(dtype, pixels * dim), key = random_feature(dtype, pixels * dim);
      Feature v = random_feature(dtype, pixels * value_dim);
      auto rows = random_floats(c.dim * (2 * side - 1)), columns = random_floats(rows.size());
      Feature out(dtype, v.size), split(dtype, v.size);
      Guarded<float> scratch(k::halo_attention_scratch(c.block, c.halo, c.dim, c.value_dim));
      const int64_t tasks = pixels / (c.block * c.block) * c.heads;
      k::HaloAttentionArgs args{};
      args.q = q.data();
      args.k = key.data();
      args.v = v.data();
      args.dtype = dtype;
      args.height = c.height;
      args.width = c.width;
      args.block = c.block;
      args.halo = c.halo;
      args.dim = dim;
      args.value_dim = value_dim;
      args.heads = c.heads;
      args.rows = rows.data();
      args.columns = columns.data();
      args.scale = 0.8f;
      args.legacy_mask = legacy;
      args.task_end = tasks;
      args.operands = operands;
      args.out = out.data();
      args.scratch = scratch.data();
      // Whatever a previous call left there.
      std::fill(scratch.data(), scratch.data() + scratch.size(), NAN);
      table.halo_attention(args);
      args.out = split.data();
      for (int64_t task = tasks - 1; task >= 0; task--) {
        args.task_begin = task;
        args.task_end = task + 1;
        table.halo_attention(args);
      }
      auto name =
          text(operands == k::DType::f32 ? "halo_attention" : "halo_attention_bf16", table, dtype,
               {c.height, c.width, c.block, c.halo, c.heads, c.dim, c.value_dim, legacy});
      if (memcmp(split.data(), out.data(), out.bytes.size()) != 0) {
        fprintf(stderr, "[%s] blocks depend on the range they are computed in\n", name.c_str());
        failures++;
      }
      std::vector<double> want(v.size);
      for (int64_t h = 0; h < c.heads; h++) {
        for (int64_t p = 0; p < pixels; p++) {
          const int64_t y = p / c.width, x = p % c.width, i = y % c.block, j = x % c.block;
          std::vector<double> logits(side * side);
          std::vector<int64_t> from(side * side, -1);
          for (int64_t t = 0; t < side * side; t++) {
            const int64_t m = t / side, n = t % side;
            const int64_t ky = y - i + m - c.halo, kx = x - j + n - c.halo;
            const bool inside = ky >= 0 && ky < c.height && kx >= 0 && kx < c.width;
            if (inside) from[t] = ky * c.width + kx;
            for (int64_t d = 0; d < c.dim; d++) {
              double to = rows[d * (2 * side - 1) + m - i + side - 1] +
                          columns[d * (2 * side - 1) + n - j + side - 1];
              if (inside) to += key[from[t] * dim + h * c.dim + d];
              logits[t] += double{args.scale} * q[p * dim + h * c.dim + d] * to;
            }
            if (inside == legacy) logits[t] = legacy ? -3.4028234663852886e38 : -INFINITY;
          }
          const std::vector<double> share = softmax_of(logits);
          for (int64_t t = 0; t < side * side; t++) {
            for (int64_t d = h * c.value_dim; d < (h + 1) * c.value_dim && from[t] >= 0; d++) {
              want[p * value_dim + d] += share[t] * v[from[t] * value_dim + d];
            }
          }
        }
      }
      const double lost = operands == k::DType::f32 ? 5e-6 : 1e-2;
      expect(name, values(out), want, lost + rounding(dtype));
    }
  }
  // A query that is not a number spoils its own row only, a key those that see it.
  const int64_t n = 6, d = 3;
  Feature q = random_feature(dtype, n * n * d), key = random_feature(dtype, n * n * d);
  auto rows = random_floats(d * 9), columns = random_floats(d * 9);
  Feature out(dtype, n * n * d);
  Guarded<float> scratch(k::halo_attention_scratch(3, 1, d, d));
  q.set(7 * d, NAN);
  key.set(35 * d + 1, INFINITY);
  table.halo_attention({q.data(),
                        key.data(),
                        key.data(),
                        dtype,
                        n,
                        n,
                        3,
                        1,
                        d,
                        d,
                        1,
                        rows.data(),
                        columns.data(),
                        1,
                        false,
                        0,
                        4,
                        out.data(),
                        scratch.data(),
                        operands});
  for (int64_t p = 0; p < n * n; p++) {
    const bool spoilt = p == 7 || (p / n >= 3 && p % n >= 3);
    expect(
        text("halo_attention of NaN", table, dtype, {p}),
        [&](size_t) { return std::isfinite(out[p * d + 1]) ? 0.0 : 1.0; }, {spoilt ? 1.0 : 0.0}, 0);
  }
}
