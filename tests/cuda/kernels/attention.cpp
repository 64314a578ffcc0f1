// Attention over windows of tokens and within blocks of a map.
#include "../testing.h"

namespace {

void test_window_attention() {
  struct Case {
    int64_t windows, queries, keys, heads, dim, value_dim;  // dim and value_dim of a head
  };
  const Case cases[] = {
      {1, 1, 1, 1, 1, 1},      {3, 8, 8, 8, 8, 8},      {2, 49, 49, 3, 32, 32},
      {1, 70, 197, 2, 64, 64}, {5, 5, 17, 3, 7, 11},    {1, 3, 9, 1, 14, 7},
      {1, 13, 577, 2, 32, 65}, {1, 33, 64, 1, 130, 96}, {1, 7, 1025, 1, 5, 81},
      {2, 65, 63, 1, 16, 300}, {7, 1, 65, 2, 17, 4},    {1, 32, 128, 1, 128, 128}};
  for (const Case& c : cases) {
    for (Type type : kTypes) {
      for (float bad : {0.0f, NAN, -INFINITY}) {
        const int64_t dim = c.heads * c.dim, value_dim = c.heads * c.value_dim;
        Tensor q = random_tensor(type, static_cast<size_t>(c.windows * c.queries * dim));
        Tensor k = random_tensor(type, static_cast<size_t>(c.windows * c.keys * dim));
        Tensor v = random_tensor(type, static_cast<size_t>(c.windows * c.keys * value_dim));
        if (bad != 0) {
          if (type != Type::f32) continue;
          k.host[k.host.size() / 2] = bad;
          v.host[v.host.size() - 1] = NAN;
          k.upload();
          v.upload();
        }
        Tensor out(type, static_cast<size_t>(c.windows * c.queries * value_dim));
        std::vector<float> want(out.host.size()),
            scratch(cpu::attention_scratch(c.keys, c.dim, c.value_dim));
        for (int64_t w = 0; w < c.windows; w++) {
          reference().attention({q.host.data() + w * c.queries * dim,
                                 k.host.data() + w * c.keys * dim,
                                 v.host.data() + w * c.keys * value_dim, c.queries, c.keys, dim,
                                 value_dim, c.heads, 0.7f, 0, c.heads, 0, c.queries,
                                 want.data() + w * c.queries * value_dim, scratch.data()});
        }
        const auto name =
            text("attention", type, {c.windows, c.queries, c.keys, c.heads, c.dim, c.value_dim});
        run(name, {&out}, [&] {
          return gpu::attention({q.data(), k.data(), v.data(), type, c.windows, c.queries, c.keys,
                                 dim, value_dim, c.heads, 0.7f, out.data()},
                                nullptr);
        });
        expect(name, out.values(), want, 6e-6 + rounding(type));
      }
    }
  }
}

// The maximum rises from tile to tile, and far.
void test_rising_logits() {
  const int64_t keys = 200;
  Tensor q(Type::f32, std::vector<float>(5, 1.0f)), k(Type::f32, std::vector<float>(keys));
  Tensor v = random_tensor(Type::f32, keys), out(Type::f32, 5);
  for (size_t i = 0; i < keys; i++) k.host[i] = static_cast<float>(i) * 3;
  k.upload();
  std::vector<float> want(5), scratch(cpu::attention_scratch(keys, 1, 1));
  reference().attention({q.host.data(), k.host.data(), v.host.data(), 5, keys, 1, 1, 1, 1.0f, 0, 1,
                         0, 5, want.data(), scratch.data()});
  run("rising logits", {&out}, [&] {
    return gpu::attention(
        {q.data(), k.data(), v.data(), Type::f32, 1, 5, keys, 1, 1, 1, 1.0f, out.data()}, nullptr);
  });
  expect("rising logits", out.values(), want, 2e-5);
}

void test_halo_attention() {
  struct Case {
    int64_t height, width, block, halo, heads, dim, value_dim;  // dim and value_dim of a head
  };
  const Case cases[] = {{1, 1, 1, 0, 1, 1, 1},     {3, 3, 3, 1, 1, 5, 3},
                        {6, 9, 3, 1, 2, 16, 17},   {8, 4, 4, 0, 3, 7, 16},
                        {6, 4, 2, 3, 1, 33, 65},   {24, 12, 12, 2, 2, 16, 16},
                        {36, 36, 12, 2, 1, 16, 8}, {10, 5, 5, 1, 1, 4, 130},
                        {1, 3, 1, 1, 1, 2, 48},    {8, 8, 8, 2, 2, 80, 32}};
  for (const Case& c : cases) {
    for (Type type : kTypes) {
      for (int variant = 0; variant < 3; variant++) {
        const bool legacy = variant == 1, bad = variant == 2;
        const size_t pixels = static_cast<size_t>(c.height * c.width);
        const int64_t side = c.block + 2 * c.halo, length = 2 * side - 1;
        const int64_t dim = c.heads * c.dim, value_dim = c.heads * c.value_dim;
        Tensor q = random_tensor(type, pixels * static_cast<size_t>(dim));
        Tensor k = random_tensor(type, pixels * static_cast<size_t>(dim));
        Tensor v = random_tensor(type, pixels * static_cast<size_t>(value_dim));
        if (bad) {
          k.host[0] = NAN;
          v.host[v.host.size() - 1] = NAN;
          k.upload();
          v.upload();
        }
        Tensor rows = random_tensor(Type::f32, static_cast<size_t>(c.dim * length));
        Tensor columns = random_tensor(Type::f32, rows.host.size()), out(type, v.host.size());
        // The CPU's tables are transposed.
        std::vector<float> rows_of(rows.host.size()), columns_of(rows.host.size());
        for (int64_t i = 0; i < length; i++) {
          for (int64_t d = 0; d < c.dim; d++) {
            rows_of[static_cast<size_t>(d * length + i)] =
                rows.host[static_cast<size_t>(i * c.dim + d)];
            columns_of[static_cast<size_t>(d * length + i)] =
                columns.host[static_cast<size_t>(i * c.dim + d)];
          }
        }
        std::vector<float> want(v.host.size()),
            scratch(cpu::halo_attention_scratch(c.block, c.halo, c.dim, c.value_dim));
        cpu::HaloAttentionArgs h = {};
        h.q = q.host.data();
        h.k = k.host.data();
        h.v = v.host.data();
        h.dtype = cpu::DType::f32;
        h.height = c.height;
        h.width = c.width;
        h.block = c.block;
        h.halo = c.halo;
        h.dim = dim;
        h.value_dim = value_dim;
        h.heads = c.heads;
        h.rows = rows_of.data();
        h.columns = columns_of.data();
        h.scale = 0.8f;
        h.legacy_mask = legacy;
        h.task_end = c.height * c.width / c.block / c.block * c.heads;
        h.out = want.data();
        h.scratch = scratch.data();
        reference().halo_attention(h);
        const auto name =
            text("halo_attention", type,
                 {c.height, c.width, c.block, c.halo, c.heads, c.dim, c.value_dim, variant});
        run(name, {&out}, [&] {
          return gpu::halo_attention(
              {q.data(), k.data(), v.data(), type, c.height, c.width, c.block, c.halo, dim,
               value_dim, c.heads, rows.floats(), columns.floats(), 0.8f, legacy, out.data()},
              nullptr);
        });
        expect(name, out.values(), want, 1e-5 + rounding(type));
      }
    }
  }
}

}  // namespace

void test_attention() {
  test_window_attention();
  test_rising_logits();
  test_halo_attention();
}
