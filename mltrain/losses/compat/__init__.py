"""The authors' losses under the authors' names: a script changes its import line and nothing else.

    from mltrain.losses.compat import AsymmetricLoss, ResampleLoss

Names, positional arguments, defaults, shapes and numbers are those of the published code: the losses of ASL and
ML-Decoder, Hill and SPLC, RAL, CSL, Distribution-Balanced loss, GHM, LDAM and the two-way loss. What is computed is
this package's own, so -1 is an unknown label, half precision is computed in fp32, and nothing is changed in place.
A soft target is the weighted sum of both terms (the authors' code mixes the exponents), which 0 and 1 cannot tell
apart. In a config, use the losses of `mltrain.losses`: they have checked options.
"""

from mltrain.losses.compat.asymmetric import (
    ASLSingleLabel,
    AsymmetricLoss,
    AsymmetricLossOptimized,
    PartialSelectiveLoss,
    Ralloss,
)
from mltrain.losses.compat.others import GHMC, SPLC, Hill, LDAMLoss, ResampleLoss, TwoWayLoss

__all__ = [
    "GHMC",
    "SPLC",
    "ASLSingleLabel",
    "AsymmetricLoss",
    "AsymmetricLossOptimized",
    "Hill",
    "LDAMLoss",
    "PartialSelectiveLoss",
    "Ralloss",
    "ResampleLoss",
    "TwoWayLoss",
]
