# SPDX-License-Identifier: Apache-2.0
"""Step 3: shift the activation threshold as far as a quality budget allows."""
