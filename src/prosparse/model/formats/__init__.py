# SPDX-License-Identifier: Apache-2.0
"""Formats in which others publish sparse models, and what each is in today's transformers."""
