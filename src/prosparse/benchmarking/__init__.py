# SPDX-License-Identifier: Apache-2.0
"""How fast the sparse operators and the sparse decode are here, against dense and the hardware."""
