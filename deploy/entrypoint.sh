#!/bin/sh
# Keys and passwords come as files in /run/secrets. Keys go into a home of their own, readable by this user alone, as
# tacit demands; what a program reads from its environment is put there.
set -eu
umask 077
mkdir -p /run/tacit/coordinator
for key in /run/secrets/*.key; do
  if [ -f "$key" ]; then cat "$key" > "/run/tacit/coordinator/${key##*/}"; fi
done
for name in TACIT_STORE AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do
  if [ -f "/run/secrets/$name" ]; then export "$name=$(cat "/run/secrets/$name")"; fi
done
exec "$@"
