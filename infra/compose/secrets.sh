#!/usr/bin/env bash
# Makes the secrets of compose.yaml, each in a file that only its owner can read; what is there stays.
# usage: infra/compose/secrets.sh [FOLDER]
set -euo pipefail
umask 077
folder=${1:-$(dirname "$0")/secrets}
mkdir -p -- "$folder"

random() {
  head -c 24 /dev/urandom | base64 | tr '+/' '-_'
}

put() { # NAME: what standard input says, unless there is such a file
  if [ -e "$folder/$1" ]; then
    cat >/dev/null
  else
    cat >"$folder/$1"
    echo "made $folder/$1"
  fi
}

random | put postgres_password
random | put mlflow_password
random | put mlflow_session_key
echo "retune:$(random)" | put prefect_sign_in
echo "*:*:*:prefect:$(random)" | put prefect_pgpass
echo "*:*:*:mlflow:$(random)" | put mlflow_pgpass
if [ ! -e "$folder/s3_credentials" ]; then
  rm -f -- "$folder/s3_identities" # the two say the same
fi
access=$(random) secret=$(random)
put s3_credentials <<INI
[default]
aws_access_key_id = $access
aws_secret_access_key = $secret
INI
put s3_identities <<JSON
{"identities": [{"name": "mlflow", "actions": ["Admin"],
  "credentials": [{"accessKey": "$access", "secretKey": "$secret"}]}]}
JSON
if [ ! -e "$folder/hub_token" ]; then
  : >"$folder/hub_token"
  echo "made $folder/hub_token, which is empty: write a token of the Hub into it to publish, or for gated models"
fi
echo "The containers read them as user $(id -u): export RETUNE_UID=$(id -u) RETUNE_GID=$(id -g)"
