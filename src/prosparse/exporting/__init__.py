# SPDX-License-Identifier: Apache-2.0
"""Files that other engines run: PowerInfer's GGUF, and plain GGUF."""
