# SPDX-License-Identifier: Apache-2.0
"""Forward passes in, numbers out: activation sparsity and perplexity."""
