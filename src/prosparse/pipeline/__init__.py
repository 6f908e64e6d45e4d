# SPDX-License-Identifier: Apache-2.0
"""The whole line: relufy, train, measure, shift the threshold, generate."""
