// A card has an order of its own.
#include "testing.h"

void set_thread_order(bool) {}
