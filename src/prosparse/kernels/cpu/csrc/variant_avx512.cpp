// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "simd_avx512.h"
#include "steps.h"
#include "attention.h"

namespace prosparse {

extern const Variant VARIANT_AVX512;
const Variant VARIANT_AVX512 = {
    "avx512", gate_chunk, project_chunk, up_unit, down_tile, read, split_x, normalize, rotate, attend};

} // namespace prosparse
