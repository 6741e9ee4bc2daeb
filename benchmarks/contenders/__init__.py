"""What is measured: each contender serves one volume over NBD and names its processes.

| contender | copies | what it shows |
|---|---|---|
| `stos` | 3, TLS, checksums | the product; its client is on a node without a copy |
| `stos-beside` | 3, TLS, checksums | the same with the client on the primary's node: one hop less |
| `floor` | 3, TLS, checksums | the work itself in the same language, with no guarantees around it |
| `nbdkit` | 1 | the machine's own drift, and what NBD itself costs |
| `quorum` | 3 | qemu's quorum driver over three NBD exports: no TLS, no checksums, no failover |
| `ceph` | 3, checksums | Ceph RBD of the distribution's packages, where they are installed |
"""

from benchmarks.contenders.ceph import Ceph
from benchmarks.contenders.contract import ROOT, Contender, cpu_us
from benchmarks.contenders.floor import Floor
from benchmarks.contenders.nbdkit import Nbdkit
from benchmarks.contenders.quorum import Quorum
from benchmarks.contenders.stos import Stos, StosBeside

__all__ = ["ROOT", "Ceph", "Contender", "Floor", "Nbdkit", "Quorum", "Stos", "StosBeside", "cpu_us"]
