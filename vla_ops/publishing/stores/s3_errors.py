"""What boto3 raises, as it is said to the person who has to act. Nothing of a key, a token or a signature is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from vla_ops.errors import PublishError
from vla_ops.recordings.remote.errors import without_secrets

_AGAIN = "Run the same again when that is over: what is there already is kept."
_NEEDED = (
    "s3:ListBucket, s3:GetObject, s3:PutObject, s3:ListBucketMultipartUploads, s3:ListMultipartUploadParts, s3:AbortMultipartUpload, "
    "and s3:DeleteObject where something is to be removed"
)
_REGION = "Set the region of the store's options (or AWS_DEFAULT_REGION) to the bucket's."
_EXPIRED = ("the store refuses: the credentials have expired", "Get new ones (as with `aws sso login`). What is there already is kept.")
_REFUSED = ("the store refuses: this is not allowed to these credentials", f"Ask the owner of the bucket for {_NEEDED}.")
_OTHER_REGION = ("the bucket is in another region", _REGION)
_BROKEN = (
    "what arrived at the store is not what was sent",
    "Run the same again. If it comes again, test this machine's memory and network.",
)
_FULL = ("the store is full", "Make room there, or have the quota raised. What is there already is kept.")
_NO_S3 = (
    "what answers there does not speak S3",
    "Check the endpoint (AWS_ENDPOINT_URL: S3 has a port of its own at many stores), and the proxy (HTTP_PROXY, NO_PROXY).",
)
_BUSY = ("the store is too busy, or broken", _AGAIN)
_SAID = {
    "NoSuchBucket": ("there is no such bucket", "Correct the URI, or make the bucket (`aws s3 mb s3://NAME`)."),
    "InvalidBucketName": ("there can be no such bucket", "Correct the URI."),
    "AccessDenied": _REFUSED,
    "AllAccessDisabled": _REFUSED,
    "Forbidden": _REFUSED,
    "403": _REFUSED,
    # No code of S3, where an object that is not there has one.
    "404": _NO_S3,
    "405": _NO_S3,
    "InvalidAccessKeyId": (
        "the store does not know the access key",
        "Check AWS_ACCESS_KEY_ID, or the profile, and whether the endpoint is the one that the key is for.",
    ),
    "SignatureDoesNotMatch": ("the secret key is wrong", "Check AWS_SECRET_ACCESS_KEY, or the profile: it may have been cut off."),
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": ("the store refuses the session token", "Get new credentials, or unset AWS_SESSION_TOKEN if they need none."),
    "RequestTimeTooSkewed": (
        "this machine's clock and the store's differ by more than the store takes",
        "Set the clock (`timedatectl set-ntp true`), then run the same again.",
    ),
    "PermanentRedirect": _OTHER_REGION,
    "TemporaryRedirect": _OTHER_REGION,
    "AuthorizationHeaderMalformed": _OTHER_REGION,
    "IllegalLocationConstraintException": _OTHER_REGION,
    "301": _OTHER_REGION,
    "AccessControlListNotSupported": ("the bucket takes no ACLs", "Leave `acl` out of the store's options."),
    "InvalidStorageClass": ("the store has no such storage class", "Correct `storage_class` in the store's options."),
    "BadDigest": _BROKEN,
    "XAmzContentSHA256Mismatch": _BROKEN,
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "SlowDown": _BUSY,
    "ServiceUnavailable": _BUSY,
    "InternalError": _BUSY,
}
_NO_CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of ~/.aws/config (`aws configure`, `aws sso login`), "
    "in the environment of the process that publishes."
)


def code_of(error: Any) -> str:
    """S3's name for what a ClientError is about; its HTTP status where the answer had no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def said(place: str, session: Any) -> Iterator[None]:
    """Raise PublishError about `place` for what boto3 raises in the block."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    # The causes are left out: their frames hold requests with all that is in them.
    except ClientError as error:
        raise _refusal(error, place, session) from None
    except BotoCoreError as error:
        raise _failure(error, place, session) from None


def _refusal(error: Any, place: str, session: Any) -> PublishError:
    """The error for what the store answered."""
    code, about = code_of(error), error.response.get("ResponseMetadata", {})
    status, headers = about.get("HTTPStatusCode", 0), about.get("HTTPHeaders", {})
    known = _BUSY if status >= 500 and status != 501 else ("the store refuses", "See the store's log for more than it says here.")
    what, todo = _SAID.get(code, known)
    message = str(error.response.get("Error", {}).get("Message", ""))
    found = _without_secrets(f"{code} ({status})" + (f": {message}" if message else ""), session)
    expected = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region") if todo == _REGION else None
    if code == "RequestTimeTooSkewed" and "date" in headers:
        expected = f"{headers['date']}, which is the store's time"
    return PublishError(what, file=place, found=found, expected=expected, todo=todo)


def _failure(error: Any, place: str, session: Any) -> PublishError:
    """The error for a request that came to no answer."""
    from botocore import exceptions as e

    name, text = type(error).__name__, _without_secrets(str(error), session)
    if isinstance(error, e.SSLError):
        todo = "If the store has a certificate of its own authority, name that in AWS_CA_BUNDLE."
        return PublishError("the store's certificate is not trusted, or it speaks no TLS", file=place, found=text, todo=todo)
    if isinstance(error, e.HTTPClientError | e.ConnectionError | e.IncompleteReadError):
        todo = f"Check the endpoint (AWS_ENDPOINT_URL) and the network. {_AGAIN}"
        return PublishError("the store cannot be reached, or broke off", file=place, found=text, todo=todo)
    if isinstance(error, e.ProfileNotFound):
        return PublishError("there is no such profile for the store", file=place, found=text, todo=_NO_CREDENTIALS)
    if isinstance(error, e.NoCredentialsError | e.PartialCredentialsError):
        return PublishError("there are no credentials for the store", file=place, found=text, todo=_NO_CREDENTIALS)
    # What a program that gives credentials has said is not for everybody's eyes.
    if isinstance(error, e.CredentialRetrievalError | e.TokenRetrievalError | e.MetadataRetrievalError | e.SSOError):
        return PublishError("the credentials for the store cannot be had", file=place, found=name, todo=_NO_CREDENTIALS)
    todo = "Correct the URI and the store's options."
    return PublishError("the store cannot be asked like this", file=place, found=f"{name}: {text}", todo=todo)


def _without_secrets(text: str, session: Any) -> str:
    text = without_secrets(text)
    with suppress(Exception):  # Credentials that cannot be had are in no text.
        for secret in session.get_credentials().get_frozen_credentials()[:3]:
            text = text.replace(secret, "***") if secret else text
    return text
