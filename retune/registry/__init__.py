"""MLflow's registry: every finished candidate is a version, and a log says which one served when.

A recipe's name is the registered model's. Of its versions the alias `challenger` names the newest
candidate, `champion` the one that serves, and `previous` the one that a rollback goes back to.
"""

from retune.registry.candidates import (
    Candidate,
    decided_as,
    keep_anchor,
    placed_as,
    published_as,
    register_candidate,
)
from retune.registry.log import PromotionEntry, history, who_served
from retune.registry.promotions import Barred, StaleEvidence, promote, rollback, target
from retune.registry.references import find
from retune.registry.twins import unwanted_twin
from retune.registry.versions import (
    RegisteredVersion,
    RegistryError,
    champion,
    names,
    serving,
    version,
    versions,
)

__all__ = [
    "Barred",
    "Candidate",
    "PromotionEntry",
    "RegisteredVersion",
    "RegistryError",
    "StaleEvidence",
    "champion",
    "decided_as",
    "find",
    "history",
    "keep_anchor",
    "names",
    "placed_as",
    "promote",
    "published_as",
    "register_candidate",
    "rollback",
    "serving",
    "target",
    "unwanted_twin",
    "version",
    "versions",
    "who_served",
]
