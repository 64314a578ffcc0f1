/* The same in C: inspect PLAN FRAME.raw WIDTH HEIGHT */
#include <adfast/adfast.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  adfast_engine* engine = NULL;
  adfast_frame frame = {sizeof(adfast_frame)};
  adfast_result result = {sizeof(adfast_result)};
  adfast_status status;
  uint8_t* pixels;
  FILE* file;
  size_t size;

  if (argc != 5) {
    fprintf(stderr, "usage: inspect PLAN FRAME.raw WIDTH HEIGHT (8-bit grey)\n");
    return 2;
  }
  frame.width = atoi(argv[3]);
  frame.height = atoi(argv[4]);
  frame.pixel_format = ADFAST_MONO8;
  size = (size_t)frame.width * (size_t)frame.height;
  pixels = malloc(size + 1);
  file = fopen(argv[2], "rb");
  if (pixels == NULL || file == NULL || fread(pixels, 1, size + 1, file) != size) {
    fprintf(stderr, "%s: expected %lu bytes\n", argv[2], (unsigned long)size);
    return 1;
  }
  fclose(file);
  frame.data = pixels;

  status = adfast_load(argv[1], NULL, &engine);
  if (status == ADFAST_OK) status = adfast_predict(engine, &frame, &result);
  if (status == ADFAST_OK) {
    printf("score %.9g threshold %.9g %s\n", result.score, result.threshold,
           result.is_anomalous == 1 ? "anomalous" : "good");
  } else {
    fprintf(stderr, "%s\n", adfast_last_error());
  }
  adfast_destroy(engine);
  free(pixels);
  return status == ADFAST_OK ? 0 : 1;
}
