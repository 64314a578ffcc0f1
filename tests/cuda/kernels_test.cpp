// Every CUDA kernel against the CPU's scalar one or, where the CPU has none, a plain loop: odd
// sizes, tails, all element types, NaN, and the order of threads, which must not matter.
#include <chrono>

#include "testing.h"

// Arguments name the families to test; without any, all are.
int main(int count, char** arguments) {
  const struct {
    const char* name;
    void (*test)();
  } tests[] = {{"elementwise", test_elementwise}, {"rows", test_rows},    {"shape", test_shape},
               {"windows", test_windows},         {"frame", test_frame},  {"maps", test_maps},
               {"attention", test_attention},     {"gtrans", test_gtrans}};
  for (const auto& [name, test] : tests) {
    bool wanted = count == 1;
    for (int i = 1; i < count; i++) wanted = wanted || strcmp(arguments[i], name) == 0;
    if (!wanted) continue;
    const auto start = std::chrono::steady_clock::now();
    const int before = failures;
    test();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    printf("%-12s %3d failures  %.1f s\n", name, failures - before, seconds.count());
    fflush(stdout);
  }
  printf("%d runs, %d failures\n", runs, failures);
  return failures ? 1 : 0;
}
