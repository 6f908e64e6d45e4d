# SPDX-License-Identifier: Apache-2.0
"""The CUDA C++ backend: sources of `csrc/`, compiled for the shape at hand when it is first met."""
