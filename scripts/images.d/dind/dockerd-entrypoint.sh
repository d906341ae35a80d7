#!/bin/sh
# What docker:dind's own entrypoint does for an engine without TLS. Slipway starts the daemon itself and does not come
# through here; the official GitLab runner and `docker run docker:dind` do.
set -e
if [ "$#" -eq 0 ] || [ "${1#-}" != "$1" ]; then
	set -- dockerd --host=unix:///var/run/docker.sock --host=tcp://0.0.0.0:2375 --tls=false "$@"
fi
exec "$@"
