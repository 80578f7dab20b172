"""How hypothesis looks for counterexamples here."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "here",
    # a busy machine is no counterexample
    deadline=None,
    # a database that examples only read from may be shared by them
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("here")
