// Inspects one raw grey frame with a plan: the shortest line program.
//   inspect PLAN FRAME.raw WIDTH HEIGHT
#include <adfast/adfast.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: inspect PLAN FRAME.raw WIDTH HEIGHT (8-bit grey)\n");
    return 2;
  }
  try {
    const adfast::Engine engine(argv[1]);
    std::ifstream file(argv[2], std::ios::binary);
    const std::vector<char> pixels((std::istreambuf_iterator<char>(file)), {});
    const int width = std::atoi(argv[3]), height = std::atoi(argv[4]);
    if (pixels.size() != static_cast<size_t>(width) * height) {
      std::fprintf(stderr, "%s has %zu bytes, expected %d x %d\n", argv[2], pixels.size(), width,
                   height);
      return 1;
    }
    const adfast::Result result =
        engine.predict(adfast::Frame(pixels.data(), width, height, ADFAST_MONO8));
    std::printf("score %.9g threshold %.9g %s\n", result.score, result.threshold,
                result.is_anomalous() ? "anomalous" : "good");
    return 0;
  } catch (const adfast::Failure& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
  }
}
