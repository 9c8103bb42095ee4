"""A repository on the Hub, as who reads publications needs it: calls, tried again where that may help, and which commit a name is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vla_ops.published.hub_address import TAG, HubAddress
from vla_ops.published.hub_errors import keep_secrets_out_of_logs, status_of, tried
from vla_ops.spec.publishing import HUB

# What the Hub says of what is not there.
MISSING = frozenset({404})


def repositories(owner: str) -> list[str]:
    """URIs of the repositories of a user or an organisation that hold publications, as far as the token may see them."""
    from huggingface_hub import HfApi

    api, place = HfApi(), f"{HUB}{owner}"
    models = tried(lambda: [each.id for each in api.list_models(author=owner, filter=TAG)], place)
    datasets = tried(lambda: [each.id for each in api.list_datasets(author=owner, filter=TAG)], place)
    return [*(HubAddress(name).uri for name in models), *(HubAddress(name, is_dataset=True).uri for name in datasets)]


class HubReader:
    """A repository by its address. Methods raise PublishError that says what to do."""

    def __init__(self, address: HubAddress, say: Callable[[str], None] = lambda _: None) -> None:
        from huggingface_hub import HfApi

        keep_secrets_out_of_logs()
        self.address, self.say, self.api = address, say, HfApi()
        # As the client's methods take it.
        self.it: dict[str, Any] = {"repo_id": address.repo_id, "repo_type": address.kind}

    def commit_at(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit's id names; None where there is no such one, or no such repository."""
        from huggingface_hub import get_token

        # Who has no token is told 401 of what is not there, and of what is private.
        missing = MISSING if get_token() else MISSING | {401}
        return self.asked(lambda: self.api.repo_info(**self.it, revision=revision).sha, none_if=missing)

    def asked[T](self, call: Callable[[], T], *, none_if: set[int] | frozenset[int] = frozenset()) -> T | Any:
        """What a call gives, tried again where that may help; None where the Hub answers with one of these statuses."""

        def once() -> T | None:
            try:
                return call()
            # Each of the client's errors has the answer's status; others are said by `tried`.
            except Exception as error:
                if status_of(error) in none_if:
                    return None
                raise

        return tried(once, self.address.uri, self.say)
