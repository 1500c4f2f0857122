"""S3, with everything that goes wrong there: what is waited for, for how long, and what it means in the end.

What passes by itself (5xx, slow-down, resets, short or damaged bodies) is repeated with growing, jittered pauses for
`RETRY_BUDGET_S`. Credentials that expire are waited for, `CREDENTIALS_BUDGET_S` long, and read afresh each time. An
object that cannot be read is the item's problem; a store that cannot be written, or will not know us, is the job's.
"""

import base64
import hashlib
import logging
import os
import random
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from refine_ops.config import s3_endpoint
from refine_ops.errors import ItemError, JobError, Missing, RefineError

logger = logging.getLogger(__name__)

RETRY_BUDGET_S = 120.0
CREDENTIALS_BUDGET_S = 900.0
TIMEOUT_S = 60.0
_LONGEST_PAUSE_S = 10.0
_LISTED_FROM: Final = 20
"""Objects that a page of a listing must tell of: it costs as much as a dozen single questions, and takes as long as
three."""

_PASSING: Final = frozenset(
    {
        *("InternalError", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "RequestTimeout"),
        *("RequestTimeTooSkewed", "RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequests"),
        *("BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "ConditionalRequestConflict"),
        *("OperationAborted", "IncompleteBody"),
    }
)
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_UNKNOWN: Final = frozenset({"InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"})
"""Wrong from the start these are a mistake to report; after a call that worked, keys that are being rotated."""

_T = TypeVar("_T")
_lock = threading.Lock()
_client_of: dict[tuple[int, str | None], Any] = {}
"""By process and endpoint: a forked process must not share its parent's connections."""
_worked = threading.Event()


class _Damaged(Exception):
    """A body that is short, or not what its checksum says."""


class _Refused(Exception):
    """S3's final word, with its code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"S3 answered {code}: {message}")
        self.code = code


def get(bucket: str, key: str, check_size: Callable[[int], None]) -> tuple[bytes, str]:
    """The object and its identity, checked against its checksum where it has one.

    Args:
        check_size: Called with the size before the body is read; may raise.

    Raises:
        Missing: no such object.
        ItemError: `file.unreadable` -- it may not be read, or reading failed for the whole budget.
        JobError: the credentials are unknown or stayed expired.
    """
    uri = f"s3://{bucket}/{key}"

    def read(client: Any) -> tuple[bytes, str]:
        response = client.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        check_size(response["ContentLength"])
        data: bytes = response["Body"].read()
        if len(data) != response["ContentLength"]:
            raise _Damaged(f"{len(data)} of {response['ContentLength']} bytes came")
        return data, _identity(response)

    try:
        return _persist(uri, read, lambda m: ItemError("file.unreadable", f"{uri}: {m}; run it again with retry_dead"))
    except _Refused as e:
        raise _unreadable(uri, e) from e


def put(bucket: str, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
    """Store `data` in one PUT with its SHA-256, which S3 verifies; False if `only_if_absent` found an object there.

    Stores that do not verify are found out by an ETag that is not the MD5; what they hold is then read back.

    Raises:
        JobError: the store cannot be written.
    """
    uri = f"s3://{bucket}/{key}"
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    condition = {"IfNoneMatch": "*"} if only_if_absent else {}

    def write(client: Any) -> bool:
        response = client.put_object(
            Bucket=bucket, Key=key, Body=data, ChecksumAlgorithm="SHA256", ChecksumSHA256=digest, **condition
        )
        if response["ETag"].strip('"') != md5:
            condition.clear()  # the object there is this very one: if it is damaged, it must be overwritten
            stored = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            if stored != data:
                raise _Damaged(f"the store holds {len(stored)} other bytes than the {len(data)} sent")
        return True

    try:
        return _persist(uri, write, lambda m: JobError(f"cannot write {uri}: {m}; run the same command again later"))
    except _Refused as e:
        if e.code in ("PreconditionFailed", "412"):
            return False
        raise JobError(f"cannot write {uri}: {e}; check the bucket and its policy") from e


def head(bucket: str, key: str) -> str:
    """The object's identity: ETag and size.

    Raises:
        Missing, ItemError, JobError: as `get`.
    """
    uri = f"s3://{bucket}/{key}"

    def ask(client: Any) -> str:
        from botocore.exceptions import ClientError

        try:
            return _identity(client.head_object(Bucket=bucket, Key=key))
        except ClientError as e:
            if e.response["ResponseMetadata"]["HTTPStatusCode"] not in (400, 403):
                raise
        # A refused HEAD has no body that says why (expired credentials are a bare 400): a GET does.
        response = client.get_object(Bucket=bucket, Key=key)
        response["Body"].close()
        return _identity(response)

    try:
        return _persist(uri, ask, lambda m: ItemError("file.unreadable", f"{uri}: {m}"))
    except _Refused as e:
        raise _unreadable(uri, e) from e


def list_keys(bucket: str, prefix: str) -> Iterator[str]:
    """Keys below `prefix`, sorted, a page at a time. Raises as `list_objects`."""
    return (key for key, _ in list_objects(bucket, prefix))


def list_objects(bucket: str, prefix: str) -> Iterator[tuple[str, float]]:
    """Keys below `prefix` and when they were written (seconds since 1970, by the store's clock), sorted by key.

    Raises:
        JobError: the bucket cannot be listed.
    """
    uri, token = f"s3://{bucket}/{prefix}", ""
    while True:
        more = {"ContinuationToken": token} if token else {}

        def page(client: Any, more: dict[str, str] = more) -> Any:
            return client.list_objects_v2(Bucket=bucket, Prefix=prefix, **more)

        answer = _for_the_job(uri, "list", page)
        yield from ((entry["Key"], entry["LastModified"].timestamp()) for entry in answer.get("Contents", ()))
        token = answer.get("NextContinuationToken", "")
        if not token:
            return


def list_identities(bucket: str, keys: Sequence[str]) -> dict[str, str | None]:
    """Identities, as `head` gives them, of those of `keys` that lie close enough for listing to be cheaper: None where
    there is no such object, and no entry where it was not looked up."""
    folders: dict[str, list[str]] = {}
    for key in sorted(keys):
        folders.setdefault(key[: key.rfind("/") + 1], []).append(key)
    dense = [(folder, named) for folder, named in folders.items() if len(named) >= _LISTED_FROM]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda one: _list_folder(bucket, *one), dense)
        return {key: said for answer in answers for key, said in answer.items()}


def _list_folder(bucket: str, folder: str, keys: list[str]) -> dict[str, str | None]:
    """A merge of the sorted `keys` with the pages of a listing. Where a page tells too few of them, some are passed
    over before the next one, twice as many each time: a folder of millions of which few are named costs little."""
    found: dict[str, str | None] = {}
    at, passed = 0, _LISTED_FROM
    while len(keys) - at >= _LISTED_FROM:
        after = keys[at][:-1]  # a prefix of a key comes before it, and little lies between
        where = {"StartAfter": after} if after else {}

        def page(client: Any, where: dict[str, str] = where) -> Any:
            return client.list_objects_v2(Bucket=bucket, Prefix=folder, **where)

        try:
            answer = _persist(f"s3://{bucket}/{folder}", page, lambda m: ItemError("file.unreadable", m))
        except (_Refused, ItemError) as e:  # not to be listed; each object tells for itself
            logger.info("s3://%s/%s cannot be listed (%s)", bucket, folder, e)
            return found
        said = {entry["Key"]: f"{entry['ETag']}:{entry['Size']}" for entry in answer.get("Contents", ())}
        end = bisect_right(keys, max(said)) if answer.get("IsTruncated") and said else len(keys)
        found |= {key: said.get(key) for key in keys[at:end]}
        if end - at < _LISTED_FROM:
            end, passed = end + passed, 2 * passed
        at = end
    return found


def delete(bucket: str, key: str) -> None:
    """Remove an object; absent is fine. Raises `JobError`."""
    _for_the_job(f"s3://{bucket}/{key}", "delete", lambda client: client.delete_object(Bucket=bucket, Key=key))


def delete_many(bucket: str, keys: list[str]) -> None:
    """Remove objects, 1,000 a request; absent ones are fine. Raises `JobError`, also where some cannot be removed."""
    for start in range(0, len(keys), 1000):
        named = [{"Key": key} for key in keys[start : start + 1000]]

        def call(client: Any, named: list[dict[str, str]] = named) -> Any:
            return client.delete_objects(Bucket=bucket, Delete={"Objects": named, "Quiet": True})

        answer = _for_the_job(f"s3://{bucket}/", "delete", call)
        if errors := answer.get("Errors"):
            raise JobError(
                f"s3://{bucket}/: {len(errors)} objects cannot be deleted, {errors[0]['Key']!r} among them "
                f"({errors[0]['Code']}); allow s3:DeleteObject"
            )


def _for_the_job(uri: str, verb: str, call: Callable[[Any], _T]) -> _T:
    try:
        return _persist(uri, call, lambda m: JobError(f"cannot {verb} {uri}: {m}; run the same command again later"))
    except _Refused as e:
        raise JobError(f"cannot {verb} {uri}: {e}; check the bucket and its policy") from e


def _unreadable(uri: str, e: _Refused) -> ItemError:
    if e.code in ("NoSuchKey", "404"):
        return Missing(uri)
    if e.code == "NoSuchBucket":
        return ItemError("file.no_bucket", f"{uri}: no such bucket; check the path in the manifest")
    return ItemError("file.unreadable", f"{uri}: {e}; check the bucket's policy")


def _identity(response: Any) -> str:
    return f"{response['ETag']}:{response['ContentLength']}"


def _persist(uri: str, call: Callable[[Any], _T], give_up: Callable[[str], RefineError]) -> _T:
    """Call until it works, S3 refuses for good, or the budget is used up.

    Raises:
        _Refused: S3's final answer.
        RefineError: what `give_up` makes of the last problem.
        JobError: credentials.
    """
    from botocore.exceptions import ClientError

    started, pause = time.monotonic(), 0.1
    while True:
        client = _client()
        try:
            result = call(client)
        except RefineError:
            raise
        except ClientError as e:
            problem = _Refused(_code(e), e.response["Error"].get("Message", ""))
            if problem.code in _EXPIRED or (problem.code in _UNKNOWN and _worked.is_set()):
                _await_credentials(client, started, problem)
            elif problem.code in _UNKNOWN:
                raise JobError(f"{uri}: {problem}; check AWS_PROFILE or the AWS_* variables") from e
            elif problem.code not in _PASSING and e.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                raise problem from e
            else:
                _await_store(uri, started, pause, problem, give_up)
        except _credential_errors() as e:
            if not _worked.is_set():
                raise JobError(f"{uri}: {e}; set AWS_PROFILE, the AWS_* variables or a role") from e
            _await_credentials(client, started, e)
        except _passing_errors() as e:
            _await_store(uri, started, pause, e, give_up)
        else:
            _worked.set()
            return result
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _await_store(
    uri: str, started: float, pause: float, problem: Exception, give_up: Callable[[str], RefineError]
) -> None:
    waited = time.monotonic() - started
    if waited + pause > RETRY_BUDGET_S:
        raise give_up(f"{problem} (repeated for {waited:.0f} s)") from problem
    logger.info("%s: %s; again in %.1f s", uri, problem, pause)
    time.sleep(pause * random.uniform(0.5, 1.5))


def _await_credentials(client: Any, started: float, problem: Exception) -> None:
    """Pause, then let the next call read the credentials afresh (files, roles, metadata service)."""
    waited = time.monotonic() - started
    if waited > CREDENTIALS_BUDGET_S:
        raise JobError(
            f"S3 credentials stayed invalid for {waited:.0f} s ({problem}); renew them and run the same command again"
        ) from problem
    logger.warning(
        "S3 credentials are refused (%s); paused for up to %.0f s more, renew them and this goes on by itself",
        problem,
        CREDENTIALS_BUDGET_S - waited,
    )
    with _lock:
        for key in [k for k, v in _client_of.items() if v is client]:
            del _client_of[key]
    time.sleep(min(5.0, max(0.2, waited / 4)))


def _code(e: Any) -> str:
    return str(e.response["Error"].get("Code", e.response["ResponseMetadata"]["HTTPStatusCode"]))


def _credential_errors() -> tuple[type[Exception], ...]:
    from botocore import exceptions as b

    return (b.NoCredentialsError, b.PartialCredentialsError, b.CredentialRetrievalError, b.TokenRetrievalError)


def _passing_errors() -> tuple[type[Exception], ...]:
    from botocore import exceptions as b
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    broken = (b.IncompleteReadError, b.ResponseStreamingError, b.FlexibleChecksumError, b.ChecksumError)
    return (b.HTTPClientError, ResponseParserError, *broken, HTTPError, OSError, _Damaged)


def _client() -> Any:
    """The client of this process and endpoint; boto3's clients are thread-safe, making them is not."""
    key = (os.getpid(), s3_endpoint())
    with _lock:
        if key not in _client_of:
            _client_of[key] = _new_client(key[1])
        return _client_of[key]


def _new_client(endpoint: str | None) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as e:
        raise JobError("s3:// URIs need boto3, which is not installed here: pip install boto3") from e
    config = Config(
        retries={"total_max_attempts": 1},  # `_persist` repeats, bodies included, which botocore's own retries are not
        max_pool_connections=64,
        connect_timeout=min(10.0, TIMEOUT_S),
        read_timeout=TIMEOUT_S,
        tcp_keepalive=True,
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)
