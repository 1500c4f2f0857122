"""One Prefect site and one S3 endpoint for all tests of deployments and lanes."""

import logging
import os
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.support.servers.s3_proxy import Proxy, s3_proxy
from tests.support.servers.site import Site, free_port


@pytest.fixture(scope="session")
def s3() -> Iterator[Proxy]:
    """An S3 server with the bucket `lake`, behind a proxy that can misbehave; this process uses it too."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for every request costs as much as the request
    server = ThreadedMotoServer(port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = os.environ.get("AWS_ENDPOINT_URL")
    with s3_proxy(f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}") as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        boto3.client("s3").create_bucket(Bucket="lake")
        yield proxy
    server.stop()
    if before is None:
        del os.environ["AWS_ENDPOINT_URL"]
    else:
        os.environ["AWS_ENDPOINT_URL"] = before


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, s3: Proxy) -> Iterator[Site]:
    """A Prefect server with everything in `infra/` deployed."""
    site = Site(tmp_path_factory.mktemp("prefect"), AWS_ENDPOINT_URL=s3.endpoint)
    try:
        site.deploy()
        yield site
    finally:
        site.close()
