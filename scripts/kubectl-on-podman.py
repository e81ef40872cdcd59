#!/usr/bin/env python3
"""The part of kubectl that the README's first Job needs, on podman in place of a cluster.

It keeps its state in the folder that KUBECTL_STATE names. Pods run by `podman kube play`, so a worker's pod is the one that the
manifest has: its arguments, its volumes, its user, its read-only root. A Job's controller is a process in the background, which
keeps `completions`, `parallelism`, `backoffLimit` and `podFailurePolicy`. What podman does not know is left out of the broker's
pod: its volumes, its probes (rollout status waits for the port instead), and hooks (postStart is run by `podman exec`).

    kubectl apply [--server-side] -k FOLDER | -f FILE
    kubectl rollout status statefulset/NAME [--timeout=TIME]
    kubectl port-forward service/NAME PORT
    kubectl wait --for=condition=CONDITION [--timeout=TIME] job/NAME
    kubectl logs --selector job-name=NAME [--tail=-1]
    kubectl get job NAME --output json
    kubectl delete job NAME
    kubectl clean                         removes all that was made
"""

import asyncio
import base64
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import yaml

STATE = pathlib.Path(os.environ["KUBECTL_STATE"])
# Of everything that podman has a single name space for.
PREFIX = f"wq-run-{STATE.name}-".lower()
NETWORK = PREFIX + "network"
# Images of manifests, and what stands in for them here: NAME=OTHER, and more after spaces.
IMAGES = dict(pair.split("=", 1) for pair in os.environ.get("KUBECTL_IMAGES", "").split())


def main(words):
    flags = {}
    rest = []
    while words:
        word = words.pop(0)
        if word in ("-k", "-f", "--filename", "--selector", "-l", "--output", "-o"):
            flags[word.lstrip("-")] = words.pop(0)
        elif word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name] = value or True
        else:
            rest.append(word)
    flags = {{"filename": "f", "selector": "l", "output": "o"}.get(name, name): value for name, value in flags.items()}
    match rest:
        case ["apply"]:
            apply(flags)
        case ["rollout", "status", target]:
            rollout(target.split("/")[1], seconds(flags.get("timeout", "60s")))
        case ["port-forward", target, port]:
            asyncio.run(forward(target.split("/")[1], int(port)))
        case ["wait", target]:
            wait(target.split("/")[1], flags["for"].split("=")[1], seconds(flags.get("timeout", "30s")))
        case ["logs"]:
            logs(flags["l"].split("=")[1])
        case ["get", "job", name]:
            print((STATE / f"job-{name}.status").read_text())
        case ["delete", "job", name]:
            delete_job(name)
        case ["clean"]:
            clean()
        case ["controller", name]:
            Controller(name).run()
        case _:
            sys.exit(f"kubectl-on-podman: cannot do {' '.join(rest)}\n{__doc__}")


def podman(*words, check=True, **options):
    done = subprocess.run(["podman", *words], text=True, capture_output=True, **options)
    if check and done.returncode != 0:
        sys.exit(f"podman {' '.join(words[:4])}: {done.stderr.strip()}")
    return done


def seconds(text):
    return sum(int(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in re.findall(r"(\d+)([smh])", text))


# --- objects ---


def apply(flags):
    if "k" in flags:
        text = subprocess.run([os.environ["REAL_KUBECTL"], "kustomize", flags["k"]], check=True, text=True, capture_output=True).stdout
    else:
        text = sys.stdin.read() if flags["f"] == "-" else pathlib.Path(flags["f"]).read_text()
    objects = [o for o in yaml.safe_load_all(text) if o]
    if podman("network", "exists", NETWORK, check=False).returncode != 0:
        podman("network", "create", NETWORK)
    # What others refer to comes first.
    order = ["Secret", "ConfigMap", "Service", "StatefulSet", "Job"]
    for o in sorted(objects, key=lambda o: order.index(o["kind"]) if o["kind"] in order else -1):
        kind, name = o["kind"], o["metadata"]["name"]
        path = STATE / f"{kind}-{name}.json"
        is_new = not path.exists()
        if kind == "Job" and not is_new and json.loads(path.read_text())["spec"]["template"] != o["spec"]["template"]:
            sys.exit(f'The Job "{name}" is invalid: spec.template: field is immutable')
        path.write_text(json.dumps(o))
        if kind == "StatefulSet" and is_new:
            play_stateful(o)
        if kind == "Job" and is_new:
            # In a session of its own, so that it goes on after this command.
            subprocess.Popen([sys.executable, __file__, "controller", name], start_new_session=True, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=(STATE / f"job-{name}.errors").open("w"))
        print(f"{kind.lower()}/{name} serverside-applied")


def load(kind, name):
    return json.loads((STATE / f"{kind}-{name}.json").read_text())


def play(objects):
    podman("kube", "play", "--network", NETWORK, "-", input="---\n".join(yaml.safe_dump(o) for o in objects))


def pod(name, spec):
    """A pod as podman takes it."""
    spec = json.loads(json.dumps(spec))
    config_maps = []
    for container in spec["containers"]:
        for image, other in IMAGES.items():
            if container["image"].rsplit(":", 1)[0] == image:
                container["image"] = other
        for variable in container.get("env", []):
            # podman 4.3 cannot read the Secrets that it makes.
            secret = variable.pop("valueFrom", {}).get("secretKeyRef")
            if secret:
                variable["value"] = base64.b64decode(load("Secret", secret["name"])["data"][secret["key"]]).decode()
        # podman 4 would open the ports to the whole network.
        for left_out in ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle"):
            container.pop(left_out, None)
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            config_maps.append(load("ConfigMap", volume["configMap"]["name"]))
    spec["hostAliases"] = [{"ip": address, "hostnames": names} for address, names in hosts().items()]
    return [*config_maps, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": PREFIX + name}, "spec": spec}]


def hosts():
    """The addresses of services, by the names that pods of the namespace `default` and of others look them up by."""
    found = {}
    for path in STATE.glob("address-*"):
        service = path.name.removeprefix("address-")
        found[path.read_text()] = [service, f"{service}.default", f"{service}.default.svc"]
    return found


# --- the broker ---


def play_stateful(o):
    name = o["metadata"]["name"]
    spec = json.loads(json.dumps(o["spec"]["template"]["spec"]))
    files = STATE / "files"
    files.mkdir(exist_ok=True)
    config_maps = {v["name"]: load("ConfigMap", v["configMap"]["name"]) for v in spec["volumes"] if "configMap" in v}
    volumes = []
    for container in spec["containers"]:
        mounts = []
        for mount in container["volumeMounts"]:
            if mount["name"] in config_maps:
                file = files / mount["subPath"]
                file.write_text(config_maps[mount["name"]]["data"][mount["subPath"]])
                volumes.append({"name": f"file-{len(volumes)}", "hostPath": {"path": str(file), "type": "File"}})
                mounts.append({"name": volumes[-1]["name"], "mountPath": mount["mountPath"], "readOnly": True})
        container["volumeMounts"] = mounts
        container["securityContext"].pop("readOnlyRootFilesystem", None)
    spec["volumes"] = volumes
    play(pod(name, spec))
    infra = podman("pod", "inspect", PREFIX + name, "--format", "{{.InfraContainerID}}").stdout.strip()
    networks = json.loads(podman("inspect", infra).stdout)[0]["NetworkSettings"]["Networks"]
    for path in STATE.glob("Service-*.json"):
        service = json.loads(path.read_text())
        labels = o["spec"]["template"]["metadata"]["labels"]
        if service["spec"]["selector"].items() <= labels.items():
            (STATE / f"address-{service['metadata']['name']}").write_text(networks[NETWORK]["IPAddress"])


def rollout(name, patience):
    until = time.monotonic() + patience
    container = load("StatefulSet", name)["spec"]["template"]["spec"]["containers"][0]
    full_name = f"{PREFIX}{name}-{container['name']}"
    hook = container.get("lifecycle", {}).get("postStart", {}).get("exec", {}).get("command")
    if hook:
        podman("exec", full_name, *hook, timeout=patience)
    address = next(STATE.glob("address-*")).read_text()
    port = next(port["containerPort"] for port in container["ports"] if port["name"] == container["startupProbe"]["tcpSocket"]["port"])
    while not connects(address, port):
        if time.monotonic() > until:
            sys.exit("error: timed out waiting for the condition")
        time.sleep(0.5)
    print(f"partitioned roll out complete: 1 new pods have been updated...")


def connects(address, port):
    import socket
    try:
        socket.create_connection((address, port), timeout=1).close()
        return True
    except OSError:
        return False


async def forward(service, port):
    address = (STATE / f"address-{service}").read_text()

    async def copy(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader, writer):
        there = await asyncio.open_connection(address, port)
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print(f"Forwarding from 127.0.0.1:{port} -> {port}", flush=True)
    await server.serve_forever()


# --- Jobs ---


class Controller:
    def __init__(self, name):
        self.name = name
        self.spec = load("Job", name)["spec"]
        self.running = {}
        self.started = self.succeeded = self.failed = self.ignored = 0
        self.report(None)

    def run(self):
        completions = self.spec.get("completions")
        while True:
            wanted = self.spec["parallelism"]
            if completions is not None:
                wanted = min(wanted, completions - self.succeeded)
            elif self.succeeded:
                wanted = 0
            if wanted == 0 and not self.running:
                return self.report("Complete")
            while len(self.running) < wanted:
                self.start()
            reason = self.look()
            if reason is None and self.failed > self.spec.get("backoffLimit", 6):
                reason = "BackoffLimitExceeded"
            if reason is not None:
                for pod_name in self.running:
                    podman("pod", "rm", "--force", pod_name, check=False)
                return self.report("Failed", reason)
            time.sleep(0.2)

    def start(self):
        self.started += 1
        name = f"{self.name}-{self.started}"
        play(pod(name, self.spec["template"]["spec"]))
        self.running[PREFIX + name] = f"{PREFIX}{name}-{self.spec['template']['spec']['containers'][0]['name']}"
        self.report(None)

    def look(self):
        for pod_name, container in list(self.running.items()):
            state = json.loads(podman("inspect", container).stdout)[0]["State"]
            if state["Status"] not in ("exited", "stopped"):
                continue
            logs = podman("logs", container)
            with (STATE / f"job-{self.name}.log").open("a") as file:
                file.write(logs.stdout + logs.stderr)
            del self.running[pod_name]
            podman("pod", "rm", "--force", pod_name)
            action = self.action(state["ExitCode"])
            self.succeeded += action == "Succeed"
            self.failed += action == "Count"
            self.ignored += action == "Ignore"
            self.report(None)
            if action == "FailJob":
                self.failed += 1
                return f"PodFailurePolicy: exit status {state['ExitCode']}"
        return None

    def action(self, code):
        if code == 0:
            return "Succeed"
        for rule in self.spec.get("podFailurePolicy", {}).get("rules", []):
            codes = rule.get("onExitCodes", {})
            if code in codes.get("values", []) and codes["operator"] == "In":
                return rule["action"]
        return "Count"

    def report(self, condition, reason=None):
        conditions = [{"type": condition, "status": "True", "reason": reason}] if condition else []
        status = {"active": len(self.running), "succeeded": self.succeeded, "failed": self.failed, "conditions": conditions,
                  "ignored": self.ignored, "controller": os.getpid()}
        part = STATE / f"job-{self.name}.part"
        part.write_text(json.dumps({"status": status}))
        part.rename(STATE / f"job-{self.name}.status")


def status(name):
    path = STATE / f"job-{name}.status"
    return json.loads(path.read_text())["status"] if path.exists() else {"conditions": []}


def wait(name, condition, patience):
    until = time.monotonic() + patience
    while True:
        conditions = {c["type"].lower(): c for c in status(name)["conditions"]}
        if condition.lower() in conditions:
            print(f"job.batch/{name} condition met")
            return
        # kubectl would wait for as long as it was told to, and say nothing.
        errors = STATE / f"job-{name}.errors"
        if conditions or time.monotonic() > until or (errors.exists() and errors.read_text()):
            log = STATE / f"job-{name}.log"
            sys.exit(f"error: timed out waiting for the condition on jobs/{name}: {status(name)}\n"
                     f"{errors.read_text() if errors.exists() else ''}{log.read_text() if log.exists() else ''}")
        time.sleep(0.2)


def logs(name):
    path = STATE / f"job-{name}.log"
    print(path.read_text() if path.exists() else "", end="")


def delete_job(name):
    controller = status(name).get("controller")
    if controller and not status(name)["conditions"]:
        try:
            os.killpg(controller, signal.SIGTERM)
        except ProcessLookupError:
            pass
    remove_pods(f"{PREFIX}{name}-")
    for path in [STATE / f"Job-{name}.json", *STATE.glob(f"job-{name}.*")]:
        path.unlink(missing_ok=True)
    print(f'job.batch "{name}" deleted')


def remove_pods(prefix):
    for name in podman("pod", "ps", "--format", "{{.Name}}").stdout.split():
        if name.startswith(prefix):
            podman("pod", "rm", "--force", name, check=False)


def clean():
    for path in STATE.glob("Job-*.json"):
        delete_job(path.stem.removeprefix("Job-"))
    remove_pods(PREFIX)
    podman("network", "rm", "--force", NETWORK, check=False)


if __name__ == "__main__":
    main(sys.argv[1:])
