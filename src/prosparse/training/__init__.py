# SPDX-License-Identifier: Apache-2.0
"""Step 2: continue training under a progressive sparsity penalty."""
