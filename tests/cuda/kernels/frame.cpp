// The frame's way in, against the CPU's.
#include "../testing.h"

namespace {

// torch's antialiased triangle filter, cropped to `size` outputs from `start`.
struct Axis {
  Array<int32_t> first;
  Array<float> weight;
  int32_t size, taps;
};

Axis make_axis(int32_t input, int32_t output, int32_t start, int32_t size) {
  const double scale = double(input) / output, support = std::max(scale, 1.0);
  const int32_t taps = std::min(input, static_cast<int32_t>(std::ceil(support)) * 2 + 1);
  std::vector<int32_t> firsts;
  std::vector<float> weights;
  for (int32_t i = 0; i < size; i++) {
    const double center = (start + i + 0.5) * scale;
    int32_t first = std::max(0, static_cast<int32_t>(center - support + 0.5));
    first = std::min(first, input - taps);
    firsts.push_back(first);
    std::vector<double> weight(static_cast<size_t>(taps));
    double total = 0;
    for (int32_t t = 0; t < taps; t++) {
      total += weight[static_cast<size_t>(t)] =
          std::max(0.0, 1 - std::fabs((first + t + 0.5 - center) / support));
    }
    for (double w : weight) weights.push_back(static_cast<float>(w / total));
  }
  return {Array<int32_t>(firsts), Array<float>(weights), size, taps};
}

}  // namespace

void test_frame() {
  const struct {
    const char* name;
    int channels;
    int order[3];
    int value = 1;  // bytes of a channel
  } layouts[] = {{"rgb", 3, {0, 1, 2}},  {"bgr", 3, {2, 1, 0}},   {"grey", 1, {0, 0, 0}},
                 {"argb", 4, {1, 2, 3}}, {"green", 3, {1, 1, 1}}, {"grey16", 1, {0, 0, 0}, 2}};
  const int32_t sizes[][4] = {{1, 1, 1, 1},      {3, 5, 8, 7},       {61, 47, 17, 15},
                              {40, 131, 50, 44}, {90, 1023, 24, 20}, {2, 700, 11, 10},
                              {3, 2500, 4, 3}};
  for (const auto& layout : layouts) {
    for (auto [height, width, resize, crop] : sizes) {
      for (Type type : kTypes) {
        // One value off: frames have no alignment beyond that.
        const int value = layout.value, pixel = layout.channels * value;
        std::vector<uint8_t> bytes(static_cast<size_t>(height * width * pixel + value));
        for (auto& b : bytes) b = static_cast<uint8_t>(rng());
        Array<uint8_t> pixels(std::move(bytes));
        const Axis y = make_axis(height, resize, (resize - crop) / 2, crop);
        const Axis x = make_axis(width, resize + 3, 1, crop + 1);
        gpu::FrameArgs a = {};
        a.src = pixels.data() + value;
        a.src_height = height;
        a.src_width = width;
        a.src_channels = layout.channels;
        a.value_bytes = value;
        a.y = {y.size, y.taps, y.first.data(), y.weight.data()};
        a.x = {x.size, x.taps, x.first.data(), x.weight.data()};
        a.type = type;
        cpu::FrameArgs c = {};
        for (int i = 0; i < 3; i++) {
          a.channel[i] = layout.order[i];
          c.channel_offset[i] = layout.order[i];
          c.scale[i] = a.scale[i] =
              static_cast<float>(uniform(0.01, 0.02) / (value == 2 ? 257 : 1));
          c.bias[i] = a.bias[i] = static_cast<float>(uniform(-2, -1));
        }
        Tensor out(type, static_cast<size_t>(crop * (crop + 1) * 3));
        a.dst = out.data();
        std::vector<float> want(out.host.size()), scratch(cpu::frame_scratch(width));
        c.src = pixels.host.data() + value;
        c.row_stride = width * pixel;
        c.pixel_stride = pixel;
        c.value_bytes = value;
        c.src_height = height;
        c.src_width = width;
        c.y = {y.size, y.taps, y.first.host.data(), y.weight.host.data()};
        c.x = {x.size, x.taps, x.first.host.data(), x.weight.host.data()};
        c.dst = want.data();
        c.dtype = cpu::DType::f32;
        c.row_end = crop;
        c.scratch = scratch.data();
        reference().frame_to_tensor(c);
        const auto name = text(layout.name, type, {height, width, resize, crop});
        run(name, {&out}, [&] { return gpu::frame_to_tensor(a, nullptr); });
        expect(name, out.values(), want, 3e-6 + rounding(type));
      }
    }
  }
}
