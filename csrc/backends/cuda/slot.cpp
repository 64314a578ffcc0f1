#include "backends/cuda/slot.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "core/error.h"
#include "runtime/pixels.h"

namespace adfast::cuda {
namespace {

// Each by itself: one may have grown when there was no memory left for the other.
template <class Memory>
void grow(Memory* memory, size_t bytes) {
  if (memory->bytes() < bytes) *memory = Memory(bytes);
}

bool finite(DType type, const std::vector<std::byte>& bytes) {
  // Infinities and NaN have every bit of the exponent set.
  const auto all = [&]<class Word>(Word exponent) {
    for (size_t i = 0; i + sizeof(Word) <= bytes.size(); i += sizeof(Word)) {
      Word word;
      std::memcpy(&word, bytes.data() + i, sizeof(word));
      if ((word & exponent) == exponent) return false;
    }
    return true;
  };
  if (type == DType::f32) return all(uint32_t{0x7F800000});
  return all(type == DType::f16 ? uint16_t{0x7C00} : uint16_t{0x7F80});
}

}  // namespace

Slot::Slot(const Program& program, Device& device, size_t first_lane, const FrameGeometry& geometry,
           const DetectorOutputs& detector)
    : program_(program),
      remedy_(device.engine == nullptr
                  ? "load the plan with precision='bf16' or 'f32'"
                  : "make its engine anew with --precision bf16, or load with device='cuda'"),
      detector_(detector),
      geometry_(geometry),
      lane_(*device.lanes[first_lane]),
      execution_(program, device, first_lane),
      input_(geometry),
      answer_host_(sizeof(float) * static_cast<size_t>(1 + detector.height * detector.width)) {}

// A frame of the card's own is read where it lies, once the work that makes it is over.
const uint8_t* Slot::borrowed(const FrameView& frame) const {
  if (frame.stream != 0) {
    const cudaStream_t producer =
        frame.stream == 1 ? cudaStreamLegacy : reinterpret_cast<cudaStream_t>(frame.stream);
    check(cudaStreamSynchronize(producer), "waiting for the frame");
  }
  return frame.data;
}

const uint8_t* Slot::fetch(const FrameView& frame) {
  const int64_t row = packed_row_bytes(frame);
  const auto bytes = static_cast<size_t>(frame.height * row);
  grow(&frame_, bytes);
  grow(&frame_host_, bytes);
  // In parts: while the card fetches one, the next is packed.
  constexpr int64_t part_bytes = 192 << 10;
  const int64_t rows = std::max<int64_t>(1, part_bytes / row);
  auto* packed = frame_host_.as<uint8_t>();
  for (int64_t begin = 0; begin < frame.height; begin += rows) {
    const int64_t end = std::min(frame.height, begin + rows);
    for (int64_t y = begin; y < end; ++y) pack_row(frame, y, packed + y * row, &planes_);
    check(
        cudaMemcpyAsync(frame_.as<uint8_t>() + begin * row, packed + begin * row,
                        static_cast<size_t>((end - begin) * row), cudaMemcpyHostToDevice, stream()),
        "copying the frame to the device");
  }
  return frame_.as<const uint8_t>();
}

void Slot::upload(const FrameView& frame) {
  const int64_t channels = frame.format.color == Color::grey ? 1 : 3;
  kernels::cuda::FrameArgs& args = lane_.frame;
  if (frame.height != height_ || frame.width != width_) {
    height_ = width_ = -1;
    input_.resize_for(frame.height, frame.width);
    const ResampleWeights* axes[] = {&input_.rows(), &input_.columns()};
    kernels::cuda::ResampleAxis* places[] = {&args.y, &args.x};
    for (int i = 0; i < 2; ++i) {
      axis_first_[i] = uploaded(std::span<const int32_t>(axes[i]->first));
      axis_weight_[i] = uploaded(std::span<const float>(axes[i]->weight));
      *places[i] = {static_cast<int32_t>(axes[i]->first.size()), axes[i]->taps,
                    axis_first_[i].as<const int32_t>(), axis_weight_[i].as<const float>()};
    }
    height_ = frame.height;
    width_ = frame.width;
  }
  args.src = frame.on_device ? borrowed(frame) : fetch(frame);
  args.src_height = static_cast<int32_t>(frame.height);
  args.src_width = static_cast<int32_t>(frame.width);
  args.src_channels = static_cast<int32_t>(channels);
  args.value_bytes = frame.format.bytes();
  std::fill_n(args.scale, 3, frame.format.to_255());
  for (int c = 0; c < 3; ++c) {
    args.channel[c] = channels == 1 ? 0 : frame.format.color == Color::bgr ? 2 - c : c;
  }
}

// The map at the frame's resolution, on the device; what the network does not see is 0.
void Slot::download_map(const FrameView& frame) {
  const auto bytes = static_cast<size_t>(frame.height * frame.width) * sizeof(float);
  grow(&map_, bytes);
  grow(&map_host_, bytes);
  const Rectangle part = inspected_part(geometry_, frame.height, frame.width);
  const int64_t seen = (part.bottom - part.top) * (part.right - part.left);
  if (seen != frame.height * frame.width) {
    check(cudaMemsetAsync(map_.data(), 0, bytes, stream()), "clearing the map");
  }
  kernels::cuda::ResizeBilinearArgs args{};
  args.src = static_cast<const float*>(execution_.data(detector_.map));
  args.height = static_cast<int32_t>(detector_.height);
  args.width = static_cast<int32_t>(detector_.width);
  args.channels = 1;
  args.dst = map_.as<float>() + part.top * frame.width + part.left;
  args.dst_height = static_cast<int32_t>(part.bottom - part.top);
  args.dst_width = static_cast<int32_t>(part.right - part.left);
  args.dst_row_stride = frame.width;
  check(kernels::cuda::resize_bilinear(args, stream()), "resizing the map");
  // In parts: while one comes over, the one before is handed out.
  const int64_t count = frame.height * frame.width;
  for (size_t part = 0; part < parts_.size(); ++part) {
    const auto [begin, end] = part_of(count, part);
    check(cudaMemcpyAsync(map_host_.as<float>() + begin, map_.as<float>() + begin,
                          static_cast<size_t>(end - begin) * sizeof(float), cudaMemcpyDeviceToHost,
                          stream()),
          "copying the map from the device");
    parts_[part].record(stream());
  }
}

std::pair<int64_t, int64_t> Slot::part_of(int64_t count, size_t part) const {
  const auto parts = static_cast<int64_t>(parts_.size()), index = static_cast<int64_t>(part);
  return {count * index / parts, count * (index + 1) / parts};
}

void Slot::begin(const Job& job) {
  try {
    enqueue(job);
  } catch (...) {
    // The frame is its owner's again when this returns.
    cudaStreamSynchronize(stream());
    throw;
  }
}

void Slot::enqueue(const Job& job) {
  started_ = std::chrono::steady_clock::now();
  begin_.record(stream());
  upload(job.frame);
  execution_.start();
  framed_.record(stream());
  execution_.run();
  computed_.record(stream());
  auto* answer = answer_host_.as<float>();
  const auto copy = [&](float* to, int32_t tensor, size_t count) {
    check(cudaMemcpyAsync(to, execution_.data(tensor), count * sizeof(float),
                          cudaMemcpyDeviceToHost, stream()),
          "copying the answer from the device");
  };
  copy(answer, detector_.score, 1);
  if (job.network_map != nullptr) {
    copy(answer + 1, detector_.map, static_cast<size_t>(detector_.height * detector_.width));
  }
  if (job.map != nullptr) download_map(job.frame);
  end_.record(stream());
}

void Slot::finish(Job& job) {
  const int64_t pixels = job.frame.height * job.frame.width;
  for (size_t part = 0; job.map != nullptr && part < parts_.size(); ++part) {
    const auto [begin, end] = part_of(pixels, part);
    check(cudaEventSynchronize(parts_[part].get()), "running the plan");
    std::copy(map_host_.as<float>() + begin, map_host_.as<float>() + end, job.map + begin);
  }
  check(cudaStreamSynchronize(stream()), "running the plan");
  const auto* answer = answer_host_.as<const float>();
  job.score = answer[0];
  if (!std::isfinite(job.score)) {
    throw Error(ErrorKind::run, "[predict] the score is not a finite number: " + first_bad_step() +
                                    " is the first step whose result is not; " + remedy_);
  }
  if (job.network_map != nullptr) {
    std::copy_n(answer + 1, detector_.height * detector_.width, job.network_map);
  }
  job.timings.frame = framed_.since(begin_);
  job.timings.network = computed_.since(framed_);
  job.timings.map = end_.since(computed_);
  const auto passed = std::chrono::steady_clock::now() - started_;
  job.timings.total = std::chrono::duration<double, std::milli>(passed).count();
}

// Computes the frame that lies on the device again, step by step.
std::string Slot::first_bad_step() const {
  std::string name = "none of them";
  bool found = false;
  execution_.run_each([&](int32_t step) {
    if (found) return;
    for (int32_t id : program_.steps()[step].outputs) {
      const Tensor& tensor = program_.tensors()[id];
      std::vector<std::byte> bytes(tensor.bytes());
      check(cudaMemcpy(bytes.data(), execution_.data(id), bytes.size(), cudaMemcpyDeviceToHost),
            "copying a result from the device");
      if (finite(tensor.dtype, bytes)) continue;
      found = true;
      name = "[" + program_.steps()[step].op + " '" + program_.steps()[step].name + "']";
    }
  });
  return name;
}

}  // namespace adfast::cuda
