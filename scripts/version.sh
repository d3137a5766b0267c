#!/usr/bin/env bash
# The one version of the server, the clients, the chart, the image and the documentation.
#
#   scripts/version.sh            prints it
#   scripts/version.sh check      fails if a file has another version (a second; scripts/test.sh runs it)
#   scripts/version.sh 2.1.0      sets it everywhere, also 2.1.0-rc.1, and begins its section in CHANGELOG.md
#
# The version is that of [workspace.package] in Cargo.toml. docs/reference/versioning.md says when which part of it grows.
set -euo pipefail
cd "$(dirname "$0")/.."

# Each line: a file, and a text in it with @ in place of the version. ~ is the version as Python writes it (2.1.0rc1).
PLACES='
Cargo.toml|^version = "@"
Cargo.toml|^maxine-balance = { version = "@"
deploy/helm/maxine/Chart.yaml|^version: @
deploy/helm/maxine/Chart.yaml|^appVersion: @
deploy/helm/tests/golden/*.yaml|app.kubernetes.io/version: "@"
deploy/helm/tests/golden/*.yaml|helm.sh/chart: maxine-@
deploy/helm/tests/golden/*.yaml|image: "registry.example.com/maxine:@"
deploy/compose/compose.yaml|localhost/maxine:@
deploy/container/Containerfile|localhost/maxine:@
docs/guides/install.md|localhost/maxine:@
docs/guides/install.md|maxine_@-1_amd64.deb
docs/guides/install.md|maxine-@-1.x86_64.rpm
docs/guides/kubernetes.md|ghcr.io/OWNER/maxine:@
docs/reference/openapi.json|^    "version": "@"
sdks/node/package.json|^  "version": "@"
sdks/node/package-lock.json|^  "version": "@"
sdks/node/package-lock.json|      "name": "maxine-client",\n      "version": "@"
sdks/node/README.md|maxine-client-@.tgz
sdks/python/pyproject.toml|^version = "~"
sdks/python/maxine_client/__init__.py|^__version__ = "~"
sdks/python/README.md|maxine_client-~-py3
sdks/java/pom.xml|<artifactId>maxine-client</artifactId>\n  <version>@<
sdks/java/spring/pom.xml|<artifactId>maxine-spring-boot-starter</artifactId>\n  <version>@<
sdks/java/spring/README.md|<version>@<
sdks/java/README.md|<version>@<
sdks/go/README.md|maxine-go-@.zip
'

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
VERSION='[0-9]+\.[0-9]+\.[0-9]+(-[a-z]+\.[0-9]+)?'
VERSION_OF_PYTHON='[0-9]+\.[0-9]+\.[0-9]+([a-z]+[0-9]+)?'

python_of() { sed -E 's/-([a-z]+)\./\1/' <<<"$1"; }

# Prints the lock file with the version of the workspace's own packages, which have no source.
lock() {
  awk -v version="$1" '
    /^\[\[package\]\]/ { own = 0 }
    /^name = "maxine/ { own = 1 }
    own && /^version = / { $0 = "version = \"" version "\"" }
    { print }
  ' Cargo.lock
}

# Compares every place with a version, and with a second argument changes it. Prints the places that had another one.
set_version() {
  local to=$1 file pattern files
  while IFS='|' read -r file pattern; do
    [ -n "$file" ] || continue
    files=($file)
    TO=$to PYTHON=$(python_of "$to") PATTERN=$pattern OLD=$VERSION OLD_PYTHON=$VERSION_OF_PYTHON COUNT=${#files[@]} perl -0777 ${2:+-i} -e '
      my %seen;
      while (<>) {
        my ($before, $kind, $after) = $ENV{PATTERN} =~ /^(.*)([@~])(.*)$/s;
        my ($new, $old) = $kind eq "@" ? @ENV{"TO", "OLD"} : @ENV{"PYTHON", "OLD_PYTHON"};
        my $start = $before =~ s/^\^// ? "(?m:^)" : "";
        $before =~ s/\\n/\n/;
        my $text = $_;
        my $found = 0;
        $text =~ s/$start\Q$before\E\K$old(?=\Q$after\E)/$found = 1; $new/ge;
        print STDERR "$ARGV: $before$new$after\n" if !$found && $ENV{COUNT} == 1 || $text ne $_;
        print $text;
      }' "${files[@]}" >/dev/null
  done <<<"$PLACES"
  lock "$to" | cmp -s - Cargo.lock || echo "Cargo.lock" >&2
}

case "${1:-}" in
  "") echo "$version" ;;
  check)
    wrong=$(set_version "$version" 2>&1)
    grep -q "^## $version\b" CHANGELOG.md || wrong="$wrong
CHANGELOG.md: ## $version"
    [ -z "$wrong" ] || { printf 'not the version %s, which is expected in:\n%s\n' "$version" "$wrong" >&2; exit 1; }
    echo "every file has the version $version"
    ;;
  *)
    [[ "$1" =~ ^$VERSION$ ]] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
    set_version "$1" write
    lock "$1" >Cargo.lock.new
    mv Cargo.lock.new Cargo.lock
    grep -q "^## $1\b" CHANGELOG.md || sed -i "0,/^## /s//## $1 (unreleased)\n\n## /" CHANGELOG.md
    "$0" check
    ;;
esac
