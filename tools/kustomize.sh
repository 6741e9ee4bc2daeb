#!/usr/bin/env bash
# Builds kustomize into .tools, once: from Go modules, which prove what they are by go's checksum database. This
# version builds with the Go of Debian 12. Without Go one line says so, and what needs kustomize is skipped.
set -u

version=v5.0.3
directory="${1:-.tools}"
stamp="$directory/kustomize-$version"
[ -x "$directory/kustomize" ] && [ -e "$stamp" ] && exit 0

if ! command -v go >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing Debian package: golang-go"
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends golang-go; } \
    </dev/null >/dev/null 2>&1
fi
if ! command -v go >/dev/null 2>&1; then
  echo "not built: kustomize (install Go; without it the tests of the manifests are skipped)"
  exit 0
fi
mkdir -p "$directory"
echo "building kustomize $version into $directory"
if GOFLAGS=-mod=mod GOBIN="$(cd "$directory" && pwd)" nice -n 5 go install "sigs.k8s.io/kustomize/kustomize/v5@$version" \
  </dev/null >"$directory/kustomize.log" 2>&1; then
  rm -f "$directory"/kustomize-v*
  touch "$stamp"
else
  echo "not built: kustomize (see $directory/kustomize.log); without it the tests of the manifests are skipped"
fi
exit 0
