"""Pipelines on Kubernetes: rendered for KubeRay, checked, submitted, followed and explained.

model.py      RayJobs and RayClusters, typed, and every fault of one: rules (a job), clusters, raypods, promises
shapes.py     the fields of documents, with their types: fields (Ray and pods), objects (everything else)
render.py     a pipeline as a ConfigMap and a RayJob: no cluster needed
pods.py       the pods of it: restricted, read-only, with room for Ray
client.py     the API server, through lightkube
submit.py     apply, follow, and the exit code that belongs to it
diagnosis.py  why a job does not run, in plain words
policy.py     what manifests must keep to beyond their schema: podrules, hardening, access, traffic, limits, wellformed;
              bundle, room and serving for an installation as a whole, workloads for the pods in any document
checking.py   all of it for files, with places, reasons and advice: `orchestrate k8s check`
stop.py       what a pod that is to end tells the run in it
"""
