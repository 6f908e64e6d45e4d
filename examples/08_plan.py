# SPDX-License-Identifier: Apache-2.0
"""Which lambda gives the sparsity you want, told from runs that are finished.

python examples/08_plan.py SPARSITY RUN RUN RUN ...
"""

import sys

import prosparse as ps


def main(sparsity: float, runs: list[str]) -> None:
    record = ps.plan(runs, sparsity=sparsity)
    for point in record.points:
        law = record.predicted(point.factor)
        print(f"{point.run}: lambda {point.factor:g}, sparsity {point.sparsity:.4f}, law {law:.4f}")
    print(f"For sparsity {sparsity:g} the law wants lambda {record.factor:.4g} in the last stage.")
    if record.factor_low is not None:
        print(f"95 % confidence: {record.factor_low:.4g} to {record.factor_high:.4g}")
    print("\nExpect a narrow interval where the law holds and the lambda lies among the runs' own.")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(float(sys.argv[1]), sys.argv[2:])
