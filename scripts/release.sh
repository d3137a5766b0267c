#!/usr/bin/env bash
# Builds every artefact of a release into one folder, installs each as its users do, and runs it:
#
#   scripts/release.sh --dry-run [--binary FILE] [--out DIR] [--skip NAME,...] [--only NAME,...] [--report FILE]
#
#   --binary    the program (default: target/release/maxine); the artefacts get a stripped copy
#   --out       the folder (default: target/release-VERSION)
#   --skip      leaves steps out: program packages node python go java crate chart image site sbom, and try-NAME
#   --only      runs only these, with what the folder has already
#   --report    also writes the table of results to this file
#
#   MAXINE_RELEASE_URL   where the files will be served; the formula and install.sh get it (default: the dry run's own server)
#
# Nothing is published: .github/workflows/release.yml does that, with what this script has built. A step that fails does not stop
# the others; the exit code tells. Needs what scripts/install-tools.sh release installs. Slow: image (mmdebstrap, minutes), and
# try-packages and try-image (root, systemd-nspawn, podman; minutes), try-crate (compiles the client).
set -uo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD

usage() { sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2; }
VERSION=$(scripts/version.sh)
BINARY=target/release/maxine
OUT=target/release-$VERSION
SKIP=,
ONLY=
REPORT=
DRY=
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) DRY=1 ;;
    --binary) BINARY=$2; shift ;;
    --out) OUT=$2; shift ;;
    --skip) SKIP=,$2,; shift ;;
    --only) ONLY=,$2,; shift ;;
    --report) REPORT=$2; shift ;;
    *) usage ;;
  esac
  shift
done
[ -n "$DRY" ] || usage
[ -x "$BINARY" ] || { echo "$BINARY is not there: cargo build --release --locked" >&2; exit 1; }
scripts/version.sh check || exit 1
[ "$("$BINARY" --version | sed -n '1s/^maxine //p')" = "$VERSION" ] || { echo "$BINARY is not version $VERSION" >&2; exit 1; }
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
BINARY=$(realpath "$BINARY")
WORK=$(mktemp -d)
LOGS=$OUT/logs
mkdir -p "$LOGS"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
PIDS=()
stop() {
  for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null; done
  wait 2>/dev/null
  rm -rf "$WORK"
}
trap stop EXIT
trap "exit 143" TERM INT

PROGRAM=maxine-$VERSION-x86_64-linux-gnu
PYTHON_VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' sdks/python/pyproject.toml)
WHEEL=maxine_client-$PYTHON_VERSION-py3-none-any.whl

# --- What is built ---

build_program() {
  local folder=$WORK/$PROGRAM
  mkdir -p "$folder/completions" "$folder/man"
  strip --strip-all -o "$folder/maxine" "$BINARY"
  cp LICENSE-MIT LICENSE-APACHE CHANGELOG.md "$folder/"
  "$folder/maxine" man "$folder/man" >/dev/null
  "$folder/maxine" completions bash >"$folder/completions/maxine.bash"
  "$folder/maxine" completions fish >"$folder/completions/maxine.fish"
  "$folder/maxine" completions zsh >"$folder/completions/_maxine"
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$WORK" -c "$PROGRAM" | gzip -9n >"$OUT/$PROGRAM.tar.gz"
}

build_packages() { scripts/package.sh --binary "$BINARY" --out "$OUT"; }

build_node() { (cd sdks/node && npm pack --silent --pack-destination "$OUT"); }

build_python() {
  [ -x target/release-tools/bin/pip ] || python3 -m venv target/release-tools
  target/release-tools/bin/pip install --quiet --disable-pip-version-check "build==1.3.0" "setuptools==80.9.0"
  cp -r sdks/python "$WORK/python"
  target/release-tools/bin/python -m build --no-isolation --outdir "$OUT" "$WORK/python"
}

# The module as a folder. The module proxy serves modules under the address of their repository only.
build_go() { git archive --format zip --prefix "maxine-go-$VERSION/" -o "$OUT/maxine-go-$VERSION.zip" HEAD:sdks/go; }

# A file repository, as Maven reads it, and the same jars beside it.
build_java() {
  cp -r sdks/java sdks/spec "$WORK/"
  (cd "$WORK/java" && mvn -q -B package -DskipTests "-Dproject.build.outputTimestamp=$SOURCE_DATE_EPOCH")
  local to=$WORK/maven/maxine/maxine-client/$VERSION
  mkdir -p "$to"
  cp "$WORK/java/target/maxine-client-$VERSION.jar" "$WORK/java/target/maxine-client-$VERSION-sources.jar" "$to/"
  cp sdks/java/pom.xml "$to/maxine-client-$VERSION.pom"
  cp "$to"/* "$OUT/"
}

# The client and the crate that it needs, as a registry would get them.
build_crate() {
  cargo package --quiet --locked --offline --no-verify --allow-dirty --target-dir "$WORK/crates" -p maxine-balance -p maxine-client
  cp "$WORK/crates/package"/*.crate "$OUT/"
}

build_chart() {
  scripts/helm.sh tools
  PATH="$ROOT/target/helm-tools/bin:$PATH" helm package --destination "$OUT" deploy/helm/maxine
}

build_image() {
  scripts/container.sh --binary "$BINARY" ${MAXINE_BASE:+--base "$MAXINE_BASE"} "localhost/maxine:$VERSION"
  rm -f "$OUT/maxine-image-$VERSION.oci.tar"
  buildah push --quiet "localhost/maxine:$VERSION" "oci-archive:$OUT/maxine-image-$VERSION.oci.tar:maxine:$VERSION"
}

build_site() {
  scripts/docs.py build "$WORK/site"
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$WORK" -c site | gzip -9n >"$OUT/maxine-site-$VERSION.tar.gz"
}

# What Cargo.lock and the dashboard's package-lock.json name, as CycloneDX. That includes what only tests need.
build_sbom() {
  local tool=target/release-tools/node_modules/.bin/cdxgen part
  [ -x "$tool" ] || npm install --silent --no-audit --no-fund --omit=optional --prefix target/release-tools "@cyclonedx/cdxgen@12.8.4"
  CARGO_NET_OFFLINE=true "$tool" --type cargo --no-recurse --no-install-deps --spec-version 1.6 --output "$WORK/server.json" .
  "$tool" --type npm --no-recurse --no-install-deps --spec-version 1.6 --output "$WORK/dashboard.json" ui
  for part in server dashboard; do
    # The folder of this build says nothing about the artefacts.
    sed "s#$ROOT/##g; s#$ROOT##g" "$WORK/$part.json" >"$OUT/maxine-$part-$VERSION.cdx.json"
    python3 -c 'import json, sys; sbom = json.load(open(sys.argv[1])); print(sys.argv[1], len(sbom["components"]), "components"); sys.exit(len(sbom["components"]) < 100)' \
      "$OUT/maxine-$part-$VERSION.cdx.json"
  done
}

# --- How it is tried ---

# One node for the clients.
start_node() {
  mkdir -p "$WORK/node"
  strip --strip-all -o "$WORK/node/maxine" "$BINARY"
  "$WORK/node/maxine" dev --nodes 1 --output json --no-samples --port 0 --data-dir "$WORK/node/dev" >"$WORK/node/out" 2>"$WORK/node/err" &
  PIDS+=($!)
  for _ in $(seq 300); do
    MAXINE_SERVER=$(sed -n '1s/.*"http":"\([^"]*\)".*/\1/p' "$WORK/node/out")
    if [ -n "$MAXINE_SERVER" ] && curl --fail --silent "$MAXINE_SERVER/api/v1/ready" >/dev/null; then break; fi
    sleep 0.1
  done
  export MAXINE_SERVER
  curl --fail --silent --show-error "$MAXINE_SERVER/api/v1/ready" >/dev/null
}

# A server for the files.
start_server() {
  python3 -u -m http.server --bind 127.0.0.1 --directory "$OUT" 0 >"$WORK/server.out" 2>&1 &
  PIDS+=($!)
  for _ in $(seq 100); do
    SERVED=$(sed -n 's#.*\(http://127.0.0.1:[0-9]*\)/.*#\1#p' "$WORK/server.out")
    [ -z "$SERVED" ] || break
    sleep 0.1
  done
  [ -n "$SERVED" ]
}

# install.sh and the formula, as the release has them, against a server of the folder; and that a changed archive is refused.
try_program() {
  local to=$WORK/installed
  "$OUT/install.sh" --from "$SERVED" --to "$to"
  [ "$("$to/maxine" --version | head -n 1)" = "maxine $VERSION" ]
  mkdir -p "$WORK/changed"
  cp "$OUT/SHA256SUMS" "$OUT/$PROGRAM.tar.gz" "$WORK/changed/"
  printf x >>"$WORK/changed/$PROGRAM.tar.gz"
  if "$OUT/install.sh" --from "file://$WORK/changed" --to "$WORK/never"; then echo "a changed archive was installed"; return 1; fi
  [ ! -e "$WORK/never" ]
  # The formula: what Homebrew reads of it, without Homebrew.
  local url sum
  url=$(sed -n 's/^  url "\(.*\)"/\1/p' "$OUT/maxine.rb")
  sum=$(sed -n 's/^  sha256 "\(.*\)"/\1/p' "$OUT/maxine.rb")
  if grep -n '@' "$OUT/maxine.rb"; then return 1; fi
  curl --fail --silent --show-error --output "$WORK/formula.tar.gz" "$SERVED/${url##*/}"
  echo "$sum  $WORK/formula.tar.gz" | sha256sum --check
  mkdir "$WORK/formula" && tar -xzf "$WORK/formula.tar.gz" -C "$WORK/formula" --strip-components 1
  (cd "$WORK/formula" && ls maxine man/*.1 completions/maxine.bash completions/maxine.fish completions/_maxine >/dev/null)
  if command -v ruby >/dev/null; then ruby -c "$OUT/maxine.rb"; else echo "NOT RUN: the syntax of the formula (ruby is not installed)"; fi
}

try_node() {
  mkdir -p "$WORK/try-node" && cd "$WORK/try-node"
  npm init --yes >/dev/null
  npm install --silent --no-audit --no-fund --offline "$OUT/maxine-client-$VERSION.tgz"
  cat >esm.mjs <<'END'
import { Client } from "maxine-client";
const client = new Client(process.env.MAXINE_SERVER);
await client.register("try-node", "a", { address: "http://127.0.0.1:1" });
const resolver = await client.resolver("try-node");
console.log("chosen", resolver.choose().address);
await client.stop();
END
  echo 'const { Client } = require("maxine-client"); console.log("required", typeof Client);' >cjs.cjs
  { node esm.mjs && node cjs.cjs; }
  # The types, with the compiler that the dashboard uses.
  printf 'import { Client, type Instance } from "maxine-client";\nconst client = new Client("http://h", { tokenFile: "t" });\nexport const one: Promise<Instance | undefined> = client.resolver("s").then((r) => r.choose({ key: "k" })?.instance);\n' >types.mts
  printf 'import maxine = require("maxine-client");\nexport const client: maxine.Client = new maxine.Client("http://h");\n' >types.cts
  npm install --silent --no-audit --no-fund --save-dev typescript@5.9.3 @types/node@20
  npx tsc --noEmit --strict --module node16 --moduleResolution node16 --target es2022 types.mts types.cts
}

try_python() {
  python3 -m venv "$WORK/try-python"
  "$WORK/try-python/bin/pip" install --quiet --no-index --disable-pip-version-check "$OUT/$WHEEL"
  cd "$WORK"
  "$WORK/try-python/bin/python" - <<'END'
import asyncio, os
import maxine
from maxine_client import Client
from maxine_client.aio import AsyncClient
with Client(os.environ["MAXINE_SERVER"]) as client:
    client.register("try-python", "a", address="http://127.0.0.1:1")
    print("chosen", client.resolver("try-python").choose().address, maxine.Maxine.__name__)
async def run():
    async with AsyncClient(os.environ["MAXINE_SERVER"]) as client:
        await client.register("try-python", "b", address="http://127.0.0.1:2")
        print("chosen", (await client.resolver("try-python")).choose().address)
asyncio.run(run())
END
}

try_go() {
  mkdir -p "$WORK/try-go" && cd "$WORK/try-go"
  python3 -m zipfile -e "$OUT/maxine-go-$VERSION.zip" .
  mkdir program && cd program
  cat >main.go <<'END'
package main

import (
	"context"
	"fmt"
	"os"

	"maxine/native"
)

func main() {
	ctx := context.Background()
	client, err := native.New([]string{os.Getenv("MAXINE_SERVER")}, native.Options{})
	if err == nil {
		_, err = client.Register(ctx, "try-go", "a", native.Body{Address: "http://127.0.0.1:1"})
	}
	if err == nil {
		var resolver *native.Resolver
		if resolver, err = client.Resolver(ctx, "try-go", ""); err == nil {
			fmt.Println("chosen", resolver.Choose(nil).Instance.Address)
			err = client.Stop(ctx, 0)
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
END
  go mod init example.com/program 2>/dev/null
  go mod edit -require maxine@v0.0.0 -replace "maxine@v0.0.0=../maxine-go-$VERSION"
  GOFLAGS=-mod=mod GOPROXY=off go run .
}

try_java() {
  local to=$WORK/try-java/maven/maxine/maxine-client/$VERSION
  mkdir -p "$to" "$WORK/try-java/src/main/java" && cd "$WORK/try-java"
  cp "$OUT/maxine-client-$VERSION.jar" "$OUT/maxine-client-$VERSION.pom" "$to/"
  cat >pom.xml <<END
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>example</groupId><artifactId>program</artifactId><version>1</version>
  <properties><maven.compiler.release>17</maven.compiler.release><project.build.sourceEncoding>UTF-8</project.build.sourceEncoding></properties>
  <repositories><repository><id>release</id><url>file://$WORK/try-java/maven</url></repository></repositories>
  <dependencies><dependency><groupId>maxine</groupId><artifactId>maxine-client</artifactId><version>$VERSION</version></dependency></dependencies>
  <build><plugins><plugin><artifactId>maven-compiler-plugin</artifactId><version>3.14.1</version></plugin></plugins></build>
</project>
END
  cat >src/main/java/Program.java <<'END'
import java.util.Map;
import maxine.client.MaxineClient;

public class Program {
    public static void main(String[] arguments) throws Exception {
        try (MaxineClient client = new MaxineClient(System.getenv("MAXINE_SERVER"))) {
            client.register("try-java", "a", "http://127.0.0.1:1", Map.of());
            System.out.println("chosen " + client.resolver("try-java", null).choose().address());
        }
    }
}
END
  # Not the copy that `mvn install` has left in the local repository.
  rm -rf "$HOME/.m2/repository/maxine/maxine-client/$VERSION"
  mvn -q -B compile
  java -cp "target/classes:$to/maxine-client-$VERSION.jar" Program
  rm -rf "$HOME/.m2/repository/maxine/maxine-client"
}

# A program outside of the workspace that has the client from its crate file.
try_crate() {
  mkdir -p "$WORK/try-crate/src" && cd "$WORK/try-crate"
  local crate
  for crate in maxine-balance maxine-client; do tar -xzf "$OUT/$crate-$VERSION.crate" || return 1; done
  printf '[package]\nname = "program"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\nmaxine-client = "%s"\n[patch.crates-io]\nmaxine-balance = { path = "maxine-balance-%s" }\nmaxine-client = { path = "maxine-client-%s" }\n[workspace]\nexclude = ["maxine-*"]\n' \
    "$VERSION" "$VERSION" "$VERSION" >Cargo.toml
  echo 'fn main() { let _ = maxine_client::Client::new(["http://127.0.0.1:1"], maxine_client::Options::default()); println!("built"); }' >src/main.rs
  cargo run --quiet --offline
}

try_packages() { MAXINE_BIN=$BINARY scripts/install-check.sh deb && MAXINE_BIN=$BINARY scripts/install-check.sh rpm; }
try_chart() {
  PATH="$ROOT/target/helm-tools/bin:$PATH" helm template maxine "$OUT/maxine-$VERSION.tgz" --namespace prod --kube-version 1.34 \
    --values deploy/helm/tests/values/secret.yaml >"$WORK/chart.yaml"
  diff deploy/helm/tests/golden/secret.yaml "$WORK/chart.yaml"
}
try_image() { MAXINE_BIN=$BINARY scripts/install-check.sh container; }
try_site() {
  mkdir -p "$WORK/try-site" && tar -xzf "$OUT/maxine-site-$VERSION.tar.gz" -C "$WORK/try-site"
  grep -q "Maxine $VERSION" "$WORK/try-site/site/index.html" && ls "$WORK"/try-site/site/searchindex*.js
}

# --- The run ---

ROWS=()
FAILED=0
step() {
  local name=$1 began=$SECONDS result=ok function=build_$1
  case "$name" in try-*) function=try_${name#try-} ;; esac
  case "$SKIP" in *",$name,"*) ROWS+=("| $name | not run | |"); echo "$name: not run"; return ;; esac
  if [ -n "$ONLY" ]; then case "$ONLY" in *",$name,"*) ;; *) return ;; esac; fi
  # Not in the condition of an `if`, where `set -e` has no effect.
  (set -e; "$function") >"$LOGS/$name.log" 2>&1
  if [ $? -ne 0 ]; then
    result=FAILED
    FAILED=$((FAILED + 1))
    tail -n 15 "$LOGS/$name.log" >&2
  fi
  ROWS+=("| $name | $result | $((SECONDS - began)) |")
  echo "$name: $result ($((SECONDS - began)) s)"
}
for name in program packages node python go java crate chart image site sbom; do step "$name"; done

# The formula and the script that installs, with the address from which the files will be served.
start_server || { echo "no server for the files" >&2; exit 1; }
start_node || { echo "no node to try the clients with" >&2; cat "$WORK/node/err" >&2; exit 1; }
URL=${MAXINE_RELEASE_URL:-$SERVED}
if [ -e "$OUT/$PROGRAM.tar.gz" ]; then
  sed "s#@HOMEPAGE@#${MAXINE_HOMEPAGE:-$URL}#; s#@URL@#$URL#; s#@VERSION@#$VERSION#; s#@SHA256@#$(sha256sum <"$OUT/$PROGRAM.tar.gz" | cut -d ' ' -f 1)#" \
    deploy/homebrew/maxine.rb.in | sed '/^# scripts\/release.sh/d' >"$OUT/maxine.rb"
  sed -i "s#@VERSION@#$VERSION#g" "$OUT/maxine.rb"
  sed "s#^FROM=\$#FROM=$URL#" scripts/install.sh >"$OUT/install.sh"
  chmod 0755 "$OUT/install.sh"
fi
(cd "$OUT" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum >SHA256SUMS)

for name in program node python go java crate packages chart image site; do step "try-$name"; done

if [ -n "$REPORT" ]; then
  {
    echo "# The last dry run of a release"
    echo
    echo "Written by [scripts/release.sh](../../scripts/release.sh) ([how a release is made](versioning.md#making-a-release)). Version $VERSION," \
      "$(date --utc +%F), $(. /etc/os-release && echo "$PRETTY_NAME"), $(uname -m)."
    echo
    echo "The first steps build an artefact each. The steps that begin with try install one in an empty place and run it. The seconds are those of" \
      "a machine that may do other work too."
    echo
    echo "| step | result | seconds |"
    echo "| --- | --- | --- |"
    printf '%s\n' "${ROWS[@]}"
    echo
    echo "| artefact | bytes |"
    echo "| --- | --- |"
    (cd "$OUT" && find . -maxdepth 1 -type f -printf '| `%P` | %s |\n' | LC_ALL=C sort)
  } >"$REPORT"
fi
echo "$((${#ROWS[@]} - FAILED - $(printf '%s\n' "${ROWS[@]}" | grep -c 'not run'))) passed, $FAILED failed"
[ "$FAILED" = 0 ]
