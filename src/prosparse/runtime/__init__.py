# SPDX-License-Identifier: Apache-2.0
"""Run a sparse model: generate text."""
