# SPDX-License-Identifier: Apache-2.0
"""The operators on a CPU: C++ for AVX-512, AVX2, NEON and everything else, loaded with ctypes."""
