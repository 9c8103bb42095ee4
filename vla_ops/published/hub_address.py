"""`hub:OWNER/NAME` for a policy, `hub:datasets/OWNER/NAME` for a dataset, with `@REVISION` behind it where it is not to be the newest."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vla_ops.errors import PublishError
from vla_ops.spec.publishing import HUB, hub_name

# In the cards' metadata: what repositories with publications are found by.
TAG = "vla-ops"
_DATASETS = "datasets/"
# A version by its own name, 16 hexadecimal digits, is the tag of that version.
_VERSION = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class HubAddress:
    """A repository. `revision` is a branch, a tag or a commit; None is `main`."""

    repo_id: str
    is_dataset: bool = False
    revision: str | None = None

    @classmethod
    def of(cls, uri: str) -> HubAddress | None:
        """The address that a URI is; None for other kinds. Raise PublishError for a name that the Hub refuses."""
        if not uri.startswith(HUB) or owner_of(uri) is not None:
            return None
        name, _, revision = uri.removeprefix(HUB).strip("/").partition("@")
        try:
            repo_id = hub_name(name.removeprefix(_DATASETS))
        except ValueError as error:
            todo = "Give hub:OWNER/NAME, or hub:datasets/OWNER/NAME, and @VERSION behind it for an older one."
            raise PublishError("there can be no such repository", file=uri, found=str(error), todo=todo) from None
        return cls(repo_id, name.startswith(_DATASETS), revision or None)

    @property
    def kind(self) -> str:
        """As the Hub calls it."""
        return "dataset" if self.is_dataset else "model"

    @property
    def owner(self) -> str:
        """A user or an organisation."""
        return self.repo_id.split("/")[0]

    @property
    def uri(self) -> str:
        """Of the repository, without a revision."""
        return f"{HUB}{_DATASETS if self.is_dataset else ''}{self.repo_id}"

    def folder(self, commit: str) -> str:
        """Where fsspec finds the files of a commit."""
        return f"hf://{_DATASETS if self.is_dataset else ''}{self.repo_id}@{commit}"

    def of_kind(self, kind: str) -> HubAddress:
        """The repository for what is published: datasets are apart, and have one name with a policy without being the same."""
        return replace(self, is_dataset=kind == "dataset")

    @property
    def revisions(self) -> tuple[str, ...]:
        """What the revision may be the name of, in the order in which it is looked for."""
        if self.revision is None:
            return ("main",)
        return (tag_of(self.revision), self.revision) if _VERSION.fullmatch(self.revision) else (self.revision,)


def owner_of(uri: str) -> str | None:
    """The user or organisation that `hub:OWNER` names; None for other URIs."""
    name = uri.removeprefix(HUB).strip("/")
    return name if uri.startswith(HUB) and name and "/" not in name and "@" not in name else None


def tag_of(version: str) -> str:
    """The tag of a version. LeRobot reads tags that look like numbers as versions of its own format; none of ours does."""
    return f"version-{version}"
