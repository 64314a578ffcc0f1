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
  ADFAST_ERROR_RUN = 5,      /* the computation failed, or its result is not finite */
  ADFAST_ERROR_FULL = 6,     /* a stream's queue has no room */
  ADFAST_ERROR_CLOSED = 7,   /* a stream takes no more, or gives no more */
  ADFAST_TIMEOUT = 8         /* nothing happened in the time given; not an error */
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
  int32_t threads;        /* 0: every processor this process may use */
  int32_t frames_at_once; /* on the CPU, how many frames of a batch or a stream, or tiles of a
                             frame, are in work at once, each with its share of the threads, 1 to
                             their number; 0: one for each branch of the network. More raise
                             throughput, and the time of a single frame */
  const char* precision;  /* "f32", "bf16", "f16" (devices), "int8" (CPU, or of the plan's TensorRT
                             engine), or NULL: the plan's own */
  const char* tactics;    /* a file of `adfast tune`, or NULL for the engine's own estimates */
  const char* device;  /* "cpu" or NULL; "cuda", "cuda:N"; "tensorrt", "tensorrt:N": the engine that
                          is in the plan; or "auto": the plan's engine where it fits, else a device
                          where there is one, else the CPU */
  const char* folders; /* where a device's libraries are looked for first, separated by ':' */
  const uint8_t*
      public_key; /* 32 bytes, Ed25519: only a plan signed with its private key is loaded; NULL:
                     any. Best a constant of the program, so that nobody swaps it with the plan */
} adfast_options;

typedef struct adfast_rectangle {
  int32_t x, y, width, height;
} adfast_rectangle;

/* Borrowed for the duration of a call. */
typedef struct adfast_frame {
  size_t struct_size;
  const void* data;
  int32_t width, height;
  /* Bytes from a row to the next; 0: rows follow each other; may be negative. */
  ptrdiff_t row_stride;
  uint32_t pixel_format; /* of adfast_pixel_format */
  /* What is inspected as if it were the whole frame; all 0: the frame. */
  adfast_rectangle roi;
  /* What does not count: width x height bytes, other than 0 where map and score leave the frame
   * out; NULL: everything counts. The network still sees these pixels. */
  const uint8_t* ignore;
  ptrdiff_t ignore_stride; /* as row_stride */
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
  adfast_rectangle
      inspected; /* the part of the frame that the network saw; elsewhere the map is 0 */
} adfast_result;

/* A connected part of a map; pixels that touch at a corner are connected. */
typedef struct adfast_region {
  adfast_rectangle box;
  int64_t area;     /* pixels above the threshold */
  float peak, mean; /* of the map there */
  int32_t peak_x, peak_y;
} adfast_region;

typedef struct adfast_region_options {
  size_t struct_size;
  float threshold;         /* a pixel belongs to a region where the map is above */
  const float* thresholds; /* each pixel's own instead: width x height, or NULL */
  float min_peak;          /* regions that are nowhere above are dropped; 0: none */
  int64_t min_area;        /* regions of fewer pixels are dropped; 0: none */
} adfast_region_options;

typedef struct adfast_info {
  size_t struct_size;
  int32_t map_width, map_height; /* of the network's own map */
  int32_t threads;
  float threshold;
  const char* precision; /* these live as long as the engine */
  const char* isa;
  const char* model;
  const char* device;              /* "cpu", "cuda" or "tensorrt" */
  int32_t tile_width, tile_height; /* 0: frames are inspected whole */
  int32_t tile_overlap;
} adfast_info;

/* Loads and checks a plan. `options` may be NULL. On success `*engine` is owned by the caller. */
ADFAST_API adfast_status adfast_load(const char* path, const adfast_options* options,
                                     adfast_engine** engine);

/* Frees an engine; NULL is allowed. */
ADFAST_API void adfast_destroy(adfast_engine* engine);

/* Inspects one frame. A plan made of tiles inspects a frame larger than a tile in parts, and then
 * has no network_map. When it fails, what stands in `result` is not to be used. */
ADFAST_API adfast_status adfast_predict(adfast_engine* engine, const adfast_frame* frame,
                                        adfast_result* result);

/* Inspects `count` frames of any sizes: the same bits as one by one, in less time where the plan
 * runs in lanes or on a card. */
ADFAST_API adfast_status adfast_predict_batch(adfast_engine* engine, const adfast_frame* frames,
                                              adfast_result* results, size_t count);

/* Finds the regions of a map (of any size, of adfast_predict's row order) that are above a
 * threshold, the highest peak first. Writes at most `capacity` of them; `*count` is how many there
 * are. May be called from any thread; needs no engine. */
ADFAST_API adfast_status adfast_find_regions(const float* map, int32_t width, int32_t height,
                                             const adfast_region_options* options,
                                             adfast_region* regions, size_t capacity,
                                             size_t* count);

/* Runs `count` grey frames, so that the first real one is not slow. */
ADFAST_API adfast_status adfast_warmup(adfast_engine* engine, int32_t count);

ADFAST_API adfast_status adfast_get_info(const adfast_engine* engine, adfast_info* info);

/* Bytes that an engine on the CPU adds to the resident memory of its process; 0 on a card. */
typedef struct adfast_memory {
  size_t struct_size;
  uint64_t weights; /* packed */
  uint64_t frame;   /* what a frame in work holds, without the maps */
  uint64_t loading; /* at most, while it is loaded */
  uint64_t running; /* at most, from then on, a frame at a time with one map of its size */
} adfast_memory;

/* Of frames of this size. Each further frame of a batch that runs in lanes adds `frame`. */
ADFAST_API adfast_status adfast_get_memory(const adfast_engine* engine, int32_t width,
                                           int32_t height, adfast_memory* memory);

/* What went wrong in this thread's last failed call; never NULL, valid until the next one. */
ADFAST_API const char* adfast_last_error(void);

/* "major.minor.patch" */
ADFAST_API const char* adfast_version(void);

/* ---- Counters ---- */

/* Of one engine since it was loaded. Frames of adfast_warmup do not count. */
typedef struct adfast_counters {
  size_t struct_size;
  uint64_t frames, anomalous, failures;
  /* Milliseconds of a frame in the engine; quantiles are within a tenth. */
  double mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms;
  /* The last 256 scores not above the threshold against those of calibration: the distance of
   * Kolmogorov and Smirnov, and what of it raises the alarm (an unchanged line does at one look of
   * a thousand). NaN: the plan has no scores to compare with, or there are fewer than 32 yet. */
  double drift_distance, drift_limit;
  int32_t drift_alarm; /* 1 or 0 */
} adfast_counters;

ADFAST_API adfast_status adfast_get_counters(const adfast_engine* engine,
                                             adfast_counters* counters);

/* ---- Streams ---- */

/* Frames that come at their own pace: a bounded queue, a thread that works, results in order. All
 * functions may be called from any thread; several may submit, several may poll. A stream keeps its
 * engine alive. */
typedef struct adfast_stream adfast_stream;

/* What becomes of a frame that comes when the queue is full. */
typedef enum adfast_policy {
  ADFAST_BLOCK = 0,       /* adfast_stream_submit waits for room */
  ADFAST_DROP_OLDEST = 1, /* the frame that waited longest makes room */
  ADFAST_DROP_NEWEST = 2, /* it is dropped itself */
  ADFAST_REJECT = 3       /* adfast_stream_submit fails with ADFAST_ERROR_FULL */
} adfast_policy;

typedef struct adfast_stream_result {
  size_t struct_size; /* of the library's version */
  uint64_t ticket;    /* of adfast_stream_submit; results come in this order */
  uint64_t id;        /* given to adfast_stream_submit, as is timestamp */
  int64_t timestamp;
  uint64_t dropped_before; /* frames between the last result and this one that gave none */
  adfast_status status;    /* what adfast_predict would have returned; else only `error` is valid */
  const char* error;       /* "" where there is none */
  float score, threshold;
  int32_t is_anomalous;  /* as in adfast_result */
  int32_t width, height; /* of the frame */
  const float* map;      /* height x width, or NULL if not asked for */
  adfast_rectangle inspected;
  double queue_ms, total_ms; /* from submitting to the beginning of work, and to its end */
  double frame_ms, network_ms, map_ms;
} adfast_stream_result;

/* Called by the stream's thread, one result after the other; the result is valid until it returns.
 * May submit; must not close the stream, nor throw. */
typedef void (*adfast_result_callback)(const adfast_stream_result* result, void* user);

typedef struct adfast_stream_options {
  size_t struct_size;
  int32_t capacity;   /* frames that wait at most, and results that wait to be polled: 1 to 4096 */
  int32_t policy;     /* of adfast_policy */
  double deadline_ms; /* frames that waited longer are dropped; 0: none are */
  int32_t with_map;   /* 1: results have maps */
  adfast_result_callback callback; /* NULL: results wait for adfast_stream_poll */
  void* user;                      /* for the callback */
} adfast_stream_options;

/* Every frame that was submitted is in exactly one of the counters up to `working`. */
typedef struct adfast_stream_counters {
  size_t struct_size;
  uint64_t submitted;
  uint64_t completed, failed; /* with a result */
  uint64_t dropped_oldest, dropped_newest, rejected;
  uint64_t expired;   /* the deadline passed */
  uint64_t discarded; /* by closing without draining */
  uint64_t queued, working;
  uint64_t waiting; /* results to be polled */
  uint64_t callback_errors;
  double p50_ms, p90_ms, p99_ms, max_ms; /* from submitting to the result */
} adfast_stream_counters;

/* Opens a stream. On success `*stream` is owned by the caller. */
ADFAST_API adfast_status adfast_stream_open(adfast_engine* engine,
                                            const adfast_stream_options* options,
                                            adfast_stream** stream);

/* Copies the frame, its mask included, and queues it: a camera's buffer may be given back at once.
 * `id` and `timestamp` come back with the result; `ticket`, which may be NULL, receives the frame's
 * number. A frame that adfast_predict would refuse is refused here. */
ADFAST_API adfast_status adfast_stream_submit(adfast_stream* stream, const adfast_frame* frame,
                                              uint64_t id, int64_t timestamp, uint64_t* ticket);

/* Waits up to `timeout_ms` (negative: as long as it takes) for the next result. On ADFAST_OK
 * `*result` is owned by the caller, who gives it to adfast_stream_release; ADFAST_TIMEOUT where
 * there is none yet, ADFAST_ERROR_CLOSED where there will be none any more. */
ADFAST_API adfast_status adfast_stream_poll(adfast_stream* stream, double timeout_ms,
                                            adfast_stream_result** result);
ADFAST_API void adfast_stream_release(adfast_stream_result* result); /* NULL is allowed */

/* Takes no more frames; works off those that wait (drain 1) or discards them (0), and returns when
 * that is done. Whoever waits in submit gets ADFAST_ERROR_CLOSED; results can still be polled. */
ADFAST_API adfast_status adfast_stream_close(adfast_stream* stream, int32_t drain);

/* Closes without draining, and frees. No other call on the stream may be under way. */
ADFAST_API void adfast_stream_destroy(adfast_stream* stream); /* NULL is allowed */

ADFAST_API adfast_status adfast_stream_get_counters(const adfast_stream* stream,
                                                    adfast_stream_counters* counters);

/* ---- Observing ---- */

/* All counters as a page in Prometheus' text format. `stream` may be NULL. Writes at most
 * `capacity` bytes with the 0 at the end; `*needed`, which may be NULL, is how many it takes. */
ADFAST_API adfast_status adfast_metrics_text(const adfast_engine* engine,
                                             const adfast_stream* stream, char* text,
                                             size_t capacity, size_t* needed);

typedef enum adfast_severity {
  ADFAST_DEBUG = 0,
  ADFAST_INFO = 1,    /* loaded, opened, closed */
  ADFAST_WARNING = 2, /* runs on the CPU, frames dropped (a line a second), scores drift */
  ADFAST_ERROR = 3    /* a frame failed */
} adfast_severity;

typedef void (*adfast_log_callback)(adfast_severity severity, const char* line, void* user);

/* Who hears of what happens, in the whole process; NULL: no one. Called by any thread, one line at
 * a time. The library prints nothing itself. */
ADFAST_API void adfast_set_log(adfast_log_callback callback, void* user, adfast_severity least);

#ifdef __cplusplus
}
#endif

#endif
