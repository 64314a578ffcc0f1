#include "testing.h"

void set_thread_order(bool backward) {
  emulated_set_order(backward ? EmulatedOrder::backward : EmulatedOrder::forward);
}
