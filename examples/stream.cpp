// Two cameras on one engine: frames are submitted as they come, a callback gets the results in
// order.
//   stream PLAN WIDTH HEIGHT FRAME.raw... (8-bit grey); prints "id score" of every frame
#include <adfast/adfast.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <thread>

static std::vector<char> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: stream PLAN WIDTH HEIGHT FRAME.raw...\n");
    return 2;
  }
  const int width = std::atoi(argv[2]), height = std::atoi(argv[3]), frames = argc - 4;
  try {
    const adfast::Engine engine(argv[1]);
    engine.warmup();
    adfast::StreamOptions options;
    options.capacity = 8;
    adfast::Stream stream(engine, options, [](const adfast_stream_result& result) {
      if (result.status == ADFAST_OK) {
        std::printf("%llu %.9g\n", static_cast<unsigned long long>(result.id), result.score);
      } else {
        std::fprintf(stderr, "%s\n", result.error);
      }
    });
    const auto camera = [&](int first) {
      for (int i = first; i < frames; i += 2) {
        const std::vector<char> pixels = read(argv[4 + i]);
        if (pixels.size() != static_cast<size_t>(width) * height) continue;
        stream.submit(adfast::Frame(pixels.data(), width, height, ADFAST_MONO8), i);
        // The stream has its own copy: a camera's buffer would be given back here.
      }
    };
    std::thread left(camera, 0), right(camera, 1);
    left.join();
    right.join();
    stream.close();
    const adfast_stream_counters counters = stream.counters();
    std::fprintf(stderr, "%llu submitted, %llu completed, p99 %.2f ms\n",
                 static_cast<unsigned long long>(counters.submitted),
                 static_cast<unsigned long long>(counters.completed), counters.p99_ms);
    return counters.completed == static_cast<uint64_t>(frames) ? 0 : 1;
  } catch (const adfast::Failure& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
  }
}
