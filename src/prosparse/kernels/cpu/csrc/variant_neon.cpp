// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "simd_neon.h"
#include "steps.h"
#include "attention.h"

namespace prosparse {

extern const Variant VARIANT_NEON;
const Variant VARIANT_NEON = {
    "neon", gate_chunk, project_chunk, up_unit, down_tile, read, split_x, normalize, rotate, attend};

} // namespace prosparse
