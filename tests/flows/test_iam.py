"""What each role may do, held against what its flows really ask of S3: by action and by resource."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import pytest
from moto.server import ThreadedMotoServer

from flows.steps.batch import run_batch
from flows.steps.engine import Engine
from refine_ops import adapters, storage
from refine_ops.config import RefineBatchConfig, RefineSettings
from refine_ops.job import export, upkeep
from refine_ops.job.launch import Node, NodeVerdict
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.run_folder import RunFolder, reopen_run
from tests.support import ROOT
from tests.support.node import FAST, make_items
from tests.support.servers.s3_proxy import Proxy, s3_proxy

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

BUCKETS = ("source-bucket", "run-bucket", "weights-bucket", "shop-bucket")
RUN = "s3://run-bucket/runs/nightly"
VERBS = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}


def statements(*names: str) -> list[dict[str, Any]]:
    found = [s for n in names for s in json.loads((ROOT / f"infra/iam/{n}.json").read_text())["Statement"]]
    return [s for s in found if s["Effect"] == "Allow"]


def allows(policy: list[dict[str, Any]], action: str, resource: str, prefix: str | None = None) -> bool:
    """As AWS decides: a condition on a key that a request does not have is not met."""
    for s in policy:
        wanted = s.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
        fits = wanted is None or (prefix is not None and any(fnmatchcase(prefix, w) for w in wanted))
        if fits and action in s["Action"] and any(fnmatchcase(resource, r.lower()) for r in s["Resource"]):
            return True
    return False


def keys() -> set[str]:
    client = boto3.client("s3")
    return {
        f"{bucket}/{entry['Key']}"
        for bucket in BUCKETS
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        for entry in page.get("Contents", ())
    }


@contextmanager
def role(proxy: Proxy, *names: str) -> Iterator[None]:
    """Everything that is asked of S3 meanwhile must be allowed by these policies."""
    before = keys()
    proxy.requests.clear()
    yield
    asked, policy, refused = list(proxy.requests), statements(*names), []
    for method, path, _ in asked:
        url = urlsplit(path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = parse_qs(url.query, keep_blank_values=True)
        if not key:
            if "list-type" in query and not allows(
                policy, "s3:ListBucket", f"arn:aws:s3:::{bucket}", query.get("prefix", [""])[0]
            ):
                refused.append(("s3:ListBucket", bucket, query.get("prefix")))
            continue  # what a POST of ?delete removes is seen below
        if not allows(policy, VERBS[method], f"arn:aws:s3:::{bucket}/{key}"):
            refused.append((VERBS[method], bucket, key))
        if method == "HEAD" and not allows(policy, "s3:ListBucket", f"arn:aws:s3:::{bucket}"):
            refused.append(("s3:ListBucket, or an absent object is forbidden", bucket, key))
    refused += [
        ("s3:DeleteObject", *gone.split("/", 1))
        for gone in before - keys()
        if not allows(policy, "s3:DeleteObject", f"arn:aws:s3:::{gone}")
    ]
    assert asked
    assert sorted(set(map(str, refused))) == []


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with s3_proxy(f"http://{host}:{port}") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        for bucket in BUCKETS:
            boto3.client("s3").create_bucket(Bucket=bucket)
        yield proxy
    server.stop()


def refine(config: RefineBatchConfig, folder: RunFolder, todo: Remaining, label: str, engine: Engine) -> NodeVerdict:
    return Node(folder, config, 1, module="tests.support.trivial_worker").run(todo)


def test_every_role_may_do_what_its_flows_ask_and_no_more(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", str(tmp_path / "written.log"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = make_items(tmp_path / "images", 4)
    for path in (tmp_path / "images").glob("*.png"):
        storage.write(f"s3://source-bucket/{path.name}", path.read_bytes())
    storage.write("s3://source-bucket/m.jsonl", manifest.read_bytes())
    config = RefineBatchConfig.model_validate(
        {
            "manifest": "s3://source-bucket/m.jsonl",
            "out": RUN,
            "worker": FAST,
            "lanes": "work-pool",
            "report_items": 100,
            "refine": {
                "publish": "all",
                "model": {"adapters": ["promoted"], "registry": "s3://weights-bucket/adapters"},
            },
        }
    )
    with role(proxy, "training"):
        registry = "s3://weights-bucket/adapters"
        made = [adapters.publish(registry, text).version for text in (b"one", b"two")]
        for version in made:
            adapters.promote(registry, version)
        adapters.rollback(registry)
        assert adapters.rolled_back(registry) == {made[1]}
    without = config.model_copy(update={"refine": RefineSettings(publish="all")})
    with role(proxy, "policy"):
        adapters.resolve("current", registry)
        run_batch(without, on_pool=refine)
        run_batch(without, on_pool=refine)
    with role(proxy, "policy", "upkeep"):
        export.export(RUN, "s3://shop-bucket/images")
        storage.delete("s3://run-bucket/runs/nightly/outputs/00000001/item-0001.png")
        assert len(upkeep.check_outputs(reopen_run(RUN)[0])[1]) == 1
        run_batch(without, on_pool=refine)
        upkeep.prune(reopen_run(RUN)[0], snapshots=1, dry_run=False, now=lambda: time.time() + 30 * 86_400)
    with pytest.raises(AssertionError, match="s3:DeleteObject"), role(proxy, "policy"):
        storage.delete("s3://run-bucket/runs/nightly/published/00000001.parquet")
    with pytest.raises(AssertionError, match="s3:PutObject"), role(proxy, "policy", "upkeep"):
        storage.write("s3://source-bucket/m.jsonl", b"")


def test_the_bucket_is_made_once_with_rules_for_what_nobody_reads_again(proxy: Proxy) -> None:
    import runpy

    make = runpy.run_path(str(ROOT / "infra/make_bucket.py"))["make_bucket"]
    for _ in range(2):
        make("runs-of-ours")
    rules = boto3.client("s3").get_bucket_lifecycle_configuration(Bucket="runs-of-ours")["Rules"]
    kept = [rule["Filter"]["Prefix"] for rule in rules if "Expiration" in rule]
    assert kept == ["runs/nightly/orders/", "runs/nightly/evidence/"], "outcomes, outputs and snapshots never expire"
