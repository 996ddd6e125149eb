"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# Deterministic, and no verdict on a machine's speed: a time is measured in bench/, never asserted.
settings.register_profile(
    "bondstone",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("bondstone")
