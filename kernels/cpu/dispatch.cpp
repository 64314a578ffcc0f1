// Which instruction set this processor runs, and how much scratch the kernels need.
#include <cpuid.h>
#include <xmmintrin.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"
#include "layout.h"

namespace adfast::kernels {

// Those that the build has are ADFAST_CPU_SETS: an ADFAST_SET(...) for each.
#define ADFAST_SET(set)      \
  namespace set {            \
  extern const Table kTable; \
  }
ADFAST_SET(scalar)
ADFAST_CPU_SETS
#undef ADFAST_SET

static const Table* table_of(Isa isa) {
#define ADFAST_SET(set) \
  if (isa == Isa::set) return &set::kTable;
  ADFAST_SET(scalar)
  ADFAST_CPU_SETS
#undef ADFAST_SET
  return nullptr;
}

// AMX's tiles are 8 KB of state, which Linux keeps for a process only once it has asked. What is
// granted stays granted, to all threads.
static bool tiles_allowed() {
#ifdef __linux__
  constexpr unsigned bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25, all = bf16 | tile | int8;
  constexpr int request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
  unsigned a = 0, b = 0, c = 0, d = 0;
  static const bool allowed = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & all) == all &&
                              syscall(SYS_arch_prctl, request, tile_data) == 0;
  return allowed;
#else
  return false;
#endif
}

// The compiler's run-time check also asks the operating system (XGETBV) whether it saves the
// registers.
static bool runs(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::avx512:
      return runs(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case Isa::avx512_bf16:
      return runs(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
    case Isa::avx512_amx:
      return runs(Isa::avx512_bf16) && tiles_allowed();
  }
  return false;
}

Isa best_isa() {
  Isa best = Isa::scalar;
  for (Isa isa : kIsas) {
    if (select(isa) != nullptr) best = isa;
  }
  return best;
}

const Table* select(Isa isa) { return runs(isa) ? table_of(isa) : nullptr; }

size_t frame_scratch(int32_t src_width) {
  // Rows of the vertical pass, and one copied row of bytes.
  return static_cast<size_t>((kFrameRows + 1) * frame_row(src_width));
}

size_t token_attention_scratch(int64_t, int64_t groups) {
  // The state of every eight groups, a tile's logits and one pixel of padding.
  return static_cast<size_t>(round_up8(groups) / 8 * 3 * 8 + (kMaxTile + 1) * 8);
}

size_t projector_attention_scratch(int64_t, int64_t tokens) {
  // A tile's weights and, for the score map, its squared differences.
  return static_cast<size_t>(kMaxTile * round_up8(tokens) + kMaxTile * kMaxLanes);
}

size_t gaussian_blur_scratch(int32_t, int32_t width, int32_t taps) {
  return static_cast<size_t>(kBlurRows * padded_row(width, taps / 2));
}

size_t gms_map_scratch(int64_t width, int64_t channels) {
  // Sums and differences over three rows, of both images, and a row of differences.
  return static_cast<size_t>(4 * gms_row(width, channels) + width * channels);
}

size_t attention_scratch(int64_t keys, int64_t head_dim, int64_t head_value_dim) {
  // One head's keys (transposed) and values, a few queries, their weights and sums.
  int64_t columns = round_up(keys, kMaxPanel), width = round_up(head_value_dim, kMaxLanes);
  int64_t depth = round_up(head_dim, kMaxLanes);
  return static_cast<size_t>(columns * (depth + width) +
                             kMaxQueryRows * (depth + weight_row(columns) + width));
}

size_t halo_attention_scratch(int64_t block, int64_t halo, int64_t head_dim,
                              int64_t head_value_dim) {
  // The tables of positions; one head's keys (transposed), values and queries of a block; a few
  // queries' weights, terms of positions and sums.
  int64_t side = block + 2 * halo, row = round_up(side, kMaxLanes), table = halo_table(2 * side);
  int64_t columns = round_up(side * row, kMaxPanel), width = round_up(head_value_dim, kMaxLanes);
  int64_t depth = round_up(head_dim, kMaxLanes), queries = block * block + kMaxQueryRows;
  return static_cast<size_t>(depth * (2 * table + columns + queries) + columns * width +
                             kMaxQueryRows * (weight_row(columns) + 2 * table + width) + row);
}

size_t expand_depthwise_scratch(int64_t width, int32_t kernel, int32_t stride, int64_t band) {
  return static_cast<size_t>(((band - 1) * stride + kernel) * width * kChannelPanel);
}

size_t strassen_scratch(int64_t block, int64_t depth, DType operands) {
  // Sums of parts of x, and the seven products with a panel.
  const int64_t words = words_of(depth / 2, operands == DType::bf16);
  return static_cast<size_t>(strassen_sums(block, words) +
                             kStrassenProducts * block * kChannelPanel);
}

constexpr uint32_t kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040;

uint32_t flush_denormals() {
  uint32_t previous = _mm_getcsr();
  _mm_setcsr(previous | kFlushToZero | kDenormalsAreZero);
  return previous;
}

void restore_denormals(uint32_t previous) { _mm_setcsr(previous); }

}  // namespace adfast::kernels
