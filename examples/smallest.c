#include <adfast/adfast.h>
#include <stdio.h>

int main(void) {
  static uint8_t pixels[480 * 640]; /* a byte each, row by row */
  adfast_frame frame = {sizeof(adfast_frame), pixels, 640, 480, 0, ADFAST_MONO8};
  adfast_result result = {sizeof(adfast_result)};
  adfast_engine* engine = NULL;
  adfast_status status = adfast_load("part.plan", NULL, &engine);
  if (status == ADFAST_OK) status = adfast_predict(engine, &frame, &result);
  if (status == ADFAST_OK) {
    printf("%s, score %g\n", result.is_anomalous == 1 ? "anomalous" : "good", result.score);
  } else {
    fprintf(stderr, "%s\n", adfast_last_error());
  }
  adfast_destroy(engine);
  return status == ADFAST_OK ? 0 : 1;
}
