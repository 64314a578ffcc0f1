// An op's row in a backend's table: how many operands it takes, and how they and its results are
// stored.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "runtime/operator.h"

namespace adfast {

// How an operand must be stored. features: narrow if it is a feature map, else f32; narrow: so
// whatever its rank. An index is a constant of i32; nothing else is.
enum class OperandType { any, f32, features, narrow, index };

// as_read: narrow where every reader takes it so, else f32.
enum class ResultType { f32, features, narrow, as_first, as_read, sum, product };

struct OpRules {
  const char* name;
  // `min_inputs` to `max_inputs`, and that many outputs.
  size_t min_inputs, max_inputs, outputs;
  std::vector<OperandType> operands;  // the last one repeated; none: any
  ResultType result;
  int optional = -1;            // an input below min_inputs that may be absent
  bool product = false;         // of input 0 and a constant: only many rows are narrow
  bool writes_u8 = false;       // where every reader takes it; steps in int8 do so too
  bool moves_elements = false;  // see Backend::moves_elements
};

// What a backend stores narrowly, and as what. Two of f32: nothing.
struct NarrowTypes {
  DType features = DType::f32;
  DType products = DType::f32;  // first operands of products of many rows
};

// None: as it comes.
std::optional<Storage> operand_storage(const OpRules& rules, const NarrowTypes& types, size_t input,
                                       const Shape& shape);
// `wanted`: how every reader takes the result, where they agree.
DType result_type(const OpRules& rules, const NarrowTypes& types, const Shape& shape,
                  std::span<const Tensor* const> inputs, const std::optional<Storage>& wanted);
// Throws ErrorKind::plan when operands are missing, too many, or indices where numbers belong.
void check_operands(const OpRules& rules, const OperatorRequest& request);

// An operator made of a function that binds and a few figures: most of them need no more.
class SimpleOperator final : public Operator {
 public:
  using Bind = std::function<std::function<void()>(const Binding&)>;
  SimpleOperator(std::string kernel, double flops, size_t scratch, Bind bind)
      : kernel_(std::move(kernel)), flops_(flops), scratch_(scratch), bind_(std::move(bind)) {}
  std::function<void()> bind(const Binding& binding) const override { return bind_(binding); }
  size_t scratch_bytes() const override { return scratch_; }
  double flops() const override { return flops_; }
  std::string kernel() const override { return kernel_; }

 private:
  std::string kernel_;
  double flops_;
  size_t scratch_;
  Bind bind_;
};

}  // namespace adfast
