"""infra/kubernetes: every overlay as kubectl renders it, against the schemas of releases, and what it promises."""

import uuid
from collections.abc import Iterator

import kubernetes_validate
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.templating import apply_values
from prefect_kubernetes.settings import KubernetesSettings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from genxfer.stack.deploy import job_template
from tests.conftest import REPOSITORY, not_possible_here
from tests.infra.containers import USER
from tests.infra.manifests import KUBERNETES, Object, Rendered, kustomize, one

OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
RELEASES = ("1.31", "1.34", "1.37")
API = "http://prefect.example:4200/api"
IMAGE = "registry.example/genxfer:0.1.0"


def pods(objects: list[Object]) -> Iterator[Object]:
    """Yield the specification of each pod."""
    for found in objects:
        if found["kind"] in ("Deployment", "Job"):
            yield found["spec"]["template"]["spec"]


def containers(pod: Object) -> list[Object]:
    found: list[Object] = pod.get("initContainers", []) + pod["containers"]
    return found


def check_restricted(pod: Object) -> None:
    """Assert what the namespace enforces (the Pod Security Standard `restricted`), and a root that is read-only."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == USER
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any("hostPath" in volume for volume in pod["volumes"])
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    for container in containers(pod):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] is True
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys() & container["resources"]["requests"].keys()
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_true_to_the_schemas(rendered: Rendered, overlay: str, release: str) -> None:
    for found in rendered(overlay):
        kubernetes_validate.validate(found, release, strict=True)


def test_a_slip_would_be_noticed(rendered: Rendered) -> None:
    job = yaml.safe_load(yaml.safe_dump(one(rendered("multi-node"), "Job", "genxfer-train")))
    job["spec"]["backofflimit"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, RELEASES[-1], strict=True)


def test_without_secrets_nothing_is_rendered() -> None:
    if (KUBERNETES / "base" / "secrets.env").exists():
        not_possible_here("there are secrets in this checkout")
    done = kustomize(KUBERNETES / "overlays" / "cpu")
    assert done.returncode != 0
    assert "secrets.env" in done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_in_one_namespace_and_restricted(rendered: Rendered, overlay: str) -> None:
    objects = rendered(overlay)
    enforced = one(objects, "Namespace", "genxfer")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"
    assert {found["metadata"].get("namespace") for found in objects if found["kind"] != "Namespace"} == {"genxfer"}
    for pod in pods(objects):
        check_restricted(pod)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_has_the_image_that_is_named_once(rendered: Rendered, overlay: str) -> None:
    objects = rendered(overlay)
    assert {container["image"] for pod in pods(objects) for container in containers(pod)} == {IMAGE}
    [deploy] = one(objects, "Deployment", "genxfer-worker")["spec"]["template"]["spec"]["initContainers"]
    environment = {entry["name"]: entry["value"] for entry in deploy["env"]}
    assert environment == {"GENXFER_IMAGE": IMAGE, "GENXFER_GPUS": "0" if overlay == "cpu" else "1"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_object_holds_a_secret_but_the_secret(rendered: Rendered, overlay: str) -> None:
    objects = rendered(overlay)
    names = set(one(objects, "Secret", "genxfer")["data"])
    assert {"PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "GENXFER_WEBHOOK_URL"} <= names
    assert not names & set(one(objects, "ConfigMap", "genxfer")["data"])
    for pod in pods(objects):
        for container in containers(pod):
            assert {"secretRef": {"name": "genxfer"}} in container["envFrom"]
            assert not names & {entry["name"] for entry in container.get("env", [])}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_worker_may_start_jobs_and_look_at_them_and_nothing_else(rendered: Rendered, overlay: str) -> None:
    objects = rendered(overlay)
    assert not any(found["kind"].startswith("ClusterRole") for found in objects)
    allowed = {
        (resource, verb)
        for rule in one(objects, "Role", "genxfer-worker")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    jobs = {("jobs", verb) for verb in ("create", "delete", "get", "list", "watch")}
    assert allowed == jobs | {("pods", verb) for verb in ("get", "list", "watch")} | {("pods/log", "get")}
    worker = one(objects, "Deployment", "genxfer-worker")["spec"]["template"]["spec"]
    with_token = [pod for pod in pods(objects) if pod["automountServiceAccountToken"]]
    assert with_token == [worker]


def test_a_flow_run_becomes_a_job_that_is_true_to_the_schemas(rendered: Rendered) -> None:
    for gpus, overlay in ((0, "cpu"), (1, "gpu")):
        manifest = flow_run_job(rendered(overlay))
        for misplaced in ("parallelism", "completions"):  # of the pod: Prefect's worker insists on them
            assert manifest["spec"]["template"]["spec"].pop(misplaced) == 1
        kubernetes_validate.validate(manifest, RELEASES[-1], strict=True)
        assert manifest["metadata"]["namespace"] == "genxfer"
        pod = manifest["spec"]["template"]["spec"]
        check_restricted(pod)
        [container] = pod["containers"]
        assert container["image"] == IMAGE
        assert container["args"] == ["prefect", "flow-run", "execute"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
        assert pod["automountServiceAccountToken"] is False
        environment = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert environment["PREFECT_API_URL"] == API
        assert environment["DO_NOT_TRACK"] == "1"  # of the deployment
        # Evicted, it goes back to the queue, and on from its checkpoint.
        assert manifest["spec"]["backoffLimit"] == 0
        assert environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"


def flow_run_job(objects: list[Object], run: FlowRun | None = None, api: str = API) -> Object:
    """Return the Job that Prefect's worker makes of a run, of the template that `deploy` puts into the pool."""
    [deploy] = one(objects, "Deployment", "genxfer-worker")["spec"]["template"]["spec"]["initContainers"]
    environment = {entry["name"]: entry["value"] for entry in deploy["env"]}
    text = one(objects, "ConfigMap", "genxfer-job-template")["data"]["job-template.json"]
    template = job_template(text, environment)
    variables = template["variables"]["properties"].items()
    values = {name: found["default"] for name, found in variables if "default" in found}
    for deployment in yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]:
        values |= deployment["work_pool"]["job_variables"]
    populated = apply_values(template["job_configuration"], values)
    configuration = KubernetesWorkerJobConfiguration.model_validate(populated)
    with temporary_settings({PREFECT_API_URL: api}):
        configuration.prepare_for_flow_run(run or FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="night-owl"))
    manifest: Object = configuration.job_manifest
    return manifest


def test_what_the_template_names_is_there(rendered: Rendered) -> None:
    objects = rendered("gpu")
    manifest = flow_run_job(objects)
    pod = manifest["spec"]["template"]["spec"]
    assert one(objects, "ServiceAccount", pod["serviceAccountName"])
    for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
        [name] = [entry[key]["name"] for entry in pod["containers"][0]["envFrom"] if key in entry]
        assert one(objects, kind, name)
    [claim] = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert one(objects, "PersistentVolumeClaim", claim["claimName"])


def test_the_workers_settings_are_settings(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    [worker] = one(rendered("cpu"), "Deployment", "genxfer-worker")["spec"]["template"]["spec"]["containers"]
    for entry in worker["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])
    settings = KubernetesSettings()
    assert settings.observer.namespaces == {"genxfer"}
    assert settings.cluster_uid == "genxfer"
    assert settings.worker.api_auth_string_secret_name == "genxfer"
    secret = one(rendered("cpu"), "Secret", "genxfer")
    assert settings.worker.api_auth_string_secret_key in secret["data"]


def test_the_training_is_an_indexed_job_whose_hosts_find_each_other(rendered: Rendered) -> None:
    objects = rendered("multi-node")
    job, service = one(objects, "Job", "genxfer-train"), one(objects, "Service", "genxfer-train")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(environment["PET_NNODES"])
    first = f"{job['metadata']['name']}-0.{pod['subdomain']}"  # how Kubernetes names the pod of index 0
    host, _, port = environment["PET_RDZV_ENDPOINT"].partition(":")
    assert host == first
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert [int(port)] == [entry["port"] for entry in service["spec"]["ports"]]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    policy = one(objects, "NetworkPolicy", "genxfer-train")["spec"]
    [rule] = policy["ingress"]
    assert rule["from"] == [{"podSelector": policy["podSelector"]}]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()


def test_a_training_goes_on_after_an_eviction_and_ends_where_another_try_is_no_use(rendered: Rendered) -> None:
    from genxfer.errors import DataError, ParameterError, StoreError, TrainingError

    spec = one(rendered("multi-node"), "Job", "genxfer-train")["spec"]
    assert spec["backoffLimit"] >= spec["completions"] * 3
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # else Kubernetes ignores the policy
    evicted, hopeless = spec["podFailurePolicy"]["rules"]
    assert (evicted["action"], evicted["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert hopeless["action"] == "FailJob"
    assert hopeless["onExitCodes"]["containerName"] == spec["template"]["spec"]["containers"][0]["name"]
    codes = set(hopeless["onExitCodes"]["values"])
    assert codes == {ParameterError.exit_code, DataError.exit_code}
    assert not codes & {StoreError.exit_code, TrainingError.exit_code, 143}


def test_gpus_are_asked_for_as_limits(rendered: Rendered) -> None:
    [train] = one(rendered("multi-node"), "Job", "genxfer-train")["spec"]["template"]["spec"]["containers"]
    assert train["resources"]["limits"]["nvidia.com/gpu"] == "1"
    shared = [mount["name"] for mount in train["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    assert shared == ["shared-memory"]
