// GTrans, eq. 15-17: per-pixel squared distance, its mean, and the cosine distance of two feature
// maps.
//
// The cosine distance of nearly equal maps is the interesting one, and 1 - a.b / (|a| |b|) loses
// all its digits there. With d = a - b and e = sum d (a + b) = |a|^2 - |b|^2 the same quantity is
//   (|d|^2 - (|a| - |b|)^2) / (2 |a| |b|),  |a| - |b| = e / (|a| + |b|),
// where nothing cancels but what is truly radial (so digits are lost only where the norms differ by
// orders of magnitude). Sums are taken in f32 within a tile, in double across tiles.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

struct ScoreSums {
  double squares_a = 0;   // |a|^2
  double squares_b = 0;   // |b|^2
  double difference = 0;  // |a - b|^2
  double excess = 0;      // |a|^2 - |b|^2
};

// The same over a tile, but for the difference, which is kept per pixel.
struct TileSums {
  Vec squares_a = set1(0.0f), squares_b = set1(0.0f), excess = set1(0.0f);

  void add(Vec a, Vec b, Vec difference) {
    squares_a = fma(a, a, squares_a);
    squares_b = fma(b, b, squares_b);
    excess = fma(difference, a + b, excess);
  }
  void add_to(ScoreSums& sums) const {
    sums.squares_a += static_cast<double>(sum(squares_a));
    sums.squares_b += static_cast<double>(sum(squares_b));
    sums.excess += static_cast<double>(sum(excess));
  }
};

static inline void write_score(const ScoreSums& s, int64_t pixels, float* mse, float* cosine) {
  *mse = static_cast<float>(s.difference / static_cast<double>(pixels));
  double norm_a = __builtin_sqrt(s.squares_a), norm_b = __builtin_sqrt(s.squares_b);
  double product = norm_a * norm_b, distance;
  if (product < 1e-12) {
    distance = 1 - (s.squares_a + s.squares_b - s.difference) / 2 / 1e-12;
  } else {
    double radial = s.excess / (norm_a + norm_b);
    distance = (s.difference - radial * radial) / (2 * product);
    if (distance < 0) distance = 0;  // by rounding only: |a - b| >= ||a| - |b||
  }
  *cosine = static_cast<float>(distance);
}

// Eight pixels' map values from their vectors of squares, `count` of them written; the rest are
// zero.
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
    Vec squares[kRows8];
    TileSums tile;
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
        tile.add(va, vb, d);
      });
      squares[p] = square;
    }
    write_map8(squares, count, half_mean, args.map + begin, sums);
    tile.add_to(sums);
  }
  write_score(sums, args.pixels, args.mse, args.cos);
}

static void score_map(const ScoreMapArgs& a) {
  a.dtype == DType::f32 ? score_map_of<float>(a) : score_map_of<Bf16>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
