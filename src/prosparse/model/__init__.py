# SPDX-License-Identifier: Apache-2.0
"""Find the FFN in any Hugging Face model, change its activation, look at its intermediate."""
