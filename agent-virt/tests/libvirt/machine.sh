#!/bin/sh
# What a machine needs before its libvirtd starts: number, folder, address of its daemon (default: on its bridge). It changes mounts, host name and devices, so it runs only where
# a test has made namespaces for it. Without /dev/kvm: the one here may emulate other kernels, slower than QEMU does.
set -eu
[ -n "${HEARTLINE_TEST_INSIDE:-}" ] && [ "$(hostname)" != "${HEARTLINE_TEST_HOST:?}" ] || {
    echo "only in a test's own namespaces" >&2
    exit 97
}
number=$1 folder=$2 address=${3:-10.88.0.$1}
mkdir -p "$folder/lib" "$folder/etc" "$folder/cache" "$folder/log" "$folder/dev"
cp -a /etc/libvirt/. "$folder/etc/"
rm -rf "$folder/etc/qemu/networks/autostart" "$folder/etc/qemu/networks/default.xml"
mkdir -p /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt
mount -t tmpfs none /run/libvirt
mount --bind "$folder/lib" /var/lib/libvirt
mount --bind "$folder/etc" /etc/libvirt
mount --bind "$folder/cache" /var/cache/libvirt
mount --bind "$folder/log" /var/log/libvirt
mount -t tmpfs -o mode=755 dev "$folder/dev"
for device in null zero full random urandom tty; do cp -a /dev/$device "$folder/dev/"; done
mkdir "$folder/dev/net" "$folder/dev/pts" "$folder/dev/shm"
cp -a /dev/net/tun "$folder/dev/net/"
ln -s /proc/self/fd "$folder/dev/fd"
ln -s pts/ptmx "$folder/dev/ptmx"
mount --rbind /dev/pts "$folder/dev/pts"
mount -t tmpfs shm "$folder/dev/shm"
mount --rbind "$folder/dev" /dev
cat >/etc/libvirt/libvirtd.conf <<CONF
listen_tls = 0
listen_tcp = 1
listen_addr = "$address"
auth_tcp = "none"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
host_uuid = "0000000$number-1111-4222-8333-44444444444$number"
keepalive_interval = 1
keepalive_count = 3
CONF
cat >/etc/libvirt/qemu.conf <<CONF
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
migration_address = "$address"
migration_host = "$address"
max_core = 0
CONF
printf '10.88.0.1 n1\n10.88.0.2 n2\n127.0.0.1 localhost\n' >"$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts
ip link set lo up
ip link add br0 type bridge forward_delay 0
ip address add "10.88.0.$number/24" dev br0
ip link set br0 up
