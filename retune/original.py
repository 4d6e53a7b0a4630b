"""The 16-bit weights that a base's 4-bit ones were made of."""

from pydantic import BaseModel


class Original(BaseModel):
    """A Hub id or folder `name` at `revision`, and the recipe's `setting` for it."""

    name: str
    revision: str | None
    setting: str
