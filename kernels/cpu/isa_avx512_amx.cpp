#define ADFAST_ISA avx512_amx
#define ADFAST_ISA_NAME "avx512_amx"
#include "simd_avx512.h"
//
#include ADFAST_PAIRS  // pairs_avx512_bf16.h and products_amx.h, where the compiler has them
//
#include "table.h"
