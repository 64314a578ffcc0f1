// A plugin of another version of adfast: the engine must not call into it.
#include <cstdlib>

#include "runtime/device_abi.h"

extern "C" __attribute__((visibility("default"))) const adfast_device_table* adfast_device(void) {
  static adfast_device_table table{};
  table.abi = ADFAST_DEVICE_ABI + 1;
  table.count = [](adfast_device_error*) -> int32_t { std::abort(); };
  return &table;
}
