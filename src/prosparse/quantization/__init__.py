# SPDX-License-Identifier: Apache-2.0
"""8 and 4 bits beside sparsity: which layers bear them, decided by loss, and the checkpoint."""
