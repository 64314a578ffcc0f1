// Times of the CUDA kernels at the sizes of the models, on a card: a graph of 20 launches, the best
// of 20 replays. Prints one line a kernel: name, sizes, microseconds, GB/s (what must be read and
// written once), GFLOP/s. `make gpu-check` builds and runs it; tests/gpu/CMakeLists.txt.
#include <array>

#include "../tests/cuda/testing.h"

namespace {

using Launch = std::function<cudaError_t(cudaStream_t)>;
constexpr Type half = Type::f16;

std::string joined(const std::string& name, const std::vector<int64_t>& sizes) {
  std::string line = name;
  for (size_t i = 0; i < sizes.size(); ++i) {
    line += i > 0 ? 'x' : ',';
    line += std::to_string(sizes[i]);
  }
  return line;
}

void time(const std::string& name, const std::vector<int64_t>& sizes, double bytes, double flops,
          const Launch& launch) {
  constexpr int launches = 20, replays = 20;
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t run;
  cudaEvent_t begin, end;
  check(name, cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  check(name, cudaEventCreate(&begin));
  check(name, cudaEventCreate(&end));
  check(name, launch(stream));
  check(name, cudaStreamSynchronize(stream));
  check(name, cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < launches; ++i) check(name, launch(stream));
  check(name, cudaStreamEndCapture(stream, &graph));
  check(name, cudaGraphInstantiate(&run, graph, 0));
  float best = INFINITY;
  for (int i = 0; i < replays; ++i) {
    check(name, cudaEventRecord(begin, stream));
    check(name, cudaGraphLaunch(run, stream));
    check(name, cudaEventRecord(end, stream));
    check(name, cudaEventSynchronize(end));
    float milliseconds = 0;
    check(name, cudaEventElapsedTime(&milliseconds, begin, end));
    best = std::min(best, milliseconds);
  }
  const double microseconds = best * 1000 / launches;
  printf("%s,%.2f,%.1f,%.1f\n", joined(name, sizes).c_str(), microseconds,
         bytes / microseconds / 1e3, flops / microseconds / 1e3);
  fflush(stdout);
  check(name, cudaGraphExecDestroy(run));
  check(name, cudaGraphDestroy(graph));
  check(name, cudaEventDestroy(begin));
  check(name, cudaEventDestroy(end));
  check(name, cudaStreamDestroy(stream));
}

Tensor random(Type type, int64_t count) {
  return Tensor(type, numbers(static_cast<size_t>(count)));
}
Tensor empty(Type type, int64_t count) { return Tensor(type, static_cast<size_t>(count)); }

void time_attention() {
  constexpr std::array<std::array<int64_t, 5>, 4> cases = {
      {{1, 577, 577, 12, 64}, {1, 256, 256, 8, 32}, {1, 8, 785, 8, 32}, {256, 49, 49, 8, 32}}};
  for (const auto& [windows, queries, keys, heads, dim] : cases) {
    const int64_t width = heads * dim;
    const Tensor q = random(half, windows * queries * width);
    const Tensor k = random(half, windows * keys * width), v = random(half, windows * keys * width);
    const Tensor out = empty(half, windows * queries * width);
    const gpu::AttentionArgs args{q.data(), k.data(), v.data(), half,  windows, queries,
                                  keys,     width,    width,    heads, 0.2f,    out.data()};
    time("attention", {windows, queries, keys, heads, dim},
         4.0 * windows * (queries + keys) * width, 4.0 * windows * queries * keys * width,
         [args](cudaStream_t stream) { return gpu::attention(args, stream); });
  }
  for (const int64_t heads : {4, 8}) {
    constexpr int64_t side = 60, block = 12, halo = 2, dim = 16, reach = block + 2 * halo;
    const int64_t width = heads * dim, count = side * side * width;
    const Tensor q = random(half, count), k = random(half, count), v = random(half, count);
    const Tensor rows = random(Type::f32, (2 * reach - 1) * dim);
    const Tensor out = empty(half, count);
    const gpu::HaloAttentionArgs args{
        q.data(), k.data(), v.data(), half,          side,          side, block, halo,
        width,    width,    heads,    rows.floats(), rows.floats(), 0.2f, false, out.data()};
    time("halo_attention", {side, block, halo, heads, dim}, 8.0 * count,
         4.0 * side * side * reach * reach * width,
         [args](cudaStream_t stream) { return gpu::halo_attention(args, stream); });
  }
}

void time_gtrans() {
  constexpr int64_t groups = 8;
  constexpr std::array<std::array<int64_t, 2>, 6> stages = {
      {{3136, 64}, {784, 128}, {196, 256}, {3136, 256}, {784, 512}, {196, 1024}}};
  for (const auto& [pixels, channels] : stages) {
    const int64_t count = pixels * channels;
    const Tensor x = random(half, count), y = random(half, count);
    const Tensor weight = random(Type::f32, groups * channels);
    const Tensor value = random(Type::f32, groups * channels);
    const Tensor tokens = empty(Type::f32, groups * channels), mapped = empty(half, count);
    const Tensor map = empty(Type::f32, pixels), mse = empty(Type::f32, 1);
    const Tensor cos = empty(Type::f32, 1);
    const Tensor scratch(Type::f32, gpu::token_attention_scratch(pixels, channels, groups) +
                                        gpu::score_map_scratch(pixels, channels));
    const gpu::TokenAttentionArgs token{
        x.data(),        half,    pixels, channels,        groups,
        weight.floats(), nullptr, 0.1f,   tokens.floats(), scratch.floats()};
    time("token_attention", {pixels, channels}, 2.0 * count, 4.0 * count * groups,
         [token](cudaStream_t stream) { return gpu::token_attention(token, stream); });
    const gpu::ProjectorAttentionArgs projector{
        x.data(),        y.data(), half,           pixels, channels,     groups,
        weight.floats(), nullptr,  value.floats(), 0.1f,   mapped.data()};
    time("projector_attention", {pixels, channels}, 6.0 * count, 4.0 * count * groups,
         [projector](cudaStream_t stream) { return gpu::projector_attention(projector, stream); });
    const gpu::ProjectorScoreMapArgs fused{projector, map.floats(), mse.floats(), cos.floats(),
                                           scratch.floats()};
    time("projector_score_map", {pixels, channels}, 4.0 * count, 4.0 * count * groups,
         [fused](cudaStream_t stream) { return gpu::projector_score_map(fused, stream); });
  }
}

void time_rows() {
  constexpr std::array<std::array<int64_t, 2>, 3> cases = {{{577, 768}, {256, 256}, {12544, 512}}};
  for (const auto& [rows, width] : cases) {
    const Tensor x = random(Type::f32, rows * width), gamma = random(Type::f32, width);
    const Tensor out = empty(half, rows * width), wide = random(half, 4 * rows * width);
    const gpu::LayerNormArgs norm{x.floats(), gamma.floats(), gamma.floats(), nullptr, rows,
                                  width,      1e-5f,          out.data(),     half};
    time("layer_norm", {rows, width}, 6.0 * rows * width, 0,
         [norm](cudaStream_t stream) { return gpu::layer_norm(norm, stream); });
    const gpu::UnaryArgs gelu{gpu::Unary::gelu, wide.data(), half,
                              wide.data(),      half,        4 * rows * width};
    time("gelu", {rows, 4 * width}, 16.0 * rows * width, 0,
         [gelu](cudaStream_t stream) { return gpu::unary(gelu, stream); });
  }
}

void time_maps() {
  constexpr int32_t side = 224, taps = 33;
  const Tensor map = random(Type::f32, side * side), kernel = random(Type::f32, taps);
  const Tensor blurred = empty(Type::f32, side * side), scratch = empty(Type::f32, side * side);
  const gpu::GaussianBlurArgs blur{
      map.floats(), side, side, taps, kernel.floats(), blurred.floats(), scratch.floats()};
  time("gaussian_blur", {side, side, taps}, 8.0 * side * side, 4.0 * taps * side * side,
       [blur](cudaStream_t stream) { return gpu::gaussian_blur(blur, stream); });
  const Tensor a = random(Type::f32, 256 * 256 * 3), b = random(Type::f32, 256 * 256 * 3);
  const Tensor gms = empty(Type::f32, 256 * 256);
  const gpu::GmsMapArgs similarity{a.floats(), b.floats(), 256, 256, 3, 0.01f, gms.floats()};
  time("gms_map", {256, 256, 3}, 28.0 * 256 * 256, 0,
       [similarity](cudaStream_t stream) { return gpu::gms_map(similarity, stream); });
}

}  // namespace

void set_thread_order(bool) {}

int main() {
  printf("kernel,sizes,microseconds,gb_s,gflop_s\n");
  time_attention();
  time_gtrans();
  time_rows();
  time_maps();
  return failures == 0 ? 0 : 1;
}
