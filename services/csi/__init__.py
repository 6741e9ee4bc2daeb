"""The CSI driver: Kubernetes' requests for volumes, in and out.

| module | idea |
|---|---|
| `app`, `server`, `edge` | the gRPC servers: sockets, decoding, spans, errors |
| `identity`, `controller`, `node` | the three services of the specification |
| `validate`, `errors`, `pending` | what a request must look like, what a caller is told, one at a time |
| `staging`, `host`, `mounts`, `commands` | from a device to a directory that a pod sees |
| `attachers` | from a frontend's socket to a device; plugins |
"""
