#!/usr/bin/env bash
# Runs a command on a Ray cluster whose hosts are network namespaces of this computer (Linux, root).
# Each host has its own address, object store and folder. The command runs on the first host, with
# Ray's head, and RAY_ADDRESS is set.
#   ./benchmarks/ray_hosts.sh HOSTS CPUS COMMAND...
set -eu
hosts=$1 cpus=$2
shift 2
name=tfpg$$
folder=$(mktemp -d /tmp/tfpg-hosts-XXXX)

clean_up() {
    for signal in TERM KILL; do
        for ((i = 1; i <= hosts; i++)); do
            ip netns pids "$name-$i" 2>/dev/null | xargs --no-run-if-empty kill "-$signal" || true
        done
        sleep 2
    done 2>/dev/null
    for ((i = 1; i <= hosts; i++)); do ip netns delete "$name-$i" || true; done
    ip link delete "$name" || true
    rm -rf "$folder"
}
trap clean_up EXIT

export RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(head --bytes 32 /dev/urandom | od --address-radix n --format x1 | tr --delete ' \n')
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_ADDRESS=10.251.0.1:6379
ip link add "$name" type bridge
ip link set "$name" up
for ((i = 1; i <= hosts; i++)); do
    host=$name-$i
    ip netns add "$host"
    ip link add "v$name-$i" type veth peer name eth0 netns "$host"
    ip link set "v$name-$i" master "$name" up
    ip -netns "$host" link set lo up
    ip -netns "$host" address add "10.251.0.$i/24" dev eth0
    ip -netns "$host" link set eth0 up
    role=(--address "$RAY_ADDRESS")
    [ "$i" -gt 1 ] || role=(--head --port 6379 --include-dashboard=false)
    mkdir -p "$folder/$i"
    ip netns exec "$host" ray start "${role[@]}" --node-ip-address "10.251.0.$i" --block \
        --num-cpus "$cpus" --temp-dir "$folder/$i" >"$folder/$i.log" 2>&1 &
    disown
    for _ in $(seq 60); do # until it runs
        ! grep --quiet --no-messages "Ray runtime started" "$folder/$i.log" || break
        sleep 1
    done
    grep --quiet "Ray runtime started" "$folder/$i.log" || { cat "$folder/$i.log" >&2; exit 1; }
done
ip netns exec "$name-1" "$@"
