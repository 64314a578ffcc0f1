#include "backends/cpu/backend.h"

#include <omp.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

#include "backends/cpu/expand_depthwise.h"
#include "backends/cpu/onednn.h"
#include "backends/cpu/quantise.h"
#include "backends/cpu/winograd.h"

namespace adfast {
namespace cpu {
namespace {

using Registry = std::unordered_map<std::string, Op>;

const Registry& registry() {
  static const Registry ops = [] {
    Registry all;
    for (const auto& family : {convolution_ops(), linear_ops(), detector_ops(), halo_ops(),
                               elementwise_ops(), shape_ops()}) {
      for (const Op& op : family) all.emplace(op.name, op);
    }
    return all;
  }();
  return ops;
}

const Op& find(const Node& node) {
  const auto found = registry().find(node.op);
  if (found == registry().end()) {
    throw Error(ErrorKind::plan, "[" + node.op + " '" + node.name +
                                     "'] this adfast does not know the op; upgrade adfast, or "
                                     "build the plan with this version");
  }
  return found->second;
}

class CpuBackend final : public HostBackend {
 public:
  explicit CpuBackend(Device device) : device_(std::move(device)) {}

  std::string name() const override { return "cpu"; }
  std::string isa() const override { return device_.kernels->name; }
  std::string precision() const override {
    return device_.int8 ? "int8" : device_.features == DType::bf16 ? "bf16" : "f32";
  }

  std::optional<Storage> operand_storage(const OperatorRequest& request,
                                         size_t input) const override {
    const Op& op = find(request.node);
    const auto levels = device_.int8 && input == 0 ? request.node.input_levels() : std::nullopt;
    if (levels) {
      check_operands(op, request);  // make() does so too late: shapes are read here
      if (!floats_beat_int8(request)) return Storage{DType::u8, *levels};
    }
    return adfast::operand_storage(op, types(), input, request.inputs[input]->shape);
  }

  Storage result_storage(const OperatorRequest& request, size_t output,
                         const std::optional<Storage>& wanted) const override {
    if (wanted && wanted->dtype == DType::u8 && writes_u8(request)) return *wanted;
    return {result_type(find(request.node), types(), request.outputs[output]->shape, request.inputs,
                        wanted),
            {}};
  }

  bool moves_elements(const Node& node) const override { return find(node).moves_elements; }

  std::unique_ptr<Operator> make(const OperatorRequest& request) const override {
    const Op& op = find(request.node);
    check_operands(op, request);
    try {
      return op.make(request, device_);
    } catch (const dnnl::error& error) {
      refuse(request.node, std::string("oneDNN refused it: ") + error.what());
    }
  }

  std::unique_ptr<Operator> make_joined(const OperatorRequest& first,
                                        const OperatorRequest& second) const override {
    if (first.node.op != "conv2d" || second.node.op != "conv2d") return nullptr;
    for (const OperatorRequest* request : {&first, &second}) {
      check_operands(find(request->node), *request);
    }
    return make_expand_depthwise(first, second, device_);
  }

  std::unique_ptr<Operator> make_conversion(const Tensor& from, const Tensor& to) const override {
    const auto run = device_.kernels->unary;
    const kernels::UnaryArgs args{kernels::Unary::identity, nullptr,
                                  kernel_type(from.dtype),  nullptr,
                                  kernel_type(to.dtype),    element_count(from.shape),
                                  kernel_levels(to.levels)};
    return kernel_operator(device_, 0, 0, [run, args](const Binding& binding) {
      kernels::UnaryArgs bound = args;
      bound.x = binding.inputs[0];
      bound.out = binding.outputs[0];
      return [run, bound] { share_unary(run, bound); };
    });
  }

  void resize_rows(const float* src, int height, int width, float* dst, int dst_height,
                   int dst_width, ptrdiff_t dst_row_stride, int row_begin,
                   int row_end) const override {
    device_.kernels->resize_bilinear({src, height, width, 1, dst, dst_height, dst_width,
                                      dst_row_stride, false, row_begin, row_end});
  }

  size_t frame_scratch(int64_t width) const override {
    return kernels::frame_scratch(static_cast<int32_t>(width));
  }

  uint64_t enter_thread(int threads) const override {
    const auto before = static_cast<uint64_t>(omp_get_max_threads());
    omp_set_num_threads(threads);
    return before << 32 | kernels::flush_denormals();
  }

  void leave_thread(uint64_t state) const override {
    kernels::restore_denormals(static_cast<uint32_t>(state));
    omp_set_num_threads(static_cast<int>(state >> 32));
  }

 private:
  NarrowTypes types() const { return {device_.features, device_.products}; }

  bool writes_u8(const OperatorRequest& request) const {
    const Op& op = find(request.node);
    if (op.writes_u8) return true;
    if (request.inputs.empty() || request.inputs[0] == nullptr) return false;
    if (request.inputs[0]->dtype == DType::u8) return true;
    if (request.node.op != "conv2d") return false;
    check_operands(op, request);  // as above
    return runs_by_winograd(request, device_);
  }

  // Where the processor is expected to compute a quantised step faster in floats.
  bool floats_beat_int8(const OperatorRequest& request) const {
    if (request.node.op == "linear") {
      return int8_rates().linears < 1 && device_.tactic(request.node) != "direct";
    }
    return winograd_beats_int8(request, device_);
  }

  Device device_;
};

const kernels::Table* kernel_table(const std::string& isa) {
  if (isa.empty()) return kernels::select(kernels::best_isa());
  static constexpr const char* names[] = {"scalar", "avx2", "avx512", "avx512_bf16", "avx512_amx"};
  for (const kernels::Isa known : kernels::kIsas) {
    if (isa != names[static_cast<int>(known)]) continue;
    const kernels::Table* table = kernels::select(known);
    if (table == nullptr) {
      throw Error(ErrorKind::argument, "isa='" + isa + "': this processor lacks it; its best is '" +
                                           kernels::select(kernels::best_isa())->name + "'");
    }
    return table;
  }
  throw Error(ErrorKind::argument,
              "isa is '" + isa +
                  "', expected 'scalar', 'avx2', 'avx512', 'avx512_bf16' or 'avx512_amx' "
                  "(empty: the best)");
}

// ADFAST_ISA holds oneDNN to the same instruction set as our kernels. oneDNN takes the limit once
// per process, before its first use, which is why it is an environment variable.
void limit_onednn(const std::string& isa) {
  if (isa == "scalar") dnnl::set_max_cpu_isa(dnnl::cpu_isa::sse41);
  if (isa == "avx2") dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2);
  if (isa == "avx512") dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core_vnni);
  if (isa == "avx512_bf16") dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core_bf16);
}

// Without bf16 products, oneDNN or we would widen every operand again.
bool multiplies_bf16() {
  return onednn_has(dnnl::cpu_isa::avx512_core_bf16) && !caches_are_hidden();
}

// How many products in bf16 take the time of one in f32, by the plain instruction: it does twice
// the work of an f32 one, but Intel's processors issue it a quarter as often.
double bf16_vector_rate() { return __builtin_cpu_is("intel") ? 0.5 : 2; }

// The same for oneDNN: Intel's tiles make up for it.
double bf16_rate() {
  if (!multiplies_bf16()) return 0.5;
  return onednn_has(dnnl::cpu_isa::avx512_core_amx) ? 8 : bf16_vector_rate();
}

void compute_in_bf16(Device* device) {
  device->features = DType::bf16;
  device->bf16_rate = bf16_rate();
  if (multiplies_bf16()) device->products = DType::bf16;
  const bool fast = device->kernels->fast_pairs && bf16_vector_rate() > 1;
  if (fast) device->points = DType::bf16;
  if (fast || device->kernels->tiles) device->operands = DType::bf16;
}

}  // namespace

void share_unary(void (*run)(const kernels::UnaryArgs&), const kernels::UnaryArgs& args) {
  constexpr int64_t block = 1024;
  const auto bytes = [](kernels::DType type, int64_t i) {
    return i * static_cast<int64_t>(size_of(static_cast<DType>(type)));
  };
  share_rows((args.count + block - 1) / block, block, [&](int64_t begin, int64_t end) {
    kernels::UnaryArgs mine = args;
    mine.x = static_cast<const std::byte*>(args.x) + bytes(args.x_dtype, begin * block);
    mine.out = static_cast<std::byte*>(args.out) + bytes(args.out_dtype, begin * block);
    mine.count = std::min(args.count, end * block) - begin * block;
    run(mine);
  });
}

}  // namespace cpu

std::unique_ptr<HostBackend> make_cpu_backend(const CpuOptions& options) {
  static const std::string forced = [] {
    const char* value = std::getenv("ADFAST_ISA");
    const std::string isa = value == nullptr ? "" : value;
    cpu::limit_onednn(isa);
    return isa;
  }();
  cpu::Device device{dnnl::engine(dnnl::engine::kind::cpu, 0),
                     cpu::kernel_table(options.isa.empty() ? forced : options.isa), DType::f32,
                     DType::f32};
  static constexpr std::array words = {"direct", "winograd2", "winograd4", "strassen"};
  for (const auto& [step, word] : options.tactics) {
    if (std::find(words.begin(), words.end(), word) != words.end()) continue;
    throw Error(ErrorKind::argument, "tactic '" + word + "' of step '" + step +
                                         "', expected direct, winograd2, winograd4 or strassen");
  }
  device.tactics = options.tactics;
  const std::string& precision = options.precision;
  if (precision == "bf16") {
    if (!options.may_widen || cpu::bf16_rate() >= 1) cpu::compute_in_bf16(&device);
  } else if (precision == "int8") {
    device.int8 = true;
    if (cpu::bf16_rate() > 1) cpu::compute_in_bf16(&device);  // what is left in floats
  } else if (precision != "f32") {
    throw Error(ErrorKind::argument,
                "precision is '" + precision + "', expected 'f32', 'bf16' or 'int8'");
  }
  return std::make_unique<cpu::CpuBackend>(std::move(device));
}

}  // namespace adfast
