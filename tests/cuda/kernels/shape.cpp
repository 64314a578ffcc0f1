// What only moves bytes, to the byte.
#include "../testing.h"

namespace {

Array<uint8_t> random_bytes(int64_t n) {
  std::vector<uint8_t> v(static_cast<size_t>(n));
  for (auto& b : v) b = static_cast<uint8_t>(rng());
  return Array<uint8_t>(std::move(v));
}

void same(const std::string& what, const std::vector<uint8_t>& got,
          const std::vector<uint8_t>& want) {
  if (got == want) return;
  const auto at = std::mismatch(got.begin(), got.end(), want.begin()).first - got.begin();
  fprintf(stderr, "[%s] byte %td differs\n", what.c_str(), at);
  failures++;
}

const int64_t kBytes[] = {2, 4, 6, 8, 14, 16, 34, 48, 130, 600};

void test_copy_strips() {
  const int64_t shapes[][4] = {// strips, gaps in and out, first byte in both
                               {1, 0, 0, 0},    {3, 0, 2, 0}, {7, 16, 32, 16}, {17, 2, 0, 2},
                               {1023, 8, 8, 8}, {1, 6, 6, 6}, {5, 0, 0, 4}};
  for (auto [outer, in_gap, out_gap, skip] : shapes) {
    for (int64_t bytes : kBytes) {
      const int64_t in_stride = bytes + in_gap, out_stride = bytes + out_gap;
      auto in = random_bytes(skip + (outer - 1) * in_stride + bytes);
      Bytes out(static_cast<size_t>(skip + (outer - 1) * out_stride + bytes));
      std::vector<uint8_t> want(out.size(), 0xff);
      for (int64_t i = 0; i < outer; i++) {
        memcpy(want.data() + skip + i * out_stride, in.host.data() + skip + i * in_stride,
               static_cast<size_t>(bytes));
      }
      const auto name = text("copy_strips", Type::u8, {outer, bytes, in_stride, out_stride, skip});
      run(name, {&out}, [&] {
        return gpu::copy_strips({in.data() + skip, static_cast<uint8_t*>(out.data()) + skip, outer,
                                 bytes, in_stride, out_stride},
                                nullptr);
      });
      same(name, out.get(), want);
    }
  }
}

std::vector<int32_t> indices(int64_t n, int64_t below) {
  std::vector<int32_t> v(static_cast<size_t>(n));
  for (auto& i : v) i = static_cast<int32_t>(rng() % static_cast<uint64_t>(below));
  return v;
}

void test_copy_pixels() {
  const int64_t shapes[][4] = {{1, 1, 1, 1}, {3, 5, 7, 4}, {17, 9, 20, 31}, {8, 8, 8, 8}};
  for (auto [in_height, in_width, height, width] : shapes) {
    for (int64_t bytes : kBytes) {
      auto in = random_bytes(in_height * in_width * bytes);
      Array<int32_t> rows(indices(height, in_height)), columns(indices(width, in_width));
      Bytes out(static_cast<size_t>(height * width * bytes));
      std::vector<uint8_t> want(out.size());
      for (int64_t i = 0; i < height * width; i++) {
        const int64_t from = rows.host[static_cast<size_t>(i / width)] * in_width +
                             columns.host[static_cast<size_t>(i % width)];
        memcpy(want.data() + i * bytes, in.host.data() + from * bytes, static_cast<size_t>(bytes));
      }
      const auto name = text("copy_pixels", Type::u8, {height, width, bytes});
      run(name, {&out}, [&] {
        return gpu::copy_pixels(
            {in.data(), out.data(), in_width, height, width, bytes, rows.data(), columns.data()},
            nullptr);
      });
      same(name, out.get(), want);
    }
  }
}

void test_gather_rows() {
  for (auto [in_rows, rows] : {std::pair<int64_t, int64_t>{1, 1}, {7, 3}, {65, 300}}) {
    for (int64_t bytes : kBytes) {
      auto in = random_bytes(in_rows * bytes);
      Array<int32_t> index(indices(rows, in_rows));
      Bytes out(static_cast<size_t>(rows * bytes));
      std::vector<uint8_t> want(out.size());
      for (int64_t i = 0; i < rows; i++) {
        memcpy(want.data() + i * bytes, in.host.data() + index.host[static_cast<size_t>(i)] * bytes,
               static_cast<size_t>(bytes));
      }
      const auto name = text("gather_rows", Type::u8, {rows, bytes});
      run(name, {&out}, [&] {
        return gpu::gather_rows({in.data(), out.data(), rows, bytes, index.data()}, nullptr);
      });
      same(name, out.get(), want);
    }
  }
}

void test_depth_to_space() {
  const int64_t shapes[][3] = {{1, 1, 1}, {3, 5, 2}, {7, 2, 3}, {14, 14, 4}};
  for (auto [height, width, block] : shapes) {
    for (int64_t bytes : kBytes) {
      auto in = random_bytes(height * width * block * block * bytes);
      Bytes out(in.size());
      std::vector<uint8_t> want(out.size());
      for (int64_t y = 0; y < height; y++) {
        for (int64_t x = 0; x < width; x++) {
          for (int64_t i = 0; i < block; i++) {
            for (int64_t j = 0; j < block; j++) {
              const int64_t to = (y * block + i) * width * block + x * block + j;
              const int64_t from = ((y * width + x) * block + i) * block + j;
              memcpy(want.data() + to * bytes, in.host.data() + from * bytes,
                     static_cast<size_t>(bytes));
            }
          }
        }
      }
      const auto name = text("depth_to_space", Type::u8, {height, width, block, bytes});
      run(name, {&out}, [&] {
        return gpu::depth_to_space({in.data(), out.data(), height, width, block, bytes}, nullptr);
      });
      same(name, out.get(), want);
    }
  }
}

}  // namespace

void test_shape() {
  test_copy_strips();
  test_copy_pixels();
  test_gather_rows();
  test_depth_to_space();
}
