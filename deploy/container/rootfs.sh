#!/bin/sh
# Makes the file system of the image:
#
#   rootfs.sh PROGRAM DIR
#
# It takes the program, and from the Debian that it runs on: the libraries that the program is linked with, the certificate
# authorities, and the records of these packages, from which scanners know the versions.
set -eu

program=$1
root=$2

mkdir -p "$root"/etc/ssl/certs "$root"/usr/bin "$root"/var/lib/dpkg/status.d
install -m 0755 "$program" "$root"/usr/bin/maxine

# Each library is copied to the place where the program looks for it.
ldd "$program" | grep -o '/[^ ]*' | sort -u | while read -r library; do
  install -D -m 0755 "$(readlink -f "$library")" "$root$library"
done
# glibc itself reads /etc/hosts and asks DNS, in this order.
echo 'hosts: files dns' >"$root"/etc/nsswitch.conf

cat /usr/share/ca-certificates/mozilla/*.crt >"$root"/etc/ssl/certs/ca-certificates.crt

for package in libc6 libgcc-s1 ca-certificates base-files; do
  dpkg-query --status "$package" >"$root"/var/lib/dpkg/status.d/"$package"
  install -D -m 0644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
done
cp /etc/os-release "$root"/etc/os-release

echo 'root:x:0:0:root:/root:/sbin/nologin
maxine:x:10001:10001:Maxine:/var/lib/maxine:/sbin/nologin' >"$root"/etc/passwd
echo 'root:x:0:
maxine:x:10001:' >"$root"/etc/group

# A volume that is mounted here for the first time gets this owner and mode.
install -d -m 0700 -o 10001 -g 10001 "$root"/var/lib/maxine
install -d -m 1777 "$root"/tmp
