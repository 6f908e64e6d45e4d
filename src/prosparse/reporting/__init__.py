# SPDX-License-Identifier: Apache-2.0
"""What people read of a run: terminal tables, plots, and one self-contained page."""
