"""The recipe: everything that determines a run, checked before anything is downloaded."""

from retune.recipe.assignment import flat, set_value
from retune.recipe.dataset import Dataset, Part
from retune.recipe.evaluation import Evaluation, ProbeFile
from retune.recipe.flaws import DATASET_EXPECTATIONS, FLAWS, Severity
from retune.recipe.formatting import Formatting
from retune.recipe.gates import Gates
from retune.recipe.infra import Infra, Resources
from retune.recipe.judging import LLMJudge
from retune.recipe.merging import Merging
from retune.recipe.model import Model
from retune.recipe.promotion import Promotion
from retune.recipe.publishing import Publishing
from retune.recipe.quantization import QuantGate, Quantization
from retune.recipe.recipe import Recipe
from retune.recipe.schedule import Schedule
from retune.recipe.section import RecipeError
from retune.recipe.tracking import Tracking
from retune.recipe.training import Training
from retune.recipe.validation import Classifier, Decontamination, Drift, Validation

__all__ = [
    "DATASET_EXPECTATIONS",
    "FLAWS",
    "Classifier",
    "Dataset",
    "Decontamination",
    "Drift",
    "Evaluation",
    "Formatting",
    "Gates",
    "Infra",
    "LLMJudge",
    "Merging",
    "Model",
    "Part",
    "ProbeFile",
    "Promotion",
    "Publishing",
    "QuantGate",
    "Quantization",
    "Recipe",
    "RecipeError",
    "Resources",
    "Schedule",
    "Severity",
    "Tracking",
    "Training",
    "Validation",
    "flat",
    "set_value",
]
