#define ADFAST_ISA avx512
#define ADFAST_ISA_NAME "avx512"
#include "simd_avx512.h"
//
#include "pairs.h"
//
#include "table.h"
