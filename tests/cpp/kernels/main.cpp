// Every CPU kernel of every instruction set this processor runs, against plain loops in double: odd
// sizes, vector tails, both element types, any strides, NaN and infinity. With names of instruction
// sets as arguments only those; under an emulator, `sde64 -spr -- kernels_test avx512_amx`.
#include "testing.h"

// Each test draws the same numbers whatever ran before it.
template <class Test, class... Arguments>
static void alone(Test test, const Arguments&... arguments) {
  rng.seed(20240607);
  test(arguments...);
}

static bool asked(const char* name, int count, char** names) {
  const auto same = [name](const char* other) { return strcmp(name, other) == 0; };
  return count == 0 || std::any_of(names, names + count, same);
}

int main(int argc, char** argv) {
  int tables = 0;
  for (k::Isa isa : k::kIsas) {
    const k::Table* table = k::select(isa);
    if (!table) {
      printf("instruction set %d: not on this processor\n", static_cast<int>(isa));
      continue;
    }
    if (table->isa != isa) {
      fprintf(stderr, "[select] asked for %d, got %s\n", static_cast<int>(isa), table->name);
      failures++;
    }
    if (!asked(table->name, argc - 1, argv + 1)) continue;
    tables++;
    for (k::DType dtype : {k::DType::f32, k::DType::bf16}) {
      alone(test_token_attention, *table, dtype);
      alone(test_projector, *table, dtype);
      alone(test_score_map, *table, dtype);
      alone(test_frame, *table, dtype);
      alone(test_reduce, *table, dtype);
      alone(test_nan, *table, dtype);
      alone(test_halo_attention, *table, dtype, k::DType::f32);
      alone(test_winograd, *table, dtype, k::DType::f32);
      alone(test_depthwise, *table, dtype);
      alone(test_expand_depthwise, *table, dtype);
      alone(test_matvec, *table, dtype);
      alone(test_strassen, *table, dtype);
    }
    alone(test_winograd, *table, k::DType::bf16, k::DType::bf16);
    alone(test_halo_attention, *table, k::DType::bf16, k::DType::bf16);
    alone(test_linear, *table, k::DType::bf16);
    alone(test_linear, *table, k::DType::u8);
    alone(test_resize_bilinear, *table);
    alone(test_fuse_maps, *table);
    alone(test_gaussian_blur, *table);
    alone(test_box_filter, *table);
    alone(test_gms_map, *table);
    alone(test_reduce_columns, *table);
    alone(test_attention, *table, k::DType::f32);
    alone(test_attention, *table, k::DType::bf16);
    alone(test_rows, *table);
    alone(test_unary, *table);
    alone(test_binary, *table);
  }
  if (!k::select(k::best_isa())) failures++;
  if (argc > 1 && tables != argc - 1) {
    fprintf(stderr, "not all of the instruction sets asked for are there\n");
    failures++;
  }
  printf("%d instruction sets, %d failures\n", tables, failures);
  return failures ? 1 : 0;
}
