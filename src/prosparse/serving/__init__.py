# SPDX-License-Identifier: Apache-2.0
"""Serve a sparse model over HTTP, as OpenAI's clients ask for it."""
