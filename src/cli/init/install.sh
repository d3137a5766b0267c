#!/bin/sh
# Puts the settings and certificates of node @NODE@ of the cluster @CLUSTER@ in place, and starts the node. Run it as root on
# the node's machine, after Maxine's package was installed there. Former settings are kept as maxine.toml.before.
set -eu
cd "$(dirname "$0")"
data=/var/lib/maxine
if [ -n "$(ls -A "$data" 2>/dev/null)" ]; then
  echo "$data is not empty, and nothing was changed. If only the package's own start made this data, delete it:" >&2
  echo "  systemctl stop maxine" >&2
  echo "  find $data -mindepth 1 -delete" >&2
  echo "Then run this script again. Never delete the data of a node that belongs to a cluster." >&2
  exit 1
fi
install -d -o root -g maxine -m 0750 /etc/maxine /etc/maxine/tls
if [ -e /etc/maxine/maxine.toml ]; then
  cp -p /etc/maxine/maxine.toml /etc/maxine/maxine.toml.before
fi
install -o root -g maxine -m 0640 maxine.toml /etc/maxine/maxine.toml
install -o root -g maxine -m 0640 tls/ca.pem tls/node-@NODE@.pem tls/node-@NODE@-key.pem /etc/maxine/tls
systemctl enable maxine
systemctl restart maxine
echo "The files of node @NODE@ are in /etc/maxine. Delete this copy, which contains the key of the node:"
echo "  rm -r $(pwd)"
