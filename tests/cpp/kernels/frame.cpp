// The frame's way in.
#include "testing.h"

namespace {

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

}  // namespace

void test_frame(const k::Table& table, k::DType dtype) {
  struct Layout {
    const char* name;
    int channels;  // bytes of a stored pixel
    bool planar, flip_rows, flip_columns, every_second;
    int order[3];
    int value = 1;  // bytes of a channel
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
      {"grey16", 1, false, false, false, false, {0, 0, 0}, 2},
      {"mirrored grey16", 1, false, true, true, false, {0, 0, 0}, 2},
  };
  const int32_t sizes[][4] = {{1, 1, 1, 1},         {3, 5, 8, 7},        {61, 47, 17, 15},
                              {100, 131, 256, 224}, {333, 1023, 64, 56}, {2, 300, 31, 30}};
  for (const Layout& layout : layouts) {
    for (auto [height, width, resize, crop] : sizes) {
      int step = layout.every_second ? 2 : 1;
      ptrdiff_t stored_width = width * step, stored_height = height * step;
      ptrdiff_t pixel = layout.planar ? 1 : layout.channels * layout.value;
      ptrdiff_t pad = layout.channels == 4 ? 0 : layout.value == 2 ? 6 : 5;
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
        args.scale[c] = static_cast<float>(uniform(0.01, 0.02) / (layout.value == 2 ? 257 : 1));
        args.bias[c] = static_cast<float>(uniform(-2, -1));
      }
      args.src_height = height;
      args.src_width = width;
      args.value_bytes = layout.value;
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
              const uint8_t* p = args.src + (ya.first[y] + t) * args.row_stride +
                                 x * args.pixel_stride + args.channel_offset[c];
              const int bits = layout.value == 2 ? *p | p[1] << 8 : *p;
              v += double{ya.weight[y * ya.taps + t]} * bits;
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
