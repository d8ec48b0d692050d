//! Programs that tasks call, and the Debian packages that hold them.

/// Programs that the lab calls, and the Debian packages that hold them.
pub(super) const LAB_PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("strace", "strace"),
    // Nodes that are Debian machines (`demo provider`), and clients that ask their services.
    ("debootstrap", "debootstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("kdig", "knot-dnsutils"),
    ("radclient", "freeradius-utils"),
    ("sipsak", "sipsak"),
    ("curl", "curl"),
];

/// What the bench calls beyond that: the peer, the load, and what turns its picture into pixels (it brings its fonts).
pub(super) const BENCH_PROGRAMS: &[(&str, &str)] = &[
    ("keepalived", "keepalived"),
    ("stress-ng", "stress-ng"),
    ("rsvg-convert", "librsvg2-bin"),
];

/// What the tests of the services call beyond the lab's: the servers that probes ask, the plugins that are probes, and
/// systemd, agents and storage for resources.
pub(super) const SERVICE_PROGRAMS: &[(&str, &str)] = &[
    ("nginx", "nginx-light"),
    ("unbound", "unbound"),
    ("freeradius", "freeradius"),
    ("kamailio", "kamailio"),
    (
        "/usr/lib/nagios/plugins/check_http",
        "monitoring-plugins-basic",
    ),
    ("sysctl", "procps"),
    ("/lib/systemd/systemd", "systemd"),
    ("dbus-daemon", "dbus-daemon"),
    ("/usr/lib/ocf/resource.d/heartbeat/Dummy", "resource-agents"),
    ("fence_ipmilan", "fence-agents"),
    ("apache2", "apache2"),
    ("tgtd", "tgt"),
    ("iscsiadm", "open-iscsi"),
    ("vgs", "lvm2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("modprobe", "kmod"),
];

/// What the lab of guests calls beyond the lab's: the machines, and what their image is made with. (Guests have their own
/// packages: tests/vm/src/image.)
pub(super) const VM_PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("/bin/busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("mke2fs", "e2fsprogs"),
    ("strip", "binutils"),
    ("ping", "iputils-ping"),
    // Virtual machines as resources: the daemon, its command, and what heartline-libvirt is built with.
    ("/usr/sbin/libvirtd", "libvirt-daemon-system"),
    ("virsh", "libvirt-clients"),
    ("/usr/include/libvirt/libvirt.h", "libvirt-dev"),
    ("pkg-config", "pkg-config"),
];

/// What libFuzzer is compiled with, and the Debian package that brings it.
pub(super) const CXX: (&str, &str) = ("c++", "g++");
