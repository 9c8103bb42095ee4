"""Task texts as a judge reads them: brought to one form, junk, and whether two may say the same in other words."""

from __future__ import annotations

import re

# What collectors write where nobody wrote anything, and what people write to get past the question; in the form of `normalized`.
_JUNK = {
    "anonymous", "anonymous task", "asdf", "default", "default task", "demo", "do some thing", "do something", "dummy", "example",
    "foo", "instruction", "language instruction", "my task", "n a", "na", "new task", "nil", "no task", "none", "null", "placeholder",
    "prompt", "sample", "task", "task description", "task name", "tbd", "temp", "test", "test task", "testing", "tmp", "todo",
    "undefined", "unknown", "unknown task", "unnamed", "untitled", "untitled task", "what the robot does", "xxx",
}  # fmt: skip
# task_1, test 03, untitled2, demo 7, 20240131, ...
_NUMBERED = re.compile(r"(?:(?:default|demo|episode|data|record(?:ing)?|run|sample|task|test|traj(?:ectory)?|untitled|new task) ?)?[\d ]+")
# Words that any two tasks may share.
_COMMON = {
    "a",
    "an",
    "and",
    "at",
    "by",
    "for",
    "from",
    "in",
    "into",
    "it",
    "its",
    "of",
    "off",
    "on",
    "onto",
    "out",
    "over",
    "the",
    "then",
    "to",
    "up",
    "with",
}


def normalized(text: str) -> str:
    """Lower case, with a single space for whatever is no letter or digit: `Put_the  cup!` and `put the cup` are one text."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def is_junk(text: str) -> bool:
    """Whether a text says nothing of a task; `text` is normalized."""
    return text in _JUNK or _NUMBERED.fullmatch(text) is not None


def share_a_word(a: str, b: str) -> bool:
    """Whether two normalized texts have a word of content in common, or are in different scripts, where no word could be."""
    return a.isascii() != b.isascii() or bool(_words(a) & _words(b))


def _words(text: str) -> set[str]:
    # Plurals as singulars. Without spaces between words (Chinese, Japanese), each character is a word.
    words = {word.removesuffix("s") if word.isascii() else word for word in text.split() if word not in _COMMON}
    return {part for word in words for part in ([word] if word.isascii() else word)}
