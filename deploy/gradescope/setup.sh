#!/bin/bash
# Gradescope runs this once, as root, when it builds the autograder's image: it installs packages and puts kstat in place.
# README.md says what may lie beside it.
set -eu -o pipefail

source=${AUTOGRADER:-/autograder}/source
prefix=${PREFIX:-/usr/local}

# What coursework scripts use, and what run_autograder needs: ip, unshare, runuser.
packages=(ca-certificates curl gcc iproute2 iputils-ping libc6-dev make netcat-openbsd procps python3 util-linux)
if [ -e "$source/packages.txt" ]; then
	read -r -d '' -a more < <(sed 's/#.*//' "$source/packages.txt") || :
	packages+=("${more[@]}")
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"

# put DIR: installs the binaries in it.
put() {
	install -d "$prefix/bin"
	install -m 755 "$1/kstat" "$prefix/bin/kstat"
	[ ! -e "$1/kstatd" ] || install -m 755 "$1/kstatd" "$prefix/bin/kstatd"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
shopt -s nullglob
archives=("$source"/kstat*.tar.gz)
toolchains=("$source"/go1.*.tar.gz)
if [ -e "$source/kstat" ] && [ ! -d "$source/kstat" ]; then
	put "$source"
elif [ -e "$source/kstat/go.mod" ]; then
	if [ ${#toolchains[@]} -gt 0 ]; then
		tar -xzf "${toolchains[0]}" -C "$scratch"
		export GO=$scratch/go/bin/go
	fi
	mkdir "$scratch/bin"
	(cd "$source/kstat" && CGO_ENABLED=0 tools/go build -buildvcs=false -trimpath -o "$scratch/bin/" ./cmd/kstat ./cmd/kstatd)
	put "$scratch/bin"
elif [ ${#archives[@]} -gt 0 ]; then
	mkdir "$scratch/unpacked"
	tar -xzf "${archives[0]}" -C "$scratch/unpacked"
	binary=$(find "$scratch/unpacked" -type f -name kstat -print -quit)
	[ -n "$binary" ] || { echo "setup.sh: there is no kstat in ${archives[0]##*/}" >&2; exit 1; }
	put "$(dirname "$binary")"
else
	echo "setup.sh: no kstat beside it: add the binary kstat, a kstat*.tar.gz, or a checkout in the directory kstat" >&2
	exit 1
fi
"$prefix/bin/kstat" version

# For grade.conf's user=student. What the submission must not read or write is closed to it.
id student >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin student
chmod o= "$source"
