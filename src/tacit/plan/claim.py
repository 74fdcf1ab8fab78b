"""What a Plan may say of its privacy: ε for whom it protects, with how many Updates hide one among them."""

from math import sqrt

from tacit.plan.manifest import Manifest
from tacit.privacy.account import Statement, statement
from tacit.privacy.trust import Trust


def claim(manifest: Manifest, mu2: float, trust: Trust) -> Statement:
    """What a spend of so much μ² comes to under this Plan."""
    noise, batch = manifest.noise, manifest.batch
    return statement(
        sqrt(mu2),
        manifest.delta,
        trust=trust,
        unit=noise.unit,
        together=batch.threshold,
        everybody=batch.threshold == manifest.participation.devices,
    )
