// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "simd_avx2.h"
#include "steps.h"
#include "attention.h"

namespace prosparse {

extern const Variant VARIANT_AVX2;
const Variant VARIANT_AVX2 = {
    "avx2", gate_chunk, project_chunk, up_unit, down_tile, read, split_x, normalize, rotate, attend};

} // namespace prosparse
