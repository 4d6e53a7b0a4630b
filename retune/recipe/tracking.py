"""What MLflow keeps."""

from pydantic import Field

from retune.recipe.section import Line, Section


class Tracking(Section):
    """What MLflow keeps; the server is MLFLOW_TRACKING_URI, or a SQLite file in .retune."""

    experiment: Line | None = Field(
        None, description="MLflow experiment; empty: the recipe's name."
    )
    upload_models: bool = Field(
        False,
        description="Copy adapter, merged model and GGUF files into MLflow. Off: their path, size and "
        "sha256 are logged.",
    )
