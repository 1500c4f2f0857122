"""Infrastructure files, checked by the schemas of the tools that read them; no engine runs here."""

import importlib
import json
import re
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest
import yaml

from refine_ops.config import RefineBatchConfig, RefineSettings, WorkerSettings
from refine_ops.job import upkeep
from refine_ops.model.presets import resolve_preset
from refine_ops.train.config import TrainLoraConfig
from tests.support import ROOT
from tests.support.servers.site import POOLS

INFRA = ROOT / "infra"
DEPLOYMENTS = yaml.safe_load((INFRA / "prefect.yaml").read_text())["deployments"]


def rendered_job() -> dict[str, Any]:
    """The Kubernetes job with every variable at its default, as Prefect's worker renders it."""
    document = json.loads((INFRA / "kubernetes/base-job-template.json").read_text())
    variables = document["variables"]["properties"]

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: filled for k, v in value.items() if (filled := fill(v)) is not None}
        if isinstance(value, list):
            return [fill(v) for v in value]
        if isinstance(value, str) and (whole := re.fullmatch(r"\{\{ (\w+) \}\}", value)):
            return variables[whole[1]].get("default")
        if isinstance(value, str):
            return re.sub(r"\{\{ (\w+) \}\}", lambda m: str(variables[m[1]]["default"]), value)
        return value

    rendered: dict[str, Any] = fill(document["job_configuration"]["job_manifest"])
    return rendered


@pytest.mark.processes
def test_shipped_parameters_are_valid_settings() -> None:
    document = yaml.safe_load((INFRA / "prefect.yaml").read_text())
    for deployment in document["deployments"]:
        module, name = deployment["entrypoint"].split(":")
        if "parameters" in deployment:
            getattr(importlib.import_module(module), name).validate_parameters(deployment["parameters"])


def test_the_kubernetes_job_is_valid() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    job = rendered_job()
    job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "8"
    validate.validate(job, validate.latest_version(), strict=True)


def test_the_kubernetes_job_is_not_root_and_has_time_to_drain() -> None:
    pod = rendered_job()["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["terminationGracePeriodSeconds"] > WorkerSettings().grace_s + 30
    assert rendered_job()["spec"]["backoffLimit"] == 0, "refine-batch dispatches again; Kubernetes must not"
    mounts = {m["mountPath"]: m for m in pod["containers"][0]["volumeMounts"]}
    assert mounts["/weights"]["readOnly"]
    assert "/dev/shm" in mounts


def test_every_template_variable_is_declared_and_used() -> None:
    document = json.loads((INFRA / "kubernetes/base-job-template.json").read_text())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(document["job_configuration"])))
    assert used == set(document["variables"]["properties"])


def test_the_deployed_night_uses_what_the_deployed_training_promotes() -> None:
    shipped = {d["name"]: d["parameters"]["config"] for d in DEPLOYMENTS if "parameters" in d}
    night = RefineBatchConfig.model_validate(shipped["refine-batch"])
    training = TrainLoraConfig.model_validate(shipped["train-lora"])
    model = night.refine.model
    assert model.model != "tiny"
    assert model.adapters == ("promoted",)
    assert model.registry == training.registry
    bases = {resolve_preset(settings).source for settings in (model, training.model)}
    assert len(bases) == 1, "an adapter of another base is refused"
    assert night.access.roots, "a manifest may not name every file that the worker can read"
    assert night.on_new_fingerprint == "new-work", "a promotion stops no night"
    assert "{fingerprint}" in training.out
    assert training.cache is not None
    [method] = [m for m in shipped["refine-eval"]["methods"] if m["kind"] == "refiner"]
    evaluated = RefineSettings.model_validate(method["refine"]).model
    assert evaluated == model, "what is evaluated is what is in production"
    assert night.deadline_h is not None


def test_compose_gives_nights_and_trainings_gpus_and_the_store_its_bucket() -> None:
    compose, gpus = (yaml.safe_load((INFRA / name).read_text()) for name in ("compose.yaml", "compose.gpu.yaml"))
    pools = {s["command"][3]: name for name, s in compose["services"].items() if s.get("command", [""])[0] == "worker"}
    assert set(pools) == {"refine-ops", "refine-training", "refine-reports", "refine-lanes"}
    for pool in ("refine-ops", "refine-training"):
        devices = gpus["services"][pools[pool]]["deploy"]["resources"]["reservations"]["devices"]
        assert devices[0]["capabilities"] == ["gpu"]
    assert "infra/make_bucket.py refine-ops" in compose["services"]["deploy"]["command"][0]


@pytest.mark.parametrize("name", ["README.md", "prefect.yaml", "compose.yaml"])
def test_wherever_pools_are_made_all_of_them_are_and_each_gets_a_worker(name: str) -> None:
    pools = {deployment["work_pool"]["name"] for deployment in DEPLOYMENTS}
    text = (INFRA / name).read_text().replace('", "', " ")  # compose gives a command as a list
    assert set(re.findall(r"work-pool create (\S+) --type process", text)) == pools == set(POOLS)
    assert set(re.findall(r"worker start --pool (\S+) ", text)) == pools


@pytest.mark.processes
@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_follows_its_schema(name: str) -> None:
    pytest.importorskip("check_jsonschema")
    command = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(INFRA / name)]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_compose_holds_no_secret_and_opens_no_port_to_the_world() -> None:
    document = yaml.safe_load((INFRA / "compose.yaml").read_text())
    environment = {k: v for service in document["services"].values() for k, v in service["environment"].items()}
    secret = {k: v for k, v in environment.items() if re.search("PASSWORD|KEY|CONNECTION_URL|AUTH", k)}
    assert len(secret) >= 7
    assert all("${" in value for value in secret.values()), "secrets come from compose.env"
    ports = [port for service in document["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    images = [service["image"] for service in document["services"].values()]
    assert all(":" in image and not image.endswith(":latest") for image in images), "pinned"


def test_the_image_is_pinned_and_not_root() -> None:
    lines = (INFRA / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases)
    assert [line.split()[1] for line in lines if line.startswith("USER")][-1] not in ("root", "0")
    copied = [part for line in lines if line.startswith("COPY") and "--from" not in line for part in line.split()[1:-1]]
    assert copied
    assert all((ROOT / part).exists() for part in copied), "the build would fail"
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("-c infra/constraints.txt" in line for line in installs)


def test_constraints_pin_what_is_installed() -> None:
    pins = dict(
        line.split("==") for line in (INFRA / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    assert {"torch", "torchvision", "diffusers", "transformers", "prefect", "pyjpegio", "boto3"} <= pins.keys()
    for name in ("diffusers", "prefect", "pillow"):
        assert pins[name] == version(name), f"{name}: make the file anew after the tests pass with another version"


@pytest.mark.parametrize("name", ["gpu_1", "gpu_8", "fsdp2_8"])
def test_accelerate_reads_its_configurations(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(INFRA / f"accelerate/{name}.yaml"))
    assert config.num_processes == (1 if name == "gpu_1" else 8)
    assert config.mixed_precision == "bf16"


def test_fsdp_wraps_a_layer_the_model_has() -> None:
    from diffusers.models.transformers import transformer_qwenimage

    plugin = yaml.safe_load((INFRA / "accelerate/fsdp2_8.yaml").read_text())["fsdp_config"]
    assert hasattr(transformer_qwenimage, plugin["fsdp_transformer_layer_cls_to_wrap"])


def test_policies_of_roles_that_do_more_reach_just_what_they_must() -> None:
    """Beside `policy.json`: who prunes and exports, and who trains. Nobody deletes starts, snapshots or sources."""
    policies = {n: json.loads((INFRA / f"iam/{n}.json").read_text())["Statement"] for n in ("upkeep", "training")}
    deletes = [r for s in policies["upkeep"] if "s3:DeleteObject" in s["Action"] for r in s["Resource"]]
    made = {r.rsplit("/", 2)[1] for r in deletes if "RUN-BUCKET" in r}
    assert made == {*upkeep.MADE_BY_STARTS, "orders"}
    assert not [r for r in deletes if "SOURCE-BUCKET" in r or "WEIGHTS-BUCKET" in r]
    writes = [r for s in policies["training"] if "s3:PutObject" in s["Action"] for r in s["Resource"]]
    assert writes == ["arn:aws:s3:::WEIGHTS-BUCKET/adapters/*"]


def test_the_policy_grants_only_what_storage_uses() -> None:
    policy = json.loads((INFRA / "iam/policy.json").read_text())
    allowed = [s for s in policy["Statement"] if s["Effect"] == "Allow"]
    actions = {action for s in allowed for action in s["Action"]}
    source = (ROOT / "refine_ops/s3.py").read_text()
    calls = set(re.findall(r"client\.(\w+)\(", source))
    needs = {
        "get_object": "s3:GetObject",
        "head_object": "s3:GetObject",
        "put_object": "s3:PutObject",
        "list_objects_v2": "s3:ListBucket",
        "delete_object": "s3:DeleteObject",
        "delete_objects": "s3:DeleteObject",
    }
    assert actions == {needs[call] for call in calls}, "least privilege: what the code calls, and nothing else"
    assert not any("*" in action for action in actions)
    for statement in allowed:
        writes = {"s3:PutObject", "s3:DeleteObject"} & set(statement["Action"])
        assert not writes or all("RUN-BUCKET/runs/" in r for r in statement["Resource"]), "sources are never written"
