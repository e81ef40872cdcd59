import json
import sys

message = json.load(sys.stdin)
values = message["values"]
json.dump({"mean": sum(values) / len(values)}, sys.stdout)
