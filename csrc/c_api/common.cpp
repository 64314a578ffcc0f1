#include "c_api/common.h"

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
  if (std::abs(view.row_stride) < row) {
    throw Error(ErrorKind::frame, "[predict] row_stride is " + std::to_string(frame.row_stride) +
                                      " bytes, a row of " + std::to_string(frame.width) +
                                      " pixels has " + std::to_string(row));
  }
  return view;
}

}  // namespace adfast::c_api

const char* adfast_last_error() { return adfast::c_api::last_error.c_str(); }
