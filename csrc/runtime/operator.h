// What the runtime knows of a backend: a table that turns graph nodes into operators.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "plan/graph.h"
#include "runtime/tactics.h"

namespace adfast {

class FrameInput;

// One input or output of a node as the backend sees it. Rank-4 tensors are stored channels-last.
struct Tensor {
  std::string name;
  Shape shape;
  DType dtype = DType::f32;
  bool constant = false;
  std::span<const std::byte> data;  // in row-major order, of constants only; valid while building
  Levels levels = {};               // of u8

  size_t bytes() const { return static_cast<size_t>(element_count(shape)) * size_of(dtype); }
};

// The memory of one execution context.
struct Binding {
  std::vector<void*> inputs;  // null where absent or constant
  std::vector<void*> outputs;
  void* scratch = nullptr;
  const FrameInput* frame = nullptr;
};

// An operator holds its packed weights, is built once and never changes; `bind` fixes the
// addresses. Bound calls of different contexts may run at the same time.
class Operator {
 public:
  virtual ~Operator() = default;
  virtual std::function<void()> bind(const Binding& binding) const = 0;
  virtual size_t scratch_bytes() const { return 0; }
  virtual double flops() const { return 0; }
  // Of the constants as they are packed; 0: they are read as the plan holds them.
  virtual size_t packed_bytes() const { return 0; }
  virtual std::string kernel() const = 0;  // which implementation was chosen, for people
};

struct OperatorRequest {
  const Node& node;
  std::vector<const Tensor*> inputs;  // null where absent
  std::vector<Tensor*> outputs;       // dtypes are set already
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;
  virtual std::string isa() const = 0;
  virtual std::string precision() const = 0;
  // How an operand must be stored, none: as it comes. The program converts where it differs.
  // The request's dtypes are not settled yet.
  virtual std::optional<Storage> operand_storage(const OperatorRequest& request,
                                                 size_t input) const = 0;
  // How a result is stored. `wanted`: how every reader takes it, where they agree. The inputs are
  // settled, the results' dtypes are not.
  virtual Storage result_storage(const OperatorRequest& request, size_t output,
                                 const std::optional<Storage>& wanted) const = 0;
  // Whether the first input may come in any type, and the result is of that type: its elements are
  // moved, so what readers of the result want holds for the input as well.
  virtual bool moves_elements(const Node& node) const = 0;
  // Throws ErrorKind::plan, naming op, node, expected and got.
  virtual std::unique_ptr<Operator> make(const OperatorRequest& request) const = 0;
  // One operator for two nodes, where only the second reads the first's result, as its first input;
  // that is then never stored. Its inputs are the first's, and the second's without that one. Null:
  // each node is made by itself.
  virtual std::unique_ptr<Operator> make_joined(const OperatorRequest& first,
                                                const OperatorRequest& second) const {
    (void)first, (void)second;
    return nullptr;
  }
  virtual std::unique_ptr<Operator> make_conversion(const Tensor& from, const Tensor& to) const = 0;
};

// A backend whose operators run on the threads that call them.
class HostBackend : public Backend {
 public:
  // Rows row_begin..row_end - 1 of a bilinear resize of an f32 plane: the map at frame resolution.
  virtual void resize_rows(const float* src, int height, int width, float* dst, int dst_height,
                           int dst_width, ptrdiff_t dst_row_stride, int row_begin,
                           int row_end) const = 0;
  // Floats of scratch the 'frame' op needs for a frame of that width.
  virtual size_t frame_scratch(int64_t width) const = 0;
  // Called on every thread before and after it runs steps.
  virtual uint64_t enter_thread(int threads) const = 0;
  virtual void leave_thread(uint64_t state) const = 0;
};

struct CpuOptions {
  std::string precision;   // "f32", "bf16" or "int8"
  bool may_widen = false;  // f32 will do where bf16 would be slower
  std::string isa = {};  // "scalar", "avx2", "avx512", "avx512_bf16", "avx512_amx"; empty: the best
  Tactics tactics = {};  // empty: the backend's own estimates
};
// Throws ErrorKind::argument when the processor cannot do what is asked for.
std::unique_ptr<HostBackend> make_cpu_backend(const CpuOptions& options);

}  // namespace adfast
