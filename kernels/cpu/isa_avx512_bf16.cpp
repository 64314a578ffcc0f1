#define ADFAST_ISA avx512_bf16
#define ADFAST_ISA_NAME "avx512_bf16"
#include "simd_avx512.h"
//
#include ADFAST_PAIRS  // pairs_avx512_bf16.h, where the compiler has the instructions
//
#include "table.h"
