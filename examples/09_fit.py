# SPDX-License-Identifier: Apache-2.0
"""How a model's activation ratio falls with training data, and where it would end.

python examples/09_fit.py STAGE BILLIONS_OF_TOKENS RUN
"""

import sys

import prosparse as ps


def main(stage: str, billions: float, run: str) -> None:
    record = ps.fit([run], stage=stage, at=[billions])
    (fit,) = record.fits
    print(f"{fit.formula}, D in billions of tokens, from {fit.num_points} points of {fit.source}")
    for number in fit.parameters:
        if number.low is None:
            print(f"{number.name} = {number.value:.4g}, not determined")
        else:
            print(f"{number.name} = {number.value:.4g}, {number.low:.4g} to {number.high:.4g}")
    (there,) = fit.predictions
    where = "beyond the points" if there.is_extrapolated else "within the points"
    print(f"At {billions:g} billion tokens, {where}: {there.activation_ratio:.4f} active")
    print("\n".join(fit.notes))
    print(
        "\nExpect intervals that hold if the law does; look at the residuals before you believe it."
    )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
