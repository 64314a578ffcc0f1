#define ADFAST_ISA scalar
#define ADFAST_ISA_NAME "scalar"
#include "simd_scalar.h"
//
#include "pairs.h"
//
#include "table.h"
