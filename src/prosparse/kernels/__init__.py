# SPDX-License-Identifier: Apache-2.0
"""The exact sparse FFN at decode: operators on tensors, which know no model."""
