# SPDX-License-Identifier: Apache-2.0
"""Laws of activation sparsity, fitted to finished runs: what they say about the next one."""
