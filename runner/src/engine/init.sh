#!/bin/sh
# Process 1 of an engine: containerd first, awaited by its socket (dockerd waiting for a containerd of its own takes a
# second), then dockerd with the flags given. Stops both in the opposite order and says what may still change on disk.
# Works in busybox and in dash. Its standard output is a file of the runner's.
set -u
run=/run/slipway
log=$run/log
mkdir -p "$run" /run/containerd /run/docker
say() { echo "slipway: $*"; }
last_words() { tail -c 3500 "$log"; }

# Version 2 control groups: a group with processes of its own can have no controlled children, so ours move down.
groups=/sys/fs/cgroup
if [ -e "$groups/cgroup.controllers" ]; then
	mkdir -p "$groups/init"
	while read -r pid; do
		echo "$pid" >"$groups/init/cgroup.procs"
	done <"$groups/cgroup.procs" 2>/dev/null
	for controller in $(cat "$groups/cgroup.controllers"); do
		echo "+$controller" >"$groups/cgroup.subtree_control"
	done 2>/dev/null
fi

containerd --config /etc/slipway/containerd.toml >>"$log" 2>&1 &
containerd=$!
dockerd=
stopping=
trap 'stopping=1; kill -TERM ${dockerd:-$containerd} 2>/dev/null' TERM INT
while [ ! -S /run/containerd/containerd.sock ]; do
	if ! kill -0 "$containerd" 2>/dev/null; then
		last_words
		say "containerd ended before it listened"
		exit 1
	fi
	sleep 0.01
done

dockerd "$@" >>"$log" 2>&1 &
dockerd=$!
# The daemon was told before it was there.
[ -z "$stopping" ] || kill -TERM "$dockerd"
while :; do
	wait "$dockerd"
	status=$?
	kill -0 "$dockerd" 2>/dev/null || break
done

if [ -z "$stopping" ] || [ "$status" -ne 0 ]; then
	last_words
	say "dockerd ended with $status"
	exit 1
fi
# Only containerd knows which snapshots are still written in place. It tells their folders by their mounts. Views are
# what builds looked at; dockerd forgets them, and now and then they are removed, with what else nobody needs.
for space in $(ctr namespaces ls -q); do
	snapshots="ctr -n $space snapshots --snapshotter overlayfs"
	list=$run/snapshots.$space
	$snapshots ls >"$list"
	if [ "$(grep -c ' View *$' "$list")" -ge 10 ]; then
		grep ' View *$' "$list" | while read -r key rest; do
			$snapshots rm "$key"
		done
	fi
	# A collection that the job itself asked for (a prune) may still be under way, and take what would be named here.
	ctr -n "$space" leases create --id slipway-collect >/dev/null
	ctr -n "$space" leases delete --sync slipway-collect >/dev/null
	$snapshots ls >"$list"
	while read -r key parent kind; do
		if [ -z "$kind" ]; then
			kind=$parent
			parent=-
		fi
		case $kind in
		Committed) echo "slipway-snapshot Committed $key $parent" ;;
		Active) echo "slipway-snapshot Active $key $parent" $($snapshots mounts /x "$key") ;;
		esac
	done <"$list"
done
kill -TERM "$containerd"
wait "$containerd"
status=$?
if [ "$status" -eq 0 ]; then
	say "stopped cleanly"
else
	last_words
	say "containerd ended with $status"
fi
