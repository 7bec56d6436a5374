#!/bin/sh
# deb.sh: dist/denyspam_VERSION_ARCH.deb, and dist/denyspam.deb as its name for people. What `make deb` calls, after
# `make venv`.
#
# The package holds denyspam and what it needs from PyPI in /usr/lib/denyspam, since Debian lacks some of it, and uses
# the system's python3, of the same minor version as .venv's (compiled parts fit no other): build it on the release that
# it is for, or with PYTHON=python3.11. Its maintainer scripts stand in etc/deb/. Needs dpkg-deb and the package index.
set -eu
cd "$(dirname "$0")/.."
umask 022
python=.venv/bin/python
version=$($python -c 'import denyspam; print(denyspam.__version__)')
minor=$($python -c 'import sys; print(sys.version_info[1])')
arch=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
put() { install -D -m "$1" "$2" "$tree/$3"; }

# A copy, since setuptools leaves build/ beside what it builds.
mkdir "$tree/source" && cp -R setup.cfg setup.py pyproject.toml README.md LICENSE denyspam filters actions etc "$tree/source"
lib=$tree/usr/lib/denyspam
$python -m pip install -q --disable-pip-version-check --no-compile --target "$lib" "$tree/source[iptables,mmdb,top,web,zstd]" ||
    $python -m pip install -q --disable-pip-version-check --no-compile --upgrade --target "$lib" "$tree/source[mmdb,top,web,zstd]"
rm -rf "$tree/source" "$lib/bin"
find "$lib" -name __pycache__ -prune -exec rm -rf {} +
# The sources of what is compiled, and the tests of others.
rm -f "$lib/hyperscan/extension.c" "$lib/ifaddr/test_ifaddr.py"
find "$lib" -name direct_url.json -delete # where it was built is nobody's business

printf '%s\n' '#!/usr/bin/python3 -I' 'import sys' '' 'sys.path.insert(0, "/usr/lib/denyspam")' '' \
    'from denyspam.cli import main' '' 'main()' >"$tree/program"
put 755 "$tree/program" usr/sbin/denyspam
rm "$tree/program"
for unit in denyspam.service denyspam-web.service; do
    sed 's#/usr/local/sbin/denyspam#/usr/sbin/denyspam#' "etc/$unit" >"$tree/unit"
    put 644 "$tree/unit" "usr/lib/systemd/system/$unit"
    rm "$tree/unit"
done
put 644 etc/denyspam.sysusers usr/lib/sysusers.d/denyspam.conf
put 644 etc/denyspam.tmpfiles usr/lib/tmpfiles.d/denyspam.conf
for page in docs/man/*; do put 644 "$page" "usr/share/man/man${page##*.}/${page##*/}"; done
gzip -9n "$tree"/usr/share/man/man*/*
for name in README.md DESIGN.md CHANGELOG.md docs/*.md docs/*.svg; do put 644 "$name" "usr/share/doc/denyspam/$name"; done
put 644 LICENSE usr/share/doc/denyspam/copyright
put 644 etc/denyspam.conf usr/share/doc/denyspam/examples/denyspam.conf
put 644 etc/denyspam.grafana.json usr/share/doc/denyspam/examples/denyspam.grafana.json
for each in bash:bash-completion/completions/denyspam zsh:zsh/vendor-completions/_denyspam fish:fish/vendor_completions.d/denyspam.fish; do
    mkdir -p "$(dirname "$tree/usr/share/${each#*:}")"
    $python etc/completion.py "${each%%:*}" >"$tree/usr/share/${each#*:}"
done

for script in etc/deb/*; do put 755 "$script" "DEBIAN/${script##*/}"; done
cat >"$tree/DEBIAN/control" <<EOF
Package: denyspam
Version: $version
Architecture: $arch
Maintainer: denyspam <root@localhost>
Section: mail
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$tree" | cut -f1)
Depends: python3 (>= 3.$minor), python3 (<< 3.$((minor + 1))), libnftables1, libsystemd0
Recommends: nftables, ca-certificates, tzdata
Suggests: iptables, ipset
Description: bans virus senders, relay probers and spammers by the mail log
 Follows the logs of Postfix, exim, sendmail and the scanners beside them, counts
 the offences of every client, and has the kernel refuse the worst on port 25 for
 a while. Every ban ends by itself, can be explained and released. At first it
 only watches: denyspam setup --enforce has it ban.
EOF
find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p dist
dpkg-deb --root-owner-group -Zxz --build "$tree" "dist/denyspam_${version}_$arch.deb" >/dev/null
ln -sf "denyspam_${version}_$arch.deb" dist/denyspam.deb
echo "dist/denyspam_${version}_$arch.deb"
