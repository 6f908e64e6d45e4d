# SPDX-License-Identifier: Apache-2.0
"""Token streams: documents are tokenized once, and the stream is a function of the sample index."""
