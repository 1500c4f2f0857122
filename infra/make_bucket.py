"""Create the bucket that runs live in, with the rules for what nobody reads again. Repeating it changes nothing.

python infra/make_bucket.py BUCKET      # endpoint and credentials as boto3 finds them
"""

import json
import sys
from pathlib import Path

import boto3


def make_bucket(bucket: str) -> None:
    s3 = boto3.client("s3")
    if bucket not in {found["Name"] for found in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=bucket)
    rules = json.loads(Path(__file__).with_name("lifecycle.json").read_text())
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)


if __name__ == "__main__":
    make_bucket(sys.argv[1])
