"""Records that are one JSON file each, with a format that only grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from harness.errors import RunDirectoryError

Model = TypeVar("Model", bound=BaseModel)


def read_json_file(path: Path, model: type[Model], newest: int, missing: str) -> Model:
    """Read one record; ``newest`` is the highest ``format`` that this harness knows.

    Raises
    ------
    RunDirectoryError
        With ``missing`` when there is no such file; when it is of a newer format, damaged or unreadable.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # Before the fields, of which a newer format has others.
        found = json.loads(text).get("format", 0)
        if found > newest:
            raise RunDirectoryError(f"{path} has format {found}; this harness reads up to {newest}: use a newer one")
        return model.model_validate_json(text)
    except FileNotFoundError as error:
        raise RunDirectoryError(missing) from error
    except OSError as error:
        raise RunDirectoryError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError) as error:  # pydantic's, of bytes that are no text, of a list
        raise RunDirectoryError(f"{path} is damaged or of another version: {str(error).splitlines()[0]}") from error
