// Frames of any size, stride and format through the C interface, with parts and masks, on a tiny
// plan and on the same one in tiles. Pixels, masks and maps lie in buffers of exactly the promised
// sizes, so that a sanitizer sees one byte too many.
#include <adfast/adfast.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

namespace {

adfast_engine* engines[2] = {};  // whole frames, tiles
adfast_info info{};

struct Reader {
  const uint8_t* data;
  size_t size;

  template <class T>
  T take() {
    T value{};
    const size_t length = std::min(size, sizeof(T));
    if (length > 0) std::memcpy(&value, data, length);
    data += length;
    size -= length;
    return value;
  }
};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, adfast_last_error());
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  const char* folder = std::getenv("ADFAST_FUZZ_PLANS");
  adfast_options options{};
  options.struct_size = sizeof(options);
  options.threads = 1;
  for (const int tiles : {0, 1}) {
    const std::string path = (folder == nullptr ? std::string() : std::string(folder)) +
                             (tiles ? "/tiles.plan" : "/tiny.plan");
    if (adfast_load(path.c_str(), &options, &engines[tiles]) != ADFAST_OK) {
      fail("ADFAST_FUZZ_PLANS, a folder of make_corpus.py");
    }
  }
  info.struct_size = sizeof(info);
  if (adfast_get_info(engines[0], &info) != ADFAST_OK) fail("info");
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static constexpr uint32_t formats[] = {
      ADFAST_MONO8,     ADFAST_MONO10,    ADFAST_MONO12,    ADFAST_MONO16, ADFAST_BAYER_GR8,
      ADFAST_BAYER_RG8, ADFAST_BAYER_GB8, ADFAST_BAYER_BG8, ADFAST_RGB8,   ADFAST_BGR8};
  Reader in{data, size};
  const auto choice = in.take<uint8_t>();
  const auto shape = in.take<uint8_t>();
  adfast_frame frame{};
  frame.struct_size = sizeof(frame);
  frame.pixel_format = choice < 240 ? formats[choice % std::size(formats)] : in.take<uint32_t>();
  if (shape & 1) {  // anything
    frame.width = in.take<int32_t>();
    frame.height = in.take<int32_t>();
  } else {
    frame.width = in.take<uint8_t>();
    frame.height = in.take<uint8_t>();
  }
  const bool known =
      std::find(std::begin(formats), std::end(formats), frame.pixel_format) != std::end(formats);
  const bool wide = frame.pixel_format == ADFAST_MONO10 || frame.pixel_format == ADFAST_MONO12 ||
                    frame.pixel_format == ADFAST_MONO16;
  const bool colour = frame.pixel_format == ADFAST_RGB8 || frame.pixel_format == ADFAST_BGR8;
  const int64_t pixel = wide ? 2 : colour ? 3 : 1;
  const int64_t row = pixel * frame.width;
  const int64_t extra = shape & 2 ? in.take<int16_t>() : 0;
  if (shape & 2) frame.row_stride = shape & 4 ? -(row + extra) : row + extra;
  // Too small a stride must be refused before a pixel is read. 0: rows follow each other.
  const int64_t stride = frame.row_stride == 0 ? row : std::abs(frame.row_stride);

  // Frames that are large in words only get a buffer of one byte: reading them is a finding.
  const bool real = known && frame.width > 0 && frame.height > 0 && frame.width <= 1024 &&
                    frame.height <= 1024 && stride >= row;
  const int64_t bytes = real ? stride * (frame.height - 1) + row : 1;
  std::vector<uint8_t> pixels(static_cast<size_t>(bytes));
  for (size_t i = 0; i < pixels.size(); ++i) {
    pixels[i] = in.size > 0 ? in.data[i % in.size] : static_cast<uint8_t>(i * 37);
  }
  frame.data = pixels.data();
  std::vector<uint8_t> ignored;
  const bool parts = shape & 64;
  if (parts) {
    const auto more = in.take<uint8_t>();
    if (more & 1) {
      frame.roi = {in.take<int16_t>(), in.take<int16_t>(), in.take<int16_t>(), in.take<int16_t>()};
    }
    if (more & 2) {
      ignored.resize(real ? static_cast<size_t>(frame.width) * frame.height : 1);
      const auto every = in.take<uint8_t>();
      for (size_t i = 0; i < ignored.size(); ++i) ignored[i] = every == 0 || i % every == 0;
      frame.ignore = ignored.data();
    }
  }
  if (real && frame.row_stride < 0) frame.data = pixels.data() + stride * (frame.height - 1);
  if (!real && frame.width > 0 && frame.height > 0 && frame.width <= 32768 &&
      frame.height <= 32768 && stride >= row && known) {
    return 0;  // larger than the buffers here, and not wrong
  }

  std::vector<float> map(real ? static_cast<size_t>(frame.width) * frame.height : 1);
  std::vector<float> network_map(static_cast<size_t>(info.map_width) * info.map_height);
  adfast_result result{};
  result.struct_size = sizeof(result);
  if (shape & 8) result.map = map.data();
  if (shape & 16) result.network_map = network_map.data();
  const bool tiles = shape & 128;
  adfast_engine* engine = engines[tiles];
  const adfast_status status = shape & 32 ? adfast_predict_batch(engine, &frame, &result, 1)
                                          : adfast_predict(engine, &frame, &result);
  // A part may lie outside, and tiles have no network's map.
  const bool good = real && !parts && !(tiles && result.network_map != nullptr);
  if (good && status != ADFAST_OK) fail("a good frame was refused");
  if (!real && status == ADFAST_OK) fail("a bad frame was taken");
  if (status != ADFAST_OK) return 0;
  if (!std::isfinite(result.score) || result.score < 0) fail("the score");
  if (result.map == nullptr) return 0;
  std::vector<adfast_region> regions(in.take<uint8_t>() % 4);
  adfast_region_options rule{};
  rule.struct_size = sizeof(rule);
  rule.threshold = 0.01f;
  size_t count = 0;
  if (adfast_find_regions(map.data(), frame.width, frame.height, &rule, regions.data(),
                          regions.size(), &count) != ADFAST_OK) {
    fail("regions");
  }
  return 0;
}
