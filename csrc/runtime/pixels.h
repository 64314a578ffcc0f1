// Frames as the kernels read them: what they cannot read in place is brought into shape here.
#pragma once
#include <cstdint>
#include <vector>

#include "core/frame.h"

namespace adfast {

// Whether every pixel can be read where it lies: not mosaics, nor uint16 that are not
// aligned neighbours.
bool readable(const FrameView& frame);

// The frame itself if it is readable, else a copy in `buffer`: a mosaic as three planes of RGB.
FrameView made_readable(const FrameView& frame, std::vector<uint8_t>* buffer);

// One row of a mosaic as three rows of `frame.width` bytes. Bilinear: the colours a pixel lacks are
// the rounded means of its two or four nearest ones that have them; beyond the border the frame is
// mirrored, which keeps the colours' places.
void demosaic_row(const FrameView& frame, int64_t y, uint8_t* red, uint8_t* green, uint8_t* blue);

// One row without gaps: frame.width times channels() values of bytes(), of a mosaic RGB.
void pack_row(const FrameView& frame, int64_t y, uint8_t* out, std::vector<uint8_t>* scratch);

// Bytes of a row of pack_row.
int64_t packed_row_bytes(const FrameView& frame);

// The part of a frame; the rectangle must lie inside it. A mosaic begins with another colour there.
FrameView part_of(const FrameView& frame, int64_t x, int64_t y, int64_t width, int64_t height);

}  // namespace adfast
