// All families, compiled for the instruction set of the file that includes this, and their table.
#pragma once
#include "kernels.h"
#include "layout.h"
// In the order of use, so the blocks stay apart.
#include "simd.h"
//
#include "dots.h"
#include "operands.h"
//
#include "products.h"
#ifdef ADFAST_TILES
#include ADFAST_TILES
#endif
//
#include "attention.h"
#include "box_filter.h"
#include "calibrate_map.h"
#include "elementwise.h"
#include "frame.h"
#include "gaussian_blur.h"
#include "gms_map.h"
#include "halo_attention.h"
#include "matvec.h"
#include "norm.h"
#include "panels.h"
#include "reduce.h"
#include "resize.h"
#include "score_map.h"
#include "token_attention.h"
#include "winograd.h"
//
#include "depthwise.h"
//
#include "expand_depthwise.h"
#include "fuse_maps.h"
#include "linear.h"
#include "projector_attention.h"
#include "strassen.h"
#ifdef ADFAST_TILES
#include "linear_amx.h"
#endif

namespace adfast::kernels::ADFAST_ISA {

extern const Table kTable;
const Table kTable = {
    .isa = Isa::ADFAST_ISA,
    .name = ADFAST_ISA_NAME,
    .fast_pairs = kFastPairs,
    .tiles = Products<Bf16Operands>::tiles,
    .frame_to_tensor = frame_to_tensor,
    .token_attention = token_attention,
    .projector_attention = projector_attention,
    .score_map = score_map,
    .projector_score_map = projector_score_map,
    .fuse_maps = fuse_maps,
    .gaussian_blur = gaussian_blur,
    .gms_map = gms_map,
    .calibrate_map = calibrate_map,
    .box_filter = box_filter,
    .resize_bilinear = resize_bilinear,
    .attention = attention,
    .halo_attention = halo_attention,
    .winograd_transform = winograd_transform,
    .winograd_multiply = winograd_multiply,
    .depthwise = depthwise,
    .expand_depthwise = expand_depthwise,
    .matvec = matvec,
#ifdef ADFAST_TILES
    .linear = linear,
#else
    .linear = nullptr,
#endif
    .strassen = strassen,
    .layer_norm = layer_norm,
    .softmax = softmax,
    .unary = unary,
    .binary = binary,
    .reduce = reduce,
};

}  // namespace adfast::kernels::ADFAST_ISA
