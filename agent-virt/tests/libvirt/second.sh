#!/bin/sh
# The first process of the second machine; all of it ends with this. Scripts' folder, own folder.
set -eu
[ -n "${HEARTLINE_TEST_INSIDE:-}" ] || exit 97
hostname n2
mount -t tmpfs none /run
sh "$1/machine.sh" 2 "$2"
until ip link set up0 master br0 up 2>/dev/null; do sleep 0.05; done
/usr/sbin/libvirtd --listen </dev/null >"$2/daemon.log" 2>&1 &
wait $!
