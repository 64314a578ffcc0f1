// Runs the threads of a grid.
#pragma once
#include <functional>

#include "cuda_runtime.h"

constexpr size_t kLargestShared = 99 * 1024;  // of the smallest card that is compiled for

// Runs every block of the grid, one after the other; false (and a line on stderr) if threads wait
// for each other in vain or shared memory was overrun.
bool emulated_run(const cudaLaunchConfig_t& config, const std::function<void()>& thread);
