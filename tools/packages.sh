#!/usr/bin/env bash
# The programs that the demo and some tests use and that pip can't install. On Debian and as root they are
# installed; elsewhere one line says what is missing, and what needs it is skipped with a reason.
set -u

declare -A package_of=(
  [fio]=fio
  [faketime]=faketime
  [nbdinfo]=libnbd-bin
  [nbdsh]=python3-libnbd
  [qemu-nbd]=qemu-utils
  [qemu-storage-daemon]=qemu-system-common
  [e2fsck]=e2fsprogs
  [mkfs.ext4]=e2fsprogs
  [fusermount3]=fuse3
  [ss]=iproute2
  [mkfs.xfs]=xfsprogs
  [mkfs.btrfs]=btrfs-progs
  [/usr/lib/postgresql/15/bin/pg_amcheck]=postgresql-15
  [nft]=nftables
  [nbdkit]=nbdkit
  [promtool]=prometheus
)
PATH="$PATH:/usr/sbin:/sbin"

missing_packages() {
  local program
  for program in "${!package_of[@]}"; do
    command -v "$program" >/dev/null 2>&1 || echo "${package_of[$program]}"
  done | sort -u
}

mapfile -t missing < <(missing_packages)
[ "${#missing[@]}" -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -qq update && apt-get -qq -y install --no-install-recommends "${missing[@]}"; } </dev/null >/dev/null 2>&1
  mapfile -t missing < <(missing_packages)
fi
if [ "${#missing[@]}" -ne 0 ]; then
  echo "not installed: ${missing[*]} (install them with your package manager; without them the demo does without a mounted filesystem and some tests are skipped)"
fi
exit 0
