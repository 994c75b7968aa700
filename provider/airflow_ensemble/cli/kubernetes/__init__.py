"""The backend ``kubernetes`` on the command line: manifests, and Kubernetes' own ``kubectl``."""
