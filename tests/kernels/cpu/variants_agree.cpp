// SPDX-License-Identifier: Apache-2.0
// A program that runs every variant of the kernels on small whole numbers and compares the bits with
// those of the portable one; for instruction sets that only an emulator runs here. Exits with 1 if any
// differ, with 2 if there is nothing to compare.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "job.h"

using prosparse::Job;
using prosparse::Matrix;

extern "C" int32_t prosparse_run(const Job*);
extern "C" int32_t prosparse_use_variant(const char*);

namespace {

std::mt19937 generator(1);

int whole_number(int largest) { return static_cast<int>(generator() % (2u * largest + 1)) - largest; }

// Small whole numbers have the same upper half in float32 as in bfloat16.
uint16_t bfloat16_of(int value) {
  const auto as_float = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &as_float, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

uint16_t float16_of(int value) { // of -2 to 2
  const uint16_t magnitudes[] = {0x0000, 0x3c00, 0x4000};
  return static_cast<uint16_t>(magnitudes[value < 0 ? -value : value] | (value < 0 ? 0x8000 : 0));
}

std::vector<uint8_t> numbers(int32_t kind, int64_t count, int largest) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count) * 4);
  for (int64_t i = 0; i < count; ++i) {
    const int value = whole_number(largest);
    const auto as_float = static_cast<float>(value);
    const uint16_t half = kind == prosparse::BFLOAT16 ? bfloat16_of(value) : float16_of(value);
    switch (kind) {
      case prosparse::FLOAT32: std::memcpy(&bytes[i * 4], &as_float, 4); break;
      case prosparse::BFLOAT16:
      case prosparse::FLOAT16: std::memcpy(&bytes[i * 2], &half, 2); break;
      case prosparse::INT8: bytes[i] = static_cast<uint8_t>(value); break;
      default: bytes[i / 2] = static_cast<uint8_t>(generator()); // any byte is two values
    }
  }
  return bytes;
}

bool agrees(const char* variant, int32_t kind, int32_t weights, int64_t T, int64_t D, int64_t F) {
  const auto x = numbers(kind, T * D, 2);
  std::vector<uint16_t> scales(static_cast<size_t>(F * D / 32 + 1), 0x3c00); // 1.0
  std::vector<uint8_t> stored[3];
  Matrix matrices[3];
  for (int i = 0; i < 3; ++i) {
    stored[i] = numbers(weights, F * D, 2);
    matrices[i] = {stored[i].data(), scales.data(), 32, weights};
  }
  std::vector<uint8_t> found[2];
  for (int i = 0; i < 2; ++i) {
    if (prosparse_use_variant(i ? variant : "portable")) return false;
    found[i].assign(static_cast<size_t>(T * D) * 4, 0xff);
    Job job{};
    job.tokens = T, job.d_model = D, job.d_ff = F, job.kind = kind, job.num_threads = 2;
    job.x = x.data(), job.y = found[i].data(), job.threshold = 1.0f;
    job.gate = matrices[0], job.up = matrices[1], job.down = matrices[2];
    if (prosparse_run(&job)) return false;
  }
  return found[0] == found[1];
}

} // namespace

int main() {
  int num_compared = 0;
  for (const char* variant : {"avx2", "avx512", "avx512vnni", "neon"}) {
    if (prosparse_use_variant(variant)) continue;
    for (int32_t kind = 0; kind < 3; ++kind) {
      for (const int32_t weights : {kind, int32_t{prosparse::INT8}, int32_t{prosparse::INT4}}) {
        for (int64_t T = 1; T <= 16; T += T < 5 ? 1 : 11) {
          for (const int64_t D : {1, 32, 61, 160}) {
            if (weights > 2 && D % 32) continue;
            ++num_compared;
            if (agrees(variant, kind, weights, T, D, 37)) continue;
            std::printf("%s differs: kind %d, weights %d, T %d, D %d\n", variant, kind, weights,
                        static_cast<int>(T), static_cast<int>(D));
            return 1;
          }
        }
      }
    }
  }
  std::printf("%d equal\n", num_compared);
  return num_compared ? 0 : 2;
}
