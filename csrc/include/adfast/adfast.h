/* adfast: run an anomaly detection plan from C.
 *
 * Every function returns a status; on anything but ADFAST_OK, adfast_last_error() tells what was
 * expected, what came and what to do. Nothing is printed, nothing is thrown, the process never
 * ends.
 *
 * Threads: any number of engines may live in a process. One engine may be used from many threads:
 * calls on it take turns. Destroy an engine only when no call on it is under way.
 *
 * Sizes are pixels, strides are bytes, times are milliseconds, scores are unitless and >= 0.
 * Structs begin with their size, set by the caller to sizeof the struct: later versions may append.
 */
#ifndef ADFAST_ADFAST_H
#define ADFAST_ADFAST_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define ADFAST_API __attribute__((visibility("default")))
#else
#define ADFAST_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum adfast_status {
  ADFAST_OK = 0,
  ADFAST_ERROR_PLAN = 1,     /* the plan file is damaged, altered, too new, or cannot run here */
  ADFAST_ERROR_FRAME = 2,    /* the image has an unusable size or layout */
  ADFAST_ERROR_ARGUMENT = 3, /* an argument is out of range */
  ADFAST_ERROR_IO = 4,       /* the operating system refused */
  ADFAST_ERROR_RUN = 5       /* the computation failed, or its result is not finite */
} adfast_status;

/* GenICam PFNC codes. The values of a format span all its bits, whatever an image holds; those of
 * more than 8 bits are uint16 in the machine's byte order. */
typedef enum adfast_pixel_format {
  ADFAST_MONO8 = 0x01080001,
  ADFAST_MONO10 = 0x01100003,
  ADFAST_MONO12 = 0x01100005,
  ADFAST_MONO16 = 0x01100007,
  ADFAST_BAYER_GR8 = 0x01080008,
  ADFAST_BAYER_RG8 = 0x01080009,
  ADFAST_BAYER_GB8 = 0x0108000A,
  ADFAST_BAYER_BG8 = 0x0108000B,
  ADFAST_RGB8 = 0x02180014,
  ADFAST_BGR8 = 0x02180015
} adfast_pixel_format;

typedef struct adfast_engine adfast_engine;

typedef struct adfast_options {
  size_t struct_size;
  int32_t threads;       /* 0: every processor this process may use */
  const char* precision; /* "f32", "bf16", "f16" (devices), "int8" (CPU), or NULL: the plan's own */
  const char* tactics;   /* a file of `adfast tune`, or NULL for the engine's own estimates */
  const char* device;  /* "cpu" or NULL, "cuda", "cuda:N", or "auto": a device where there is one */
  const char* folders; /* where a device's libraries are looked for first, separated by ':' */
  const uint8_t*
      public_key; /* 32 bytes, Ed25519: only a plan signed with its private key is loaded; NULL:
                     any. Best a constant of the program, so that nobody swaps it with the plan */
} adfast_options;

/* Borrowed for the duration of a call. */
typedef struct adfast_frame {
  size_t struct_size;
  const uint8_t* data;
  int32_t width, height;
  ptrdiff_t
      row_stride; /* bytes from a row to the next; 0: rows follow each other; may be negative */
  uint32_t pixel_format;
} adfast_frame;

typedef struct adfast_result {
  size_t struct_size;
  /* Set by the caller, each may be NULL: where to write the anomaly map, row by row. */
  float* map;         /* of the frame's size: height x width floats */
  float* network_map; /* of the network's: adfast_info's map_height x map_width */
  /* Set by the engine. */
  float score;          /* raw */
  float threshold;      /* NaN when the plan is not calibrated */
  int32_t is_anomalous; /* 1, 0, or -1 when the plan is not calibrated */
  double frame_ms, network_ms, map_ms, total_ms;
} adfast_result;

typedef struct adfast_info {
  size_t struct_size;
  int32_t map_width, map_height; /* of the network's own map */
  int32_t threads;
  float threshold;
  const char* precision; /* these live as long as the engine */
  const char* isa;
  const char* model;
  const char* device; /* "cpu" or "cuda" */
} adfast_info;

/* Loads and checks a plan. `options` may be NULL. On success `*engine` is owned by the caller. */
ADFAST_API adfast_status adfast_load(const char* path, const adfast_options* options,
                                     adfast_engine** engine);

/* Frees an engine; NULL is allowed. */
ADFAST_API void adfast_destroy(adfast_engine* engine);

/* Inspects one frame. When it fails, what stands in `result` is not to be used. */
ADFAST_API adfast_status adfast_predict(adfast_engine* engine, const adfast_frame* frame,
                                        adfast_result* result);

/* Inspects `count` frames of any sizes: the same bits as one by one, in less time where the plan
 * runs in lanes or on a card. */
ADFAST_API adfast_status adfast_predict_batch(adfast_engine* engine, const adfast_frame* frames,
                                              adfast_result* results, size_t count);

ADFAST_API adfast_status adfast_get_info(const adfast_engine* engine, adfast_info* info);

/* What went wrong in this thread's last failed call; never NULL, valid until the next one. */
ADFAST_API const char* adfast_last_error(void);

/* "major.minor.patch" */
ADFAST_API const char* adfast_version(void);

#ifdef __cplusplus
}
#endif

#endif
