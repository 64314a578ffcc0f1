#include <adfast/adfast.hpp>
#include <cstdio>

int main() {
  try {
    const adfast::Engine engine("part.plan");
    const std::vector<uint8_t> pixels(480 * 640, 128);  // a byte each, row by row
    const adfast::Result result =
        engine.predict(adfast::Frame(pixels.data(), 640, 480, ADFAST_MONO8));
    std::printf("%s, score %g\n", result.is_anomalous() ? "anomalous" : "good", result.score);
    return 0;
  } catch (const adfast::Failure& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
  }
}
