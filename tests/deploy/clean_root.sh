# Runs a command in a root that holds an operating system's libraries, a Python and nothing else; what `docker run` would do, by hand.
# usage: unshare --mount sh clean_root.sh ROOT PYTHON_PREFIX build|run USER COMMAND...
set -eu
root=$1 python=$2 stage=$3 user=$4
shift 4
mount --make-rprivate /
bound() { mkdir -p "$root$1" && mount --bind "$1" "$root$1" && mount -o remount,bind,ro "$root$1"; }
for path in /usr /etc "$python"; do bound "$path"; done
for link in bin sbin lib lib64; do [ -e "$root/$link" ] || ln -s "usr/$link" "$root/$link"; done
mkdir -p "$root/proc" "$root/dev" "$root/tmp" "$root/data" "$root/opt" "$root/root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
if [ "$stage" = build ]; then
    # Where this machine's pip may find wheels.
    for path in /opt/*; do [ "$path" = /opt/wst ] || [ ! -d "$path" ] || bound "$path"; done
else
    # As `docker run --read-only --tmpfs /tmp -v data:/data`: the mounts above stay, the rest of the root is read-only.
    mkdir -p "$root/data" && mount --bind "$root/data" "$root/data"
    mount --bind "$root" "$root.ro"
    for path in /usr /etc "$python" /proc /dev /tmp /data; do mount --rbind "$root$path" "$root.ro$path"; done
    mount -o remount,bind,ro "$root.ro"
    root=$root.ro
fi
exec "$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)" --userspec="$user" "$root" /usr/bin/env -C "${WORKDIR:-/}" "$@"
