/* Between the engine and a device's plugin: a table of C functions, found by one exported name.
 *
 * A plugin is a shared library of its own, so that the engine needs nothing of a vendor's. It gets
 * the plan's graph and weights as the file holds them and the frames as they come, and gives scores
 * and maps back. Functions return 0, or another number with `error` filled in; they throw nothing.
 * A session is used by one thread at a time. Whoever changes this file raises ADFAST_DEVICE_ABI:
 * the engine refuses a plugin of another number.
 */
#ifndef ADFAST_RUNTIME_DEVICE_ABI_H
#define ADFAST_RUNTIME_DEVICE_ABI_H

#include <stddef.h>
#include <stdint.h>

#define ADFAST_DEVICE_ABI 4
#define ADFAST_DEVICE_SYMBOL "adfast_device"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct adfast_device_error {
  int32_t kind; /* of adfast::ErrorKind */
  char message[2000];
} adfast_device_error;

/* Borrowed for the call. */
typedef struct adfast_device_plan {
  const void* graph;
  size_t graph_bytes;
  const void* weights;
  size_t weights_bytes;
  /* An engine of TensorRT, and what it was made for; null: the plan has none. */
  const void* engine;
  size_t engine_bytes;
  const char *engine_version, *engine_capability, *engine_precision;
  int32_t engine_plugins; /* 1: it has plugins of libadfast_trt.so */
} adfast_device_plan;

/* Who runs the network. */
enum { ADFAST_RUNNER_ANY = 0, ADFAST_RUNNER_KERNELS = 1, ADFAST_RUNNER_TENSORRT = 2 };

typedef struct adfast_device_options {
  /* "f32", "bf16", "f16", of an engine "int8"; "" is the plan's own, or the engine's. */
  const char* precision;
  const char* plan_precision; /* "f32", "bf16" or "f16", for "" */
  const char* folders;        /* where vendor libraries are looked for first, separated by ':' */
  int32_t device;             /* number among the devices */
  int32_t runner;             /* ADFAST_RUNNER_... */
} adfast_device_options;

typedef struct adfast_device_info {
  char device[16]; /* "cuda", or "tensorrt" */
  char processor[256];
  char precision[8];
  char note[2000];       /* why the plan's engine is not used; "" where it is, or there is none */
  uint64_t frame_memory; /* bytes held on the device for a frame in work */
  int32_t lanes;         /* branches that run side by side */
  int64_t map_height, map_width;
} adfast_device_info;

/* As adfast::FrameView. */
typedef struct adfast_device_frame {
  const uint8_t* data;
  int64_t height, width;
  int64_t row_stride, pixel_stride, channel_stride;
  uint32_t pixel_format; /* its PFNC code */
  int32_t on_device;
  uint64_t stream;
} adfast_device_frame;

typedef struct adfast_device_job {
  adfast_device_frame frame;
  float* map;         /* [frame.height][frame.width], or null */
  float* network_map; /* [map_height][map_width], or null */
  float score;
  double frame_ms, network_ms, map_ms; /* by the device's clock */
  double total_ms;                     /* from its begin to its end, by the host's */
} adfast_device_job;

typedef struct adfast_device_step {
  const char *op, *name, *kernel;
  int32_t index, lane;
  double milliseconds, begin_ms, gflop, bytes;
} adfast_device_step;

/* Row-major, rank 4 as NCHW. */
typedef struct adfast_device_tensor {
  const char* name;
  const int64_t* shape;
  int32_t rank;
  const float* values;
} adfast_device_tensor;

typedef struct adfast_device_table {
  uint32_t abi;
  const char* name; /* "cuda" */
  /* How many devices this machine has; negative with `error` filled in when it cannot be told. */
  int32_t (*count)(adfast_device_error* error);
  int32_t (*create)(const adfast_device_plan*, const adfast_device_options*, void** session,
                    adfast_device_error* error);
  void (*destroy)(void* session);
  int32_t (*describe)(void* session, adfast_device_info* info);
  /* Several frames may be in work at once; all are finished when it returns. */
  int32_t (*predict)(void* session, adfast_device_job* jobs, size_t count,
                     adfast_device_error* error);
  /* Runs the frame step by step; `step` is called once for each in running order. */
  int32_t (*profile)(void* session, const adfast_device_frame* frame,
                     void (*step)(void* context, const adfast_device_step*), void* context,
                     adfast_device_error* error);
  /* Runs a graph once on plain tensors, to test ops; `output` is called once for each output. */
  int32_t (*run_graph)(const adfast_device_plan*, const adfast_device_options*,
                       const adfast_device_tensor* inputs, int32_t count,
                       void (*output)(void* context, const adfast_device_tensor*), void* context,
                       adfast_device_error* error);
} adfast_device_table;

/* What a plugin exports under ADFAST_DEVICE_SYMBOL. */
typedef const adfast_device_table* (*adfast_device_function)(void);

#ifdef __cplusplus
}
#endif

#endif
