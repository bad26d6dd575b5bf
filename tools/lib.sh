# Shell functions that the scripts here and in e2e/ share. Sourced, never run.

export HOME=${HOME:-/root}
DAVIT_TREE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DAVIT_CACHE=${DAVIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/davit}
# The programs that a build makes, for tests and quickstart.
DAVIT_DIST=${DAVIT_DIST:-$DAVIT_TREE/e2e/bin}
# Go for the end-to-end tests: what e2e/go.mod asks for, and where tools/setup puts it if it has to.
GO_VERSION=1.26.8
GO_MINIMUM=1.26.2
CRI_TOOLS_VERSION=v1.36.0
CRI_TOOLS=$DAVIT_CACHE/bin/cri-tools-$CRI_TOOLS_VERSION

export PATH=$DAVIT_CACHE/go-$GO_VERSION/bin:$PATH:/usr/local/go/bin
export GOFLAGS=${GOFLAGS:--buildvcs=false}

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

need_root() {
  [[ $(id -u) == 0 ]] || die "must be run as root: davit makes namespaces, mounts and cgroups"
}

# go_is_new_enough: is there a Go, and is it at least GO_MINIMUM?
go_is_new_enough() {
  local have
  have=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || return 1
  [[ $(printf '%s\n' "$GO_MINIMUM" "${have#go}" | sort -V | head -n 1) == "$GO_MINIMUM" ]]
}

# step TEXT COMMAND...: runs a command and tells how long it took. Its output is shown only if it
# fails, or while it runs with DAVIT_VERBOSE=1.
step() {
  local text=$1 began=$EPOCHREALTIME log status=0
  shift
  if [[ ${DAVIT_VERBOSE:-} == 1 ]]; then
    echo "   ... $text"
    "$@" || status=$?
  else
    log=$(mktemp /tmp/davit-step.XXXXXX)
    [[ -t 1 ]] && printf '   ...    %s' "$text"
    "$@" >"$log" 2>&1 || status=$?
    [[ -t 1 ]] && printf '\r'
    if ((status != 0)); then
      echo "FAILED     $text"
      tail -n 60 "$log" >&2
    fi
    rm -f "$log"
  fi
  ((status == 0)) || return "$status"
  printf '%7.2f s  %s\n' "$(bc_difference "$EPOCHREALTIME" "$began")" "$text"
}

# bc_difference A B: A - B of two values of EPOCHREALTIME, in seconds.
bc_difference() {
  local us=$((${1/./} - ${2/./}))
  printf '%d.%06d' $((us / 1000000)) $((us % 1000000))
}

# free_port: a TCP port of the loopback address that nobody listens on now.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

# start_registry DIRECTORY: runs Debian's docker-registry on a free loopback port with its data in a
# directory, and sets REGISTRY_PID and REGISTRY (host:port).
start_registry() {
  local directory=$1 try
  mkdir -p "$directory"
  for try in 1 2 3 4 5; do
    REGISTRY=127.0.0.1:$(free_port)
    cat >"$directory/config.yml" <<CONFIG
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: "$directory/data"}, delete: {enabled: true}}
http: {addr: "$REGISTRY"}
CONFIG
    docker-registry serve "$directory/config.yml" >"$directory/log" 2>&1 &
    REGISTRY_PID=$!
    while kill -0 "$REGISTRY_PID" 2>/dev/null; do
      if curl -fsS -o /dev/null "http://$REGISTRY/v2/" 2>/dev/null; then return 0; fi
      sleep 0.05
    done
  done
  cat "$directory/log" >&2
  echo "docker-registry does not start" >&2
  return 1
}

# end_process PID: SIGTERM, and SIGKILL after ten seconds.
end_process() {
  local pid=$1 i
  [[ -n $pid ]] || return 0
  kill "$pid" 2>/dev/null || return 0
  for ((i = 0; i < 200; i++)); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.05
  done
  kill -9 "$pid" 2>/dev/null || true
}

# build_cri_tools: crictl and critest, once a version.
build_cri_tools() {
  [[ -x $CRI_TOOLS/crictl && -x $CRI_TOOLS/critest ]] && return 0
  local flags="-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$CRI_TOOLS_VERSION" new=$CRI_TOOLS.new.$$
  mkdir -p "$new" && (
    cd "$DAVIT_TREE/e2e/critools" && export CGO_ENABLED=0 &&
      go build -trimpath -ldflags "$flags" -o "$new/crictl" sigs.k8s.io/cri-tools/cmd/crictl &&
      go test -c -trimpath -ldflags "$flags" -o "$new/critest" sigs.k8s.io/cri-tools/cmd/critest
  ) && rm -rf "$CRI_TOOLS" && mv "$new" "$CRI_TOOLS"
}

# build_image_tool: davit-image, which makes images and pushes them.
build_image_tool() {
  mkdir -p "$DAVIT_DIST" && (cd "$DAVIT_TREE/e2e" && CGO_ENABLED=0 go build -o "$DAVIT_DIST/davit-image" ./cmd/davit-image)
}
