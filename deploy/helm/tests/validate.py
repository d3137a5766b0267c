"""Checks renderings against the schemas of a version of Kubernetes: validate.py VERSION FILE..."""

import logging
import sys

import kubernetes_validate
import yaml

# Their schemas belong to other projects. `scripts/helm.sh apiserver` checks them.
ELSEWHERE = {"Certificate", "ServiceMonitor", "PrometheusRule"}

logging.disable(logging.WARNING)
version, *files = sys.argv[1:]
failed = False
for file in files:
    names = set()
    with open(file) as rendering:
        objects = [each for each in yaml.safe_load_all(rendering) if each]
    for each in objects:
        name = (each["kind"], each["metadata"]["name"])
        if name in names:
            print(f"{file}: {name} is there twice")
            failed = True
        names.add(name)
        if each["kind"] in ELSEWHERE:
            continue
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            print(f"{file}: {name}: {error.path}: {error.message}")
            failed = True
    if not objects:
        print(f"{file}: empty")
        failed = True
sys.exit(failed)
