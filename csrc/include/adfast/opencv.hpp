// cv::Mat in and out, for programs that use OpenCV; the library itself does not know it.
//
//   adfast::Result result = adfast::predict(engine, image);  // 8UC1, or 8UC3 in OpenCV's BGR
//   cv::Mat map = adfast::map_of(result);                    // 32FC1, borrowed from the result
#pragma once
#include <opencv2/core.hpp>
#include <string>

#include "adfast/adfast.hpp"

namespace adfast {

// Of a cv::Mat: 8UC1 is grey, 8UC3 is BGR, 16UC1 is grey of so many bits, 10, 12 or 16: which, the
// values do not tell. Throws Failure for all others, as nothing is converted by guess.
inline adfast_pixel_format pixel_format(const cv::Mat& image, int bits = 0) {
  switch (image.type()) {
    case CV_8UC1:
      if (bits == 0 || bits == 8) return ADFAST_MONO8;
      break;
    case CV_8UC3:
      if (bits == 0 || bits == 8) return ADFAST_BGR8;
      break;
    case CV_16UC1:
      if (bits == 10) return ADFAST_MONO10;
      if (bits == 12) return ADFAST_MONO12;
      if (bits == 16) return ADFAST_MONO16;
      break;
    default:
      break;
  }
  const std::string text = "[opencv] a cv::Mat of type " + std::to_string(image.type()) + " and " +
                           std::to_string(bits) +
                           " bits, expected CV_8UC1, CV_8UC3 (BGR), or CV_16UC1 with bits = 10, "
                           "12 or 16; convert it with cv::Mat::convertTo or cv::cvtColor";
  throw Failure(ADFAST_ERROR_FRAME, text.c_str());
}

// Borrows the image, rows with gaps too; it must live as long as the frame is used.
inline Frame frame_of(const cv::Mat& image, int bits = 0) {
  if (image.dims > 2) throw Failure(ADFAST_ERROR_FRAME, "[opencv] a cv::Mat of more than two axes");
  // A single row may have any step.
  const ptrdiff_t stride = image.rows > 1 ? static_cast<ptrdiff_t>(image.step[0]) : 0;
  return Frame(image.data, image.cols, image.rows, pixel_format(image, bits), stride);
}

inline Result predict(const Engine& engine, const cv::Mat& image, int bits = 0) {
  return engine.predict(frame_of(image, bits));
}

// 32FC1 of the frame's size. It borrows the result's memory: clone() what must outlive it.
inline cv::Mat map_of(Result& result) {
  return cv::Mat(result.height, result.width, CV_32FC1, result.map.data());
}

}  // namespace adfast
