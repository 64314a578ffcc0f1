// GTrans, eq. 18-19 and table 7: the layers' maps upsampled, weighted and combined in one pass.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

static inline float layer_weight(float lambda, float mse, float cosine) {
  double scaled = static_cast<double>(lambda) * static_cast<double>(cosine);
  double sum = static_cast<double>(mse) + scaled;
  return sum == 0 ? 0.0f : static_cast<float>(scaled * static_cast<double>(mse) / sum);
}

// The weighted layers of one vector, combined.
template <int kMode, class Layer>
static inline Vec fused(Layer&& layer) {
  if constexpr (kMode == 1) return layer(2);
  if constexpr (kMode == 2) return layer(0) * layer(2);
  if constexpr (kMode == 3) return layer(1) * layer(2);
  if constexpr (kMode == 4) return layer(0) + layer(1) + layer(2);
  if constexpr (kMode == 5) return layer(0) * layer(1) * layer(2);
  if constexpr (kMode == 6) {
    Vec third = layer(2);
    return fma(layer(0), third, layer(1) * third);
  }
}

template <int kMode>
static void fuse_maps_as(const FuseMapsArgs& a) {
  // A layer that the mode leaves out is not even read.
  constexpr bool kUsed[3] = {kMode != 1 && kMode != 3, kMode != 1 && kMode != 2, true};
  Stretch maps[3];
  Vec weight[3], share[3];
  for (int l = 0; l < 3; l++) weight[l] = set1(layer_weight(a.lambda[l], *a.mse[l], *a.cos[l]));
  for (int64_t column = 0; column < a.width; column += kBlockColumns) {
    int64_t count = smaller(kBlockColumns, a.width - column);
    for (int l = 0; l < 3; l++) {
      if (!kUsed[l]) continue;
      maps[l].start(a.map[l], a.map_height[l], a.map_width[l], a.height, a.width, false, column,
                    count);
    }
    for (int32_t y = 0; y < a.height; y++) {
      for (int l = 0; l < 3; l++) {
        if (kUsed[l]) share[l] = set1(maps[l].at(y));
      }
      float* out = a.out + static_cast<int64_t>(y) * a.width + column;
      over(count, [&](int64_t i, auto lanes) {
        store(out + i, fused<kMode>([&](int l) { return maps[l].value(i, share[l]) * weight[l]; }),
              lanes);
      });
    }
  }
}

static void fuse_maps(const FuseMapsArgs& a) {
  switch (a.mode) {
    case 1:
      return fuse_maps_as<1>(a);
    case 2:
      return fuse_maps_as<2>(a);
    case 3:
      return fuse_maps_as<3>(a);
    case 4:
      return fuse_maps_as<4>(a);
    case 5:
      return fuse_maps_as<5>(a);
    case 6:
      return fuse_maps_as<6>(a);
  }
}

}  // namespace adfast::kernels::ADFAST_ISA
