// Score maps resized, fused and smoothed, and the gradient magnitude similarity.
#include "../testing.h"

namespace {

void test_resize_bilinear() {
  const int32_t sizes[][5] = {{1, 1, 1, 1, 1},     {1, 1, 1, 5, 7},      {3, 5, 1, 3, 5},
                              {14, 14, 1, 96, 96}, {56, 57, 1, 61, 300}, {31, 33, 1, 7, 9},
                              {5, 3, 7, 9, 11},    {6, 4, 65, 3, 5},     {2, 2, 1, 3, 1023},
                              {7, 7, 64, 14, 13},  {4, 700, 1, 5, 701}};
  for (auto [height, width, channels, out_height, out_width] : sizes) {
    for (bool corners : {false, true}) {
      for (int gap : {0, 3, 4}) {
        const int64_t row = int64_t{out_width} * channels, stride = row + gap;
        Tensor src = random_tensor(Type::f32, static_cast<size_t>(height * width * channels));
        src.host[src.host.size() / 2] = NAN;
        src.upload();
        Tensor dst(Type::f32, static_cast<size_t>((out_height - 1) * stride + row));
        std::vector<float> want(dst.host.size(), NAN);
        reference().resize_bilinear({src.host.data(), height, width, channels, want.data(),
                                     out_height, out_width, stride, corners, 0, out_height});
        const auto name = text("resize_bilinear", Type::f32,
                               {height, width, channels, out_height, out_width, corners, gap});
        run(name, {&dst}, [&] {
          return gpu::resize_bilinear({src.floats(), height, width, channels, dst.floats(),
                                       out_height, out_width, stride, corners},
                                      nullptr);
        });
        expect(name, dst.values(), want, 3e-6);
      }
    }
  }
}

void test_fuse_maps() {
  const struct {
    int32_t height, width, sides[3][2];
  } cases[] = {{96, 96, {{24, 24}, {12, 12}, {6, 6}}},
               {1, 1, {{1, 1}, {1, 1}, {1, 1}}},
               {33, 301, {{9, 76}, {5, 38}, {3, 19}}},
               {5, 7, {{11, 17}, {5, 7}, {1, 1}}}};
  for (const auto& c : cases) {
    for (int32_t mode = 1; mode <= 6; mode++) {
      std::vector<Tensor> maps;
      for (auto [h, w] : c.sides) {
        maps.push_back(random_tensor(Type::f32, static_cast<size_t>(h * w), 0, 1));
      }
      Tensor mse = random_tensor(Type::f32, 3, 0.1, 2),
             cosine = random_tensor(Type::f32, 3, 0.01, 0.5);
      Tensor lambda = random_tensor(Type::f32, 3, 0.5, 2);
      if (mode == 4) {
        mse.host[0] = cosine.host[0] = 0;  // no anomaly at all in a layer: weight 0, not 0 / 0
        mse.upload();
        cosine.upload();
      }
      Tensor out(Type::f32, static_cast<size_t>(c.height * c.width));
      std::vector<float> want(out.host.size());
      gpu::FuseMapsArgs a = {};
      cpu::FuseMapsArgs b = {};
      for (size_t l = 0; l < 3; l++) {
        // A layer that the mode leaves out need not be there.
        const bool used = l == 2 || (l == 0 ? mode != 1 && mode != 3 : mode != 1 && mode != 2);
        a.map[l] = used ? maps[l].floats() : nullptr;
        b.map[l] = maps[l].host.data();
        a.map_height[l] = b.map_height[l] = c.sides[l][0];
        a.map_width[l] = b.map_width[l] = c.sides[l][1];
        a.mse[l] = mse.floats() + l;
        b.mse[l] = &mse.host[l];
        a.cos[l] = cosine.floats() + l;
        b.cos[l] = &cosine.host[l];
      }
      a.lambda = lambda.floats();
      b.lambda = lambda.host.data();
      a.mode = b.mode = mode;
      a.height = b.height = c.height;
      a.width = b.width = c.width;
      a.out = out.floats();
      b.out = want.data();
      reference().fuse_maps(b);
      const auto name = text("fuse_maps", Type::f32, {mode, c.height, c.width});
      run(name, {&out}, [&] { return gpu::fuse_maps(a, nullptr); });
      expect(name, out.values(), want, 5e-6);
    }
  }
}

void test_gaussian_blur() {
  const int32_t sizes[][3] = {{1, 1, 1},    {5, 3, 3},   {17, 17, 33}, {64, 70, 33},
                              {31, 133, 5}, {40, 65, 1}, {9, 300, 11}, {128, 129, 3}};
  for (auto [height, width, taps] : sizes) {
    Tensor src = random_tensor(Type::f32, static_cast<size_t>(height * width), 0, 1);
    if (height > 5) {
      src.host[1] = NAN;
      src.upload();
    }
    Tensor kernel = random_tensor(Type::f32, static_cast<size_t>(taps), 0, 1);
    Tensor out(Type::f32, src.host.size()), scratch(Type::f32, src.host.size());
    std::vector<float> want(src.host.size()),
        space(cpu::gaussian_blur_scratch(height, width, taps));
    reference().gaussian_blur(
        {src.host.data(), height, width, taps, kernel.host.data(), want.data(), space.data()});
    const auto name = text("gaussian_blur", Type::f32, {height, width, taps});
    run(name, {&out, &scratch}, [&] {
      return gpu::gaussian_blur(
          {src.floats(), height, width, taps, kernel.floats(), out.floats(), scratch.floats()},
          nullptr);
    });
    expect(name, out.values(), want, 3e-6);
  }
}

void test_gms_map() {
  const int64_t sizes[][3] = {{1, 1, 1},  {1, 7, 3},  {9, 1, 3},  {13, 31, 3},
                              {5, 17, 1}, {3, 2, 17}, {40, 33, 3}};
  for (auto [height, width, channels] : sizes) {
    const size_t n = static_cast<size_t>(height * width * channels);
    Tensor a = random_tensor(Type::f32, n), b = random_tensor(Type::f32, n);
    if (height > 9) {
      a.host[n / 2] = NAN;
      a.upload();
    }
    Tensor out(Type::f32, static_cast<size_t>(height * width));
    std::vector<float> want(out.host.size()), scratch(cpu::gms_map_scratch(width, channels));
    reference().gms_map({a.host.data(), b.host.data(), height, width, channels, 0.01f, want.data(),
                         scratch.data()});
    const auto name = text("gms_map", Type::f32, {height, width, channels});
    run(name, {&out}, [&] {
      return gpu::gms_map({a.floats(), b.floats(), height, width, channels, 0.01f, out.floats()},
                          nullptr);
    });
    expect(name, out.values(), want, 2e-6);
  }
}

}  // namespace

void test_maps() {
  test_resize_bilinear();
  test_fuse_maps();
  test_gaussian_blur();
  test_gms_map();
}
