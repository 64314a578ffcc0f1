// One engine from many threads, batches beside single frames, wrong frames in between; for plans
// of one and of two lanes. What the sanitizers watch: engine_test PLAN... [--threads N].
#include "runtime/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/error.h"

using namespace adfast;

namespace {

struct Picture {
  int64_t height, width;
  std::vector<uint8_t> pixels;

  Picture(int64_t height, int64_t width, unsigned seed)
      : height(height), width(width), pixels(static_cast<size_t>(height * width * 3)) {
    for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>((seed = seed * 1664525u + 7) >> 24);
  }
  FrameView view() const { return {pixels.data(), rgb8, height, width, width * 3, 3, 1}; }
};

struct Answer {
  float score = 0;
  std::vector<float> map;
  bool operator==(const Answer&) const = default;
};

Job job_for(const Picture& picture, Answer& answer) {
  answer.map.assign(static_cast<size_t>(picture.height * picture.width), -1);
  Job job;
  job.frame = picture.view();
  job.map = answer.map.data();
  return job;
}

Answer predicted(Engine& engine, const Picture& picture) {
  Answer answer;
  Job job = job_for(picture, answer);
  engine.predict(job);
  answer.score = job.score;
  return answer;
}

std::vector<Answer> predicted_together(Engine& engine, const std::vector<Picture>& pictures) {
  std::vector<Answer> answers(pictures.size());
  std::vector<Job> jobs;
  for (size_t i = 0; i < pictures.size(); ++i) jobs.push_back(job_for(pictures[i], answers[i]));
  engine.predict_batch(jobs);
  for (size_t i = 0; i < jobs.size(); ++i) answers[i].score = jobs[i].score;
  return answers;
}

void refuses(Engine& engine, FrameView frame, const char* what) {
  Job job;
  job.frame = frame;
  try {
    engine.predict(job);
    CHECK(false, "%s was taken", what);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::frame, "%s: %s", what, error.what());
  }
}

void refuses_wrong_frames(Engine& engine, const Picture& picture) {
  FrameView frame = picture.view();
  frame.data = nullptr;
  refuses(engine, frame, "a null frame");
  frame = picture.view();
  frame.height = 0;
  refuses(engine, frame, "a frame without rows");
  frame = picture.view();
  frame.width = max_frame_side + 1;
  refuses(engine, frame, "a frame too wide");
}

void check_plan(const char* path, int threads) {
  std::vector<Picture> pictures;
  for (unsigned i = 0; i < 5; ++i) pictures.emplace_back(20 + 9 * i, 50 - 7 * i, i + 1);
  pictures.emplace_back(1, 1, 8u);
  pictures.emplace_back(370, 370, 9u);  // large enough for a map written by several threads
  const Plan plan = Plan::open(path);
  for (const char* precision : {"f32", "bf16"}) {
    const auto engine =
        std::make_unique<Engine>(plan, EngineOptions{.threads = threads, .precision = precision});
    const auto alone =
        std::make_unique<Engine>(plan, EngineOptions{.threads = 1, .precision = precision});
    const auto side_by_side = std::make_unique<Engine>(
        plan, EngineOptions{.threads = threads, .frames_at_once = threads, .precision = precision});
    const bool branches = std::strstr(path, "chain") == nullptr;
    int last = 0;
    for (const auto& step : engine->profile(pictures[0].view())) last = std::max(last, step.lane);
    CHECK(last == (branches && threads > 1 ? 1 : 0), "%s: the last lane is %d", path, last);
    std::vector<Answer> expected;
    for (const Picture& picture : pictures) expected.push_back(predicted(*alone, picture));
    for (const Answer& answer : expected) {
      CHECK(std::isfinite(answer.score) && answer.score > 0, "%s: score %g", path, answer.score);
    }

    CHECK(predicted_together(*side_by_side, pictures) == expected, "%s: frames side by side", path);
    CHECK(predicted(*side_by_side, pictures[1]) == expected[1], "%s: one of them alone", path);

    // Whatever several threads ask of one engine at a time, the answers are those of one thread.
    std::vector<std::atomic<int>> wrong(4);
    const auto work = [&](int index) {
      for (int round = 0; round < 2; ++round) {
        if (index == 3) {
          wrong[index] += predicted_together(*engine, pictures) != expected;
          refuses_wrong_frames(*engine, pictures[0]);
          continue;
        }
        for (size_t i = 0; i < pictures.size(); ++i) {
          const size_t turn = (i + static_cast<size_t>(index)) % pictures.size();
          wrong[index] += predicted(*engine, pictures[turn]) != expected[turn];
        }
        if (index == 2) wrong[index] += engine->profile(pictures[0].view()).empty();
      }
    };
    std::vector<std::thread> callers;
    for (int index = 0; index < 4; ++index) callers.emplace_back(work, index);
    for (std::thread& caller : callers) caller.join();
    for (int index = 0; index < 4; ++index) {
      CHECK(wrong[index] == 0, "%s, %s, caller %d: %d", path, precision, index,
            wrong[index].load());
    }

    // One bad frame refuses the batch, and the engine lives.
    std::vector<Answer> answers(2);
    std::vector<Job> jobs = {job_for(pictures[0], answers[0]), job_for(pictures[1], answers[1])};
    jobs[1].frame.height = -1;
    try {
      engine->predict_batch(jobs);
      CHECK(false, "a batch with a bad frame was taken");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::frame, "%s", error.what());
    }
    CHECK(predicted(*engine, pictures[0]) == expected[0], "after a bad batch");
  }
}

}  // namespace

int main(int argc, char** argv) {
  int threads = 2, plans = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc) threads = std::stoi(argv[++i]);
  }
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--threads") == 0) {
      ++i;
      continue;
    }
    check_plan(argv[i], threads);
    ++plans;
  }
  CHECK(plans > 0, "no plans were given");
  return report("engine");
}
