// A map's distance from the mean map of normal images.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

static void calibrate_map(const CalibrateMapArgs& a) {
  over(a.count, [&](int64_t i, auto lanes) {
    Vec d = load(a.x + i, lanes) - load(a.mean + i, lanes);
    store(a.out + i, a.square ? d * d : abs(d), lanes);
  });
}

}  // namespace adfast::kernels::ADFAST_ISA
