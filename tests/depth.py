"""How much the tests do: `make test` leaves out what is alike, `.ci/run` does not, and `make soak` measures as well."""

import os

SOAK = os.environ.get("RETRIEVAL_SOAK") == "1"
THOROUGH = SOAK or os.environ.get("RETRIEVAL_THOROUGH") == "1"


def thinned(cases, step):
    """Every `step`-th of cases that are alike; all of them where the tests are thorough."""
    return list(cases) if THOROUGH else list(cases)[::step]
