#!/usr/bin/env python3
"""Writes tests/schemas/keda.json from a checkout of KEDA: the schemas of the objects that `wq-run manifest keda` prints.

    scripts/keda-schemas.py CHECKOUT [TAG]

Its own schemas let unknown names pass, and these do not. The pods of a ScaledJob are left out: they are a Job's, and are checked
by the schemas of Kubernetes. Needs PyYAML.
"""

import json
import pathlib
import subprocess
import sys

import yaml

KINDS = {"scaledjobs": "ScaledJob", "scaledobjects": "ScaledObject", "triggerauthentications": "TriggerAuthentication"}
SCALERS = ["rabbitmq", "redis-streams", "redis", "aws-sqs-queue"]
# Which names a scaler takes of AWS's keys is in its code alone: pkg/scalers/aws/aws_common.go.
AWS_KEYS = ["awsAccessKeyID", "awsSecretAccessKey"]


def main(checkout, tag="v2.20.2"):
    def read(path):
        return subprocess.run(["git", "-C", checkout, "show", f"{tag}:{path}"], check=True, capture_output=True).stdout

    schemas = {"$comment": f"From KEDA {tag} by scripts/keda-schemas.py. KEDA is licensed under Apache-2.0."}
    for name, kind in KINDS.items():
        crd = yaml.safe_load(read(f"config/crd/bases/keda.sh_{name}.yaml"))
        spec = strict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
        if kind == "ScaledJob":
            spec["properties"]["jobTargetRef"] = {"type": "object"}
        spec["properties"].pop("advanced", None)
        schemas[kind] = spec
    scalers = {scaler["type"]: scaler for scaler in json.loads(read("schema/generated/scalers-schema.json"))["scalers"]}
    schemas["scalers"] = {name: places(scalers[name]["parameters"]) for name in SCALERS}
    schemas["scalers"]["aws-sqs-queue"]["authentication"] += AWS_KEYS
    folder = pathlib.Path(__file__).parent.parent / "tests" / "schemas"
    folder.mkdir(exist_ok=True)
    (folder / "keda.json").write_text(json.dumps(schemas, indent=1) + "\n")


def strict(schema):
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    left_out = ("x-kubernetes-", "description")
    kept = {
        key: strict(value)
        for key, value in schema.items()
        if not (isinstance(key, str) and key.startswith(left_out) and not isinstance(value, dict))
    }
    if kept.get("type") == "object" and "properties" in kept:
        kept.setdefault("additionalProperties", False)
    return kept


def places(parameters):
    def names(place):
        return [parameter["name"] for parameter in parameters if parameter.get(place)]

    return {
        "metadata": names("metadataVariableReadable"),
        "authentication": names("triggerAuthenticationVariableReadable"),
    }


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
