#!/bin/sh
# Runs a program with its secrets, which come as files: NAME_FILE=/run/secrets/x becomes NAME=<what x says>.
# Nobody can read them in `docker inspect` or in a compose file then. Libraries that read a file
# themselves (PGPASSFILE, AWS_SHARED_CREDENTIALS_FILE) need none of this.
set -eu

for name in \
  HF_TOKEN \
  MLFLOW_AUTH_ADMIN_PASSWORD \
  MLFLOW_FLASK_SERVER_SECRET_KEY \
  MLFLOW_TRACKING_PASSWORD \
  PREFECT_API_AUTH_STRING \
  PREFECT_SERVER_API_AUTH_STRING; do
  eval "file=\${${name}_FILE:-}"
  [ -n "$file" ] || continue
  unset "${name}_FILE"
  if [ ! -r "$file" ]; then
    echo "entrypoint: ${name}_FILE is $file, which user $(id -u) cannot read:" \
      "make it (docs/deploy.md), and let this user own it" >&2
    exit 1
  fi
  value=$(cat "$file")
  if [ -n "$value" ]; then
    export "$name=$value"
  elif [ "$name" != HF_TOKEN ]; then # what is public needs no token
    echo "entrypoint: ${name}_FILE is $file, which is empty: a server would ask nobody for it" >&2
    exit 1
  fi
done
exec "$@"
