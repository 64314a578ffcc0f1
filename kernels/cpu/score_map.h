// GTrans, eq. 15-17: per-pixel squared distance, its mean, and the cosine distance of two feature maps.
//
// The cosine distance of nearly equal maps is the interesting one, and 1 - a.b / (|a| |b|) loses all its
// digits there. With d = a - b, e = sum d (a + b) = |a|^2 - |b|^2 the same quantity is
//   (|d|^2 - (|a| - |b|)^2) / (2 |a| |b|),  |a| - |b| = e / (|a| + |b|),
// where nothing cancels but what is truly radial. So a, d and e are summed: in f32 within a tile, in
// double across tiles.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

struct ScoreSums {
  double squares = 0;     // |a|^2
  double difference = 0;  // |a - b|^2
  double excess = 0;      // |a|^2 - |b|^2
};

static inline double sqrt1(double v) { return __builtin_sqrt(v); }

static inline void write_score(const ScoreSums& s, int64_t pixels, float* mse, float* cosine) {
  *mse = static_cast<float>(s.difference / static_cast<double>(pixels));
  double other = s.squares - s.excess;
  double norm_a = sqrt1(s.squares), norm_b = sqrt1(other > 0 ? other : other != other ? other : 0.0);
  double product = norm_a * norm_b;
  double distance;
  if (product < 1e-12) {
    distance = 1 - (s.squares + other - s.difference) / 2 / 1e-12;
  } else {
    double radial = s.excess / (norm_a + norm_b);
    distance = (s.difference - radial * radial) / (2 * product);
    if (distance < 0) distance = 0;  // rounding only: |a - b| >= ||a| - |b||
  }
  *cosine = static_cast<float>(distance);
}

// Eight pixels' map values from their vectors of squares, `count` of them written; the rest are zero.
static inline void write_map8(const Vec* squares, int64_t count, float half_mean, float* map,
                              ScoreSums& sums) {
  float out[8];
  Eight s = sums_of8(squares);
  store8(out, fma8(s, set8(half_mean), set8(0.0f)));
  for (int64_t i = 0; i < count; i++) map[i] = out[i];
  sums.difference += static_cast<double>(sum8(s));
}

template <class T>
static void score_map_of(const ScoreMapArgs& args) {
  const T* a = static_cast<const T*>(args.a);
  const T* b = static_cast<const T*>(args.b);
  float half_mean = static_cast<float>(0.5 / static_cast<double>(args.pixels));
  ScoreSums sums;
  for (int64_t begin = 0; begin < args.pixels; begin += kRows8) {
    int64_t count = smaller(kRows8, args.pixels - begin);
    Vec squares[kRows8], norm = set1(0.0f), excess = set1(0.0f);
#pragma GCC unroll 8
    for (int64_t p = 0; p < kRows8; p++) {
      squares[p] = set1(0.0f);
      if (p >= count) continue;
      const T* row_a = a + (begin + p) * args.channels;
      const T* row_b = b + (begin + p) * args.channels;
      Vec square = set1(0.0f);
      over(args.channels, [&](int64_t c, auto lanes) {
        Vec va = load(row_a + c, lanes), vb = load(row_b + c, lanes);
        Vec d = va - vb;
        square = fma(d, d, square);
        norm = fma(va, va, norm);
        excess = fma(d, va + vb, excess);
      });
      squares[p] = square;
    }
    write_map8(squares, count, half_mean, args.map + begin, sums);
    sums.squares += static_cast<double>(sum(norm));
    sums.excess += static_cast<double>(sum(excess));
  }
  write_score(sums, args.pixels, args.mse, args.cos);
}

static void score_map(const ScoreMapArgs& a) {
  a.dtype == DType::f32 ? score_map_of<float>(a) : score_map_of<Bf16>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
