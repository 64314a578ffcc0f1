#include "backends/cpu/expand_depthwise.h"

#include "backends/cpu/depthwise.h"
#include "backends/cpu/own.h"

namespace adfast::cpu {
namespace {

bool widens(const OperatorRequest& request, const Device& device,
            const nodes::Convolution& convolution) {
  const nodes::Window& window = convolution.window;
  constexpr std::array<int64_t, 2> none = {0, 0}, one = {1, 1};
  return own_kernel(request, device) && convolution.groups == 1 && window.dense() &&
         window.kernel == one && window.begin == none && window.end == none &&
         convolution.residual == nullptr && own_activation(convolution.activation).has_value();
}

// Whether the product is ours to compute: not where tiles are far faster, nor where bf16 is only
// what maps are stored in.
bool multiplies(const Device& device, int64_t channels) {
  if (device.features == DType::f32) return true;
  return device.points == DType::bf16 && !device.kernels->tiles && channels % 2 == 0;
}

// Rows of y that are computed together. Few, so that what lies between stays in the caches with the
// weights; enough that little of it has to be kept for the next ones.
int64_t band_of(const kernels::DepthwiseArgs& args) {
  const int64_t row =
      static_cast<int64_t>(kernels::expand_depthwise_scratch(args.width, 1, 1, 1) * sizeof(float));
  const int64_t rows = second_level_cache() / 4 / row;
  return std::clamp<int64_t>((rows - args.kernel) / args.stride + 1, 1, args.out_height);
}

class ExpandDepthwise final : public Operator {
 public:
  ExpandDepthwise(const kernels::ExpandDepthwiseArgs& args, const nodes::Convolution& expand,
                  const nodes::Convolution& depthwise, const Device& device)
      : run_(device.kernels->expand_depthwise),
        args_(args),
        threads_(omp_get_max_threads()),
        room_(kernels::expand_depthwise_scratch(args.depthwise.width, args.depthwise.kernel,
                                                args.depthwise.stride, args.band)),
        flops_(expand.flops + depthwise.flops),
        weight_(kernels::winograd_weight_size(args.depthwise.channels, args.channels, 1, 1,
                                              args.depthwise.dtype) *
                sizeof(float)),
        depthwise_weight_(depthwise_weight(*depthwise.weight)),
        bias_(expand.bias == nullptr ? std::vector<float>() : floats(*expand.bias)),
        depthwise_bias_(depthwise.bias == nullptr ? std::vector<float>() : floats(*depthwise.bias)),
        kernel_(std::string("adfast:expand_depthwise:") + device.kernels->name) {
    kernels::winograd_weight(floats(*expand.weight).data(), args.depthwise.channels, args.channels,
                             1, 1, args.depthwise.dtype, weight_.data());
  }

  std::function<void()> bind(const Binding& binding) const override {
    kernels::ExpandDepthwiseArgs bound = args_;
    bound.x = binding.inputs[0];
    bound.weight = weight_.data();
    bound.bias = bias_.empty() ? nullptr : bias_.data();
    bound.scratch = static_cast<float*>(binding.scratch);
    bound.depthwise.weight = depthwise_weight_.data();
    bound.depthwise.bias = depthwise_bias_.empty() ? nullptr : depthwise_bias_.data();
    bound.depthwise.y = binding.outputs[0];
    return [this, bound] { share(bound); };
  }
  size_t scratch_bytes() const override { return threads_ * room_ * sizeof(float); }
  double flops() const override { return flops_; }
  size_t packed_bytes() const override {
    return weight_.bytes() +
           (depthwise_weight_.size() + bias_.size() + depthwise_bias_.size()) * sizeof(float);
  }
  std::string kernel() const override { return kernel_; }

 private:
  // By channels, or by rows of y where that leaves less to the busiest thread, although rows at the
  // seams are then computed twice. No result depends on it.
  void share(const kernels::ExpandDepthwiseArgs& args) const {
    const kernels::DepthwiseArgs& d = args.depthwise;
    const auto most = [&](int64_t all) { return (all + threads_ - 1) / threads_; };
    const int64_t rows =
        std::min(d.height, (most(d.out_height) - 1) * d.stride + d.kernel) * args.panel_end;
    const bool by_rows = rows < d.height * most(args.panel_end);
    share_rows(by_rows ? d.out_height : args.panel_end, d.width * d.height * args.channels,
               [&](int64_t begin, int64_t end) {
                 kernels::ExpandDepthwiseArgs mine = args;
                 mine.scratch += omp_get_thread_num() * room_;
                 (by_rows ? mine.depthwise.row_begin : mine.panel_begin) = begin;
                 (by_rows ? mine.depthwise.row_end : mine.panel_end) = end;
                 run_(mine);
               });
  }

  void (*run_)(const kernels::ExpandDepthwiseArgs&);
  kernels::ExpandDepthwiseArgs args_;
  int64_t threads_;
  size_t room_;  // floats of scratch for each
  double flops_;
  Packed weight_;
  std::vector<float> depthwise_weight_, bias_, depthwise_bias_;
  std::string kernel_;
};

}  // namespace

std::unique_ptr<Operator> make_expand_depthwise(const OperatorRequest& expand,
                                                const OperatorRequest& depthwise,
                                                const Device& device) {
  const nodes::Convolution first = nodes::convolution(expand);
  const nodes::Convolution second = nodes::convolution(depthwise);
  const auto args = depthwise_args(depthwise, device, second);
  if (!args || !widens(expand, device, first) || !multiplies(device, first.x[1])) return nullptr;

  kernels::ExpandDepthwiseArgs joined{};
  joined.channels = first.x[1];
  joined.activation = *own_activation(first.activation);
  joined.depthwise = *args;
  joined.band = band_of(*args);
  joined.panel_end = kernels::winograd_panels(args->channels);
  return std::make_unique<ExpandDepthwise>(joined, first, second, device);
}

}  // namespace adfast::cpu
