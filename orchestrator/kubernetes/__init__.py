"""Pipelines on Kubernetes: rendered for KubeRay, checked, submitted, followed and explained.

model.py      what KubeRay 1.7 takes, and what its operator refuses although the API server accepted it
shapes.py     the fields of those documents, with their types
render.py     a pipeline as a ConfigMap and a RayJob: no cluster needed
pods.py       the pods of it: restricted, read-only, with room for Ray
client.py     the API server, through lightkube
submit.py     apply, follow, and the exit code that belongs to it
diagnosis.py  why a job does not run, in plain words
policy.py     what manifests must keep to beyond their schema: hardening, access, traffic, wellformed; bundle and serving
              for an installation as a whole, workloads for the pods in any document
stop.py       what a pod that is to end tells the run in it
"""
