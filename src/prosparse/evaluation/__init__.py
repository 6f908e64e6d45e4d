# SPDX-License-Identifier: Apache-2.0
"""The paper's benchmarks on lm-evaluation-harness: tasks, answers, scores and their comparison."""
