"""Where publications are kept."""

from __future__ import annotations

from vla_ops.errors import PublishError
from vla_ops.fetching.remote import local_path
from vla_ops.publishing.stores.base import Store
from vla_ops.publishing.stores.local import LocalStore
from vla_ops.publishing.stores.s3_client import S3Options
from vla_ops.recordings.remote.errors import without_secrets

__all__ = ["LocalStore", "S3Options", "Store", "store_at"]

_AS_IT_IS = S3Options()


def store_at(uri: str, options: S3Options = _AS_IT_IS) -> Store:
    """The store that a URI names: s3://BUCKET/PREFIX, or gs://BUCKET/PREFIX or a folder, which have no options.

    Raise PublishError for another kind of URI.
    """
    if uri.startswith("s3://"):
        from vla_ops.publishing.stores.s3 import S3Store

        return S3Store(uri, options=options)
    if uri.startswith("gs://"):
        from vla_ops.publishing.stores.gcs import GcsStore

        _refuse_options(uri, options)
        return GcsStore(uri)
    folder = local_path(uri)
    if folder is None:
        todo = "Give s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, a folder, or hub:OWNER/NAME."
        raise PublishError("nothing can be published to this kind of place", file=without_secrets(uri), todo=todo)
    _refuse_options(uri, options)
    return LocalStore(folder.absolute())


def _refuse_options(uri: str, options: S3Options) -> None:
    if options != _AS_IT_IS:
        raise PublishError("this place has no such options", file=uri, found=options, todo="Leave these out: they are for s3://.")
