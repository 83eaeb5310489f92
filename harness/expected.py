"""What an acceptable answer to a prompt has: the optional fields of a workload's data file.

``reference`` and languages belong to translations, ``facts``, ``forbidden`` and ``topic_words`` to questions and
``rubric`` to briefs; any entry may have any of them. ``split`` says whether an entry may be used to tune something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from harness.records import Record

Kind = Literal["", "chatbot", "content", "translation"]
Language = Annotated[str, Field(pattern="^([a-z]{2})?$")]
"""ISO 639-1."""


class AnyOf(Record):
    """Synonyms: one of them is enough."""

    any: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class Rubric(Record):
    """What can be checked by machine of a brief."""

    min_words: Annotated[int, Field(ge=0)] | None = None
    max_words: Annotated[int, Field(gt=0)] | None = None
    sections: tuple[str, ...] = ()
    """Headings that the text has to have."""
    must_mention: tuple[AnyOf, ...] = ()
    format: str = ""
    """A form of :data:`harness.quality.content.FORMS`, several joined with ``+``; other words are not checked."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ValueError("min_words is above max_words")
        return self


class Expected(Record):
    kind: Kind = ""
    reference: tuple[str, ...] = ()
    source_language: Language = ""
    target_language: Language = ""
    languages: tuple[str, ...] = ()
    """All of the set, between which the language of an answer is decided."""
    facts: tuple[AnyOf, ...] = ()
    """Every one of them has to be in the answer."""
    forbidden: tuple[AnyOf, ...] = ()
    topic_words: tuple[str, ...] = ()
    rubric: Rubric | None = None
    words: Annotated[int, Field(gt=0)] | None = None
    """Length that a brief asks for, where no rubric bounds it."""
    split: Literal["", "train", "held-out"] = ""

    @field_validator("reference", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def says_something(self) -> bool:
        return bool(self.reference or self.target_language or self.facts or self.forbidden or self.topic_words) or (
            self.rubric is not None or self.words is not None
        )


FIELDS = (
    "reference",
    "source_language",
    "target_language",
    "facts",
    "forbidden",
    "topic_words",
    "rubric",
    "words",
    "split",
)
"""Of a line of a data file."""


def expected_of(entry: Mapping[str, Any], **more: Any) -> Expected:
    """Read the fields of one line of a data file; ``more`` is what the workload knows beside it.

    Raises
    ------
    pydantic.ValidationError
        When a field has another form.
    """
    return Expected.model_validate({name: entry[name] for name in FIELDS if name in entry} | more)


def problem_of(entry: Mapping[str, Any]) -> str:
    """One sentence about the first field that has another form; empty when all are right."""
    try:
        expected_of(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "rubric"
        return f"'{where}': {first['msg'][:1].lower()}{first['msg'][1:]}"
    return ""


def as_written(expected: Expected) -> dict[str, Any]:
    """For ``outputs.jsonl``: what is not said is left out."""
    return expected.model_dump(mode="json", exclude_defaults=True)
