#define ADFAST_ISA avx2
#define ADFAST_ISA_NAME "avx2"
#include "simd_avx2.h"
//
#include "pairs.h"
//
#include "table.h"
