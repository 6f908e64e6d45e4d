# SPDX-License-Identifier: Apache-2.0
"""What vLLM learns when prosparse is installed beside it; only vLLM imports this."""
