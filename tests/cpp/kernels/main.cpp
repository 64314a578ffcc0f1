// Every CPU kernel of every instruction set this processor runs, against plain loops in double: odd
// sizes, vector tails, both element types, any strides, NaN and infinity.
#include "testing.h"

int main() {
  int tables = 0;
  for (k::Isa isa : {k::Isa::scalar, k::Isa::avx2, k::Isa::avx512}) {
    const k::Table* table = k::select(isa);
    if (!table) {
      printf("instruction set %d: not on this processor\n", static_cast<int>(isa));
      continue;
    }
    if (table->isa != isa) {
      fprintf(stderr, "[select] asked for %d, got %s\n", static_cast<int>(isa), table->name);
      failures++;
    }
    tables++;
    for (k::DType dtype : {k::DType::f32, k::DType::bf16}) {
      test_token_attention(*table, dtype);
      test_projector(*table, dtype);
      test_score_map(*table, dtype);
      test_frame(*table, dtype);
      test_reduce(*table, dtype);
      test_nan(*table, dtype);
      test_halo_attention(*table, dtype);
      test_winograd(*table, dtype);
    }
    test_resize_bilinear(*table);
    test_fuse_maps(*table);
    test_gaussian_blur(*table);
    test_box_filter(*table);
    test_gms_map(*table);
    test_reduce_columns(*table);
    test_attention(*table);
    test_rows(*table);
    test_unary(*table);
    test_binary(*table);
  }
  if (!k::select(k::best_isa())) failures++;
  printf("%d instruction sets, %d failures\n", tables, failures);
  return failures ? 1 : 0;
}
