#!/bin/sh
# Makes a guest that is all initramfs, once: FOLDER/kernel and FOLDER/initramfs, of Debian's cloud kernel (downloaded, not installed)
# and busybox.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
exec 9>lock
flock 9
sum=$(cat "$here/guest-init" "$here/guest.sh" | cksum | cut -d ' ' -f 1)
[ "$(cat made 2>/dev/null || true)" != "$sum" ] || exit 0
if [ ! -d tree ]; then
    rm -rf part
    mkdir part
    package=$(LC_ALL=C.UTF-8 apt-cache show --no-all-versions linux-image-cloud-amd64 | sed -n 's/^Depends: \([^ ,]*\).*/\1/p')
    (cd part && apt-get -q -o APT::Sandbox::User=root download "$package" && dpkg -x ./*.deb tree)
    mv part/tree tree
    rm -rf part
fi
release=$(ls tree/lib/modules)
depmod -b tree "$release"
rm -rf root
mkdir -p root/bin root/dev root/modules root/proc root/sys root/run root/etc root/var/log
cp /bin/busybox root/bin/busybox
number=10
for module in virtio_pci virtio_net virtio_blk button evdev; do
    # In the order in which they can be inserted, `builtin` lines left out.
    modprobe --dirname tree --set-version "$release" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p' >order
    while read -r file; do
        [ -z "$(find root/modules -name "*-${file##*/}")" ] || continue
        cp "$file" "root/modules/$number-${file##*/}"
        number=$((number + 1))
    done <order
done
cp "$here/guest-init" root/init
chmod 755 root/init
(cd root && find . | cpio -o -H newc --quiet) >initramfs
cp "tree/boot/vmlinuz-$release" kernel
echo "$sum" >made
