#!/usr/bin/env bash
# The program csi-sanity, made from its Go module into the given directory; nothing is done when it is there. A Go that is older
# than the module needs fetches a newer one by itself (GOTOOLCHAIN).
set -euo pipefail
into=$1
version=v5.5.0

[ -x "$into/csi-sanity" ] && exit 0
PATH="$PATH:/usr/local/go/bin:/usr/lib/go/bin"
if ! command -v go >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing Debian's package golang-go"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -qq update && apt-get -qq -y install --no-install-recommends golang-go; } </dev/null >/dev/null 2>&1 || true
fi
if ! command -v go >/dev/null 2>&1; then
  echo "make conformance needs Go to make csi-sanity: install the package golang-go (1.21 or newer), or put csi-sanity into $into" >&2
  exit 1
fi
echo "making csi-sanity $version"
GOTOOLCHAIN=auto GOBIN="$(realpath "$into")" go install "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@$version"
