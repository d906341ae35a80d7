#!/bin/sh
# Does for the stand-in what docker:stable's own entrypoint does: says where the engine is when nobody else did, and
# turns TLS on when the engine's service left client certificates.
set -eu

certs=${DOCKER_TLS_CERTDIR:-}
tls=no
if [ -n "$certs" ] && [ -s "$certs/client/ca.pem" ] && [ -s "$certs/client/cert.pem" ] && [ -s "$certs/client/key.pem" ]; then
	tls=yes
fi
if [ -z "${DOCKER_HOST:-}" ] && [ ! -S /var/run/docker.sock ]; then
	if [ "$tls" = yes ] || [ -n "${DOCKER_TLS_VERIFY:-}" ]; then
		export DOCKER_HOST=tcp://docker:2376
	else
		export DOCKER_HOST=tcp://docker:2375
	fi
fi
case ${DOCKER_HOST:-} in
tcp:*:2375) ;;
tcp:*)
	if [ -z "${DOCKER_TLS_VERIFY:-}" ] && [ -z "${DOCKER_CERT_PATH:-}" ] && [ "$tls" = yes ]; then
		export DOCKER_TLS_VERIFY=1
		export DOCKER_CERT_PATH="$certs/client"
	fi
	;;
esac
if [ "${1#-}" != "${1:-}" ]; then
	set -- docker "$@"
fi
exec "$@"
