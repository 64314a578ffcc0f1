#include "c_api/common.h"

#include <cmath>
#include <cstdlib>

namespace adfast::c_api {

namespace {
thread_local std::string last_error;
}  // namespace

adfast_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::plan:
      return ADFAST_ERROR_PLAN;
    case ErrorKind::frame:
      return ADFAST_ERROR_FRAME;
    case ErrorKind::argument:
      return ADFAST_ERROR_ARGUMENT;
    case ErrorKind::io:
      return ADFAST_ERROR_IO;
    case ErrorKind::run:
      return ADFAST_ERROR_RUN;
    case ErrorKind::full:
      return ADFAST_ERROR_FULL;
    case ErrorKind::closed:
      return ADFAST_ERROR_CLOSED;
  }
  return ADFAST_ERROR_RUN;
}

void set_last_error(std::string message) { last_error = std::move(message); }

FrameView view_of(const adfast_frame& frame) {
  FrameView view;
  view.data = static_cast<const uint8_t*>(frame.data);
  view.height = frame.height;
  view.width = frame.width;
  view.channel_stride = 1;
  const PixelFormat* format = find_format(frame.pixel_format);
  if (format == nullptr) {
    throw Error(ErrorKind::frame, "[predict] pixel format " + std::to_string(frame.pixel_format) +
                                      ", expected the PFNC code of one of " + format_names());
  }
  view.format = *format;
  view.pixel_stride = format->channels() * format->bytes();
  const ptrdiff_t row = view.pixel_stride * static_cast<ptrdiff_t>(frame.width);
  view.row_stride = frame.row_stride == 0 ? row : frame.row_stride;
  if (view.row_stride < row && view.row_stride > -row) {
    throw Error(ErrorKind::frame, "[predict] row_stride is " + std::to_string(frame.row_stride) +
                                      " bytes, a row of " + std::to_string(frame.width) +
                                      " pixels has " + std::to_string(row));
  }
  return view;
}

Job job_of(const adfast_frame* frame) {
  require_struct(frame, "adfast_frame");
  Job job;
  job.frame = view_of(*frame);
  const adfast_rectangle& roi = frame->roi;
  job.roi = {roi.y, roi.x, int64_t{roi.y} + roi.height, int64_t{roi.x} + roi.width};
  if (frame->ignore != nullptr) {
    job.ignore = {frame->ignore, frame->ignore_stride == 0 ? frame->width : frame->ignore_stride};
    const ptrdiff_t row = frame->width;
    if (job.ignore.row_stride < row && job.ignore.row_stride > -row) {
      throw Error(ErrorKind::frame,
                  "[predict] ignore_stride is " + std::to_string(frame->ignore_stride) +
                      " bytes, a row of the mask has " + std::to_string(frame->width));
    }
  }
  return job;
}

adfast_rectangle rectangle_of(const Rectangle& r) {
  return {static_cast<int32_t>(r.left), static_cast<int32_t>(r.top),
          static_cast<int32_t>(r.right - r.left), static_cast<int32_t>(r.bottom - r.top)};
}

int32_t verdict(const Engine& engine, float score) {
  return std::isnan(engine.threshold()) ? -1 : score > engine.threshold();
}

}  // namespace adfast::c_api

const char* adfast_last_error() { return adfast::c_api::last_error.c_str(); }
