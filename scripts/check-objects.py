#!/usr/bin/env python3
"""Checks objects of Kubernetes: by the schemas of its versions and of KEDA, by the `restricted` Pod Security standard, and that
what they refer to is there or is said to be needed.

    scripts/check-objects.py FILE...

Run by scripts/check-manifests.sh, in its Python.
"""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
# The field of image volumes came with 1.31.
IMAGE_VOLUMES = [version for version in VERSIONS if version != "1.30"]
KEDA = json.loads((pathlib.Path(__file__).parent.parent / "tests/schemas/keda.json").read_text())
# What KEDA's scalers can't do without.
REQUIRED = {
    "rabbitmq": ["queueName", "host", "mode", "value"],
    "redis-streams": ["stream", "address", "streamLength"],
    "redis": ["listName", "address", "listLength"],
    "aws-sqs-queue": ["queueURL", "awsRegion", "queueLength"],
}
# The volumes that the standard allows.
VOLUMES = {"configMap", "secret", "persistentVolumeClaim", "emptyDir", "projected", "image", "downwardAPI", "csi", "ephemeral"}

failures = []


def main(files):
    checked = 0
    for file in files:
        text = pathlib.Path(file).read_text()
        objects = [o for o in yaml.safe_load_all(text) if o and "kustomize.config.k8s.io" not in o["apiVersion"]]
        for o in objects:
            checked += 1
            check(file, o, objects, text)
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        sys.exit(1)
    keda = KEDA["$comment"].split()[2]
    print(f"{checked} objects in {len(files)} files are valid for Kubernetes {VERSIONS[0]} to {VERSIONS[-1]} and KEDA {keda}")


def check(file, o, objects, text):
    name = f"{file}: {o['kind']} {o['metadata']['name']}"

    def expect(is_so, what):
        if not is_so:
            failures.append(f"{name}: {what}")

    if o["apiVersion"] == "keda.sh/v1alpha1":
        check_keda(o, objects, name, expect)
    elif o["apiVersion"].startswith("monitoring.coreos.com/"):
        return
    else:
        check_kubernetes(o, name)
    template = template_of(o)
    if template is not None:
        check_pod(o, template, objects, text, expect)


def template_of(o):
    spec = o.get("spec", {})
    if o["kind"] == "ScaledJob":
        return spec["jobTargetRef"]["template"]
    return spec.get("template") if o["kind"] != "NetworkPolicy" else None


def check_kubernetes(o, name):
    has_images = "image" in json.dumps((template_of(o) or {}).get("spec", {}).get("volumes", []))
    for version in IMAGE_VOLUMES if has_images else VERSIONS:
        try:
            kubernetes_validate.validate(o, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            failures.append(f"{name}: not valid for Kubernetes {version}: {error.message} at {list(error.path)}")


def check_keda(o, objects, name, expect):
    kind, spec = o["kind"], o["spec"]
    for error in jsonschema.Draft7Validator(KEDA[kind]).iter_errors(spec):
        failures.append(f"{name}: not valid for KEDA: {error.message} at {list(error.path)}")
    if kind == "ScaledJob":
        # The CRD has the schema of a Job there.
        check_kubernetes({"apiVersion": "batch/v1", "kind": "Job", "metadata": o["metadata"], "spec": spec["jobTargetRef"]}, name)
    if kind == "ScaledObject":
        target = spec["scaleTargetRef"]["name"]
        scaled = [d for d in objects if d["kind"] == "Deployment" and d["metadata"]["name"] == target]
        expect(len(scaled) == 1, f"there is no Deployment {target}")
        expect(all("replicas" not in d["spec"] for d in scaled), "the Deployment has a number of replicas too")
    for trigger in spec.get("triggers", []):
        scaler = KEDA["scalers"][trigger["type"]]
        expect(all(isinstance(value, str) for value in trigger["metadata"].values()), "a trigger's metadata is text")
        unknown = set(trigger["metadata"]) - set(scaler["metadata"])
        expect(not unknown, f"the scaler {trigger['type']} knows no {unknown}")
        reference = trigger["authenticationRef"]["name"]
        logins = [a for a in objects if a["kind"] == "TriggerAuthentication" and a["metadata"]["name"] == reference]
        expect(len(logins) == 1, f"there is no TriggerAuthentication {reference}")
        given = {p["parameter"] for a in logins for p in a["spec"].get("secretTargetRef", [])}
        expect(given <= set(scaler["authentication"]), f"the scaler {trigger['type']} takes no {given} from a Secret")
        missing = set(REQUIRED[trigger["type"]]) - given - set(trigger["metadata"])
        expect(not missing, f"the scaler {trigger['type']} needs {missing}")


def check_pod(o, template, objects, text, expect):
    spec = template["spec"]
    security = spec.get("securityContext", {})
    expect(security.get("runAsNonRoot") is True, "runAsNonRoot")
    expect(security.get("seccompProfile") == {"type": "RuntimeDefault"}, "seccompProfile")
    expect(spec.get("automountServiceAccountToken") is False, "automountServiceAccountToken")
    expect(not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")), "a namespace of the host")
    volumes = {}
    for volume in spec.get("volumes", []):
        made_of = set(volume) - {"name"}
        expect(made_of <= VOLUMES and len(made_of) == 1, f"a volume of {made_of}")
        expect(volume["name"] not in volumes, f"two volumes {volume['name']}")
        volumes[volume["name"]] = volume
    claims = {claim["metadata"]["name"] for claim in o["spec"].get("volumeClaimTemplates", [])}
    mounted = set()
    for container in spec.get("initContainers", []) + spec["containers"]:
        expect(container.get("securityContext") == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
            "the securityContext of a container")
        resources = container.get("resources", {})
        expect("memory" in resources.get("limits", {}), "no limit of memory")
        expect("cpu" not in resources.get("limits", {}) or "cpu=" in text, "a limit of CPU, which throttles heartbeats")
        for resource, asked in resources.get("requests", {}).items():
            most = resources.get("limits", {}).get(resource)
            expect(most is None or amount(asked) <= amount(most), f"more {resource} is asked for than may be taken")
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        expect(len(paths) == len(set(paths)), "two volumes at one path")
        mounted |= {mount["name"] for mount in container.get("volumeMounts", [])}
        for variable in container.get("env", []):
            secret = variable.get("valueFrom", {}).get("secretKeyRef")
            expect(variable["name"] != "BROKER_URL" or secret, "the broker's URL is written out")
            if secret:
                expect(is_there(objects, "Secret", secret["name"], text), f"the Secret {secret['name']} is not said to be needed")
    expect(mounted == set(volumes) | claims, f"mounted {mounted}, of {set(volumes) | claims}")
    for volume in volumes.values():
        for source in [volume] + volume.get("projected", {}).get("sources", []):
            if "configMap" in source:
                config_map = source["configMap"]["name"]
                expect(is_there(objects, "ConfigMap", config_map, text), f"the ConfigMap {config_map} is not said to be needed")
    job = o["spec"].get("jobTargetRef", o["spec"])
    if "podFailurePolicy" in job:
        expect(spec.get("restartPolicy") == "Never", "podFailurePolicy asks for restartPolicy Never")
        names = {container["name"] for container in spec["containers"]}
        rules = job["podFailurePolicy"]["rules"]
        expect(all(rule["onExitCodes"]["containerName"] in names for rule in rules if "onExitCodes" in rule), "a rule for no container")
    for config_map in (c for c in objects if c["kind"] == "ConfigMap"):
        # As etcd counts it: bytes that stand in base64 are decoded.
        size = sum(len(value) * 3 // 4 for value in config_map.get("binaryData", {}).values())
        expect(size <= 1 << 20, f"the ConfigMap {config_map['metadata']['name']} has {size} bytes")


def is_there(objects, kind, name, text):
    return f"# Needs the {kind} {name}" in text or any(o["kind"] == kind and o["metadata"]["name"] == name for o in objects)


def amount(text):
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    number = str(text).rstrip("mkMGKi")
    return float(number) * units.get(str(text)[len(number):], 1)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
