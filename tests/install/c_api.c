/* The whole of adfast.h from C: c_api PLAN WIDTH HEIGHT. Prints what Python compares, a line each;
 * what must not happen ends it with 1. */
#include <adfast/adfast.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(condition)                                                                \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, adfast_last_error()); \
      exit(1);                                                                         \
    }                                                                                  \
  } while (0)

static int lines = 0;

static void count_line(adfast_severity severity, const char* line, void* user) {
  MUST(severity >= ADFAST_INFO && line[0] == '[');
  ++*(int*)user;
}

static void sum_scores(const adfast_stream_result* result, void* user) {
  MUST(result->status == ADFAST_OK && result->struct_size == sizeof(*result));
  MUST(result->error[0] == '\0' && result->map == NULL);
  *(double*)user += result->score;
}

int main(int argc, char** argv) {
  adfast_engine* engine = NULL;
  adfast_frame frame = {sizeof(adfast_frame)};
  adfast_frame frames[2];
  adfast_result result = {sizeof(adfast_result)}, results[2];
  adfast_info info = {sizeof(adfast_info)};
  adfast_counters counters = {sizeof(adfast_counters)};
  adfast_region_options rule = {sizeof(adfast_region_options)};
  adfast_region regions[4];
  adfast_stream* stream = NULL;
  adfast_stream_options options = {sizeof(adfast_stream_options)};
  adfast_stream_counters streamed = {sizeof(adfast_stream_counters)};
  adfast_stream_result* polled = NULL;
  uint8_t *pixels, *ignore;
  float *map, *network_map;
  char small[8];
  size_t needed = 0, count = 0, i, area;
  uint64_t ticket = 99;
  double total = 0, expected = 0;

  MUST(argc == 4);
  frame.width = atoi(argv[2]);
  frame.height = atoi(argv[3]);
  area = (size_t)frame.width * (size_t)frame.height;
  pixels = malloc(area);
  ignore = calloc(area, 1);
  map = malloc(area * sizeof(float));
  for (i = 0; i < area; ++i) pixels[i] = (uint8_t)(i * 7 % 251);
  frame.data = pixels;
  frame.pixel_format = ADFAST_MONO8;

  adfast_set_log(count_line, &lines, ADFAST_INFO);
  MUST(adfast_load("none.plan", NULL, &engine) == ADFAST_ERROR_IO);
  MUST(engine == NULL && strstr(adfast_last_error(), "none.plan") != NULL);
  MUST(adfast_load(argv[1], NULL, &engine) == ADFAST_OK);
  MUST(adfast_warmup(engine, 2) == ADFAST_OK);
  MUST(adfast_warmup(engine, -1) == ADFAST_ERROR_ARGUMENT);
  MUST(adfast_get_info(engine, &info) == ADFAST_OK && info.tile_width == 0);
  adfast_memory memory = {sizeof(adfast_memory)};
  MUST(adfast_get_memory(engine, 640, 480, &memory) == ADFAST_OK);
  MUST(memory.weights > 0 && memory.loading > memory.weights && memory.running > memory.frame);
  MUST(adfast_get_memory(engine, 0, 480, &memory) == ADFAST_ERROR_ARGUMENT);
  network_map = malloc(sizeof(float) * (size_t)info.map_width * (size_t)info.map_height);

  /* One frame, its maps and regions. */
  result.map = map;
  result.network_map = network_map;
  MUST(adfast_predict(engine, &frame, &result) == ADFAST_OK);
  printf("score %.9g %d\n", result.score, result.is_anomalous);
  printf("inspected %d %d %d %d\n", result.inspected.x, result.inspected.y, result.inspected.width,
         result.inspected.height);
  rule.threshold = result.score * 0.5f;
  rule.min_area = 2;
  MUST(adfast_find_regions(map, frame.width, frame.height, &rule, regions, 4, &count) == ADFAST_OK);
  for (i = 0; i < count && i < 4; ++i) {
    printf("region %d %d %d %d %lld %.9g %.6g %d %d\n", regions[i].box.x, regions[i].box.y,
           regions[i].box.width, regions[i].box.height, (long long)regions[i].area, regions[i].peak,
           regions[i].mean, regions[i].peak_x, regions[i].peak_y);
  }

  /* A part of it, some of it ignored, of a mosaic, in a batch. */
  frames[0] = frames[1] = frame;
  memset(results, 0, sizeof(results));
  results[0].struct_size = results[1].struct_size = sizeof(adfast_result);
  frames[0].roi.x = 3;
  frames[0].roi.y = 2;
  frames[0].roi.width = frame.width - 5;
  frames[0].roi.height = frame.height - 4;
  frames[1].pixel_format = ADFAST_BAYER_RG8;
  for (i = 0; i < area / 2; ++i) ignore[i] = 1;
  frames[1].ignore = ignore;
  MUST(adfast_predict_batch(engine, frames, results, 2) == ADFAST_OK);
  printf("batch %.9g %.9g\n", results[0].score, results[1].score);

  /* What is wrong is told. */
  frames[0].roi.x = -1;
  MUST(adfast_predict(engine, frames, results) == ADFAST_ERROR_FRAME);
  frames[1].ignore_stride = 1;
  MUST(adfast_predict(engine, frames + 1, results) == ADFAST_ERROR_FRAME);
  frame.pixel_format = 17;
  MUST(adfast_predict(engine, &frame, results) == ADFAST_ERROR_FRAME);
  frame.pixel_format = ADFAST_MONO8;
  frame.row_stride = 1;
  MUST(adfast_predict(engine, &frame, results) == ADFAST_ERROR_FRAME);
  frame.row_stride = 0;
  results[0].struct_size = 8;
  MUST(adfast_predict(engine, &frame, results) == ADFAST_ERROR_ARGUMENT);
  MUST(adfast_predict(NULL, &frame, &result) == ADFAST_ERROR_ARGUMENT);

  /* A stream that is polled, and one with a callback. */
  options.capacity = 2;
  options.policy = ADFAST_REJECT;
  options.with_map = 1;
  MUST(adfast_stream_open(engine, &options, &stream) == ADFAST_OK);
  MUST(adfast_stream_poll(stream, 0, &polled) == ADFAST_TIMEOUT && polled == NULL);
  MUST(adfast_stream_submit(stream, &frame, 7, -5, &ticket) == ADFAST_OK && ticket == 0);
  MUST(adfast_stream_poll(stream, -1, &polled) == ADFAST_OK);
  MUST(polled->id == 7 && polled->timestamp == -5 && polled->score == result.score);
  MUST(memcmp(polled->map, map, area * sizeof(float)) == 0);
  adfast_stream_release(polled);
  MUST(adfast_stream_close(stream, 1) == ADFAST_OK);
  MUST(adfast_stream_submit(stream, &frame, 0, 0, NULL) == ADFAST_ERROR_CLOSED);
  MUST(adfast_stream_poll(stream, -1, &polled) == ADFAST_ERROR_CLOSED);
  adfast_stream_destroy(stream);
  options.policy = ADFAST_BLOCK;
  options.with_map = 0;
  options.callback = sum_scores;
  options.user = &total;
  MUST(adfast_stream_open(engine, &options, &stream) == ADFAST_OK);
  for (i = 0; i < 10; ++i) {
    MUST(adfast_stream_submit(stream, &frame, i, 0, NULL) == ADFAST_OK);
    expected += result.score;
  }
  MUST(adfast_stream_close(stream, 1) == ADFAST_OK);
  MUST(total == expected);
  MUST(adfast_stream_get_counters(stream, &streamed) == ADFAST_OK && streamed.completed == 10);
  adfast_stream_destroy(stream);
  options.policy = 9;
  MUST(adfast_stream_open(engine, &options, &stream) == ADFAST_ERROR_ARGUMENT && stream == NULL);

  /* Counters: one frame, two of a batch, eleven of streams. */
  MUST(adfast_get_counters(engine, &counters) == ADFAST_OK);
  MUST(counters.frames == 14 && counters.p99_ms > 0 && isnan(counters.drift_distance));
  MUST(adfast_metrics_text(engine, NULL, small, sizeof(small), &needed) == ADFAST_OK);
  MUST(needed > 1000 && strcmp(small, "# HELP ") == 0);
  MUST(lines > 4);
  adfast_set_log(NULL, NULL, ADFAST_INFO);

  adfast_destroy(engine);
  adfast_destroy(NULL);
  adfast_stream_destroy(NULL);
  adfast_stream_release(NULL);
  free(pixels);
  free(ignore);
  free(map);
  free(network_map);
  return 0;
}
