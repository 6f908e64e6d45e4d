# SPDX-License-Identifier: Apache-2.0
"""What finished runs say about the next one."""
