#!/usr/bin/env bash
# Makes the databases of Prefect and MLflow, each of a role that reaches no other. PostgreSQL's image runs
# it once, as its superuser, when it makes an empty data folder. SECRETS has `<role>_pgpass` for each role,
# one line as libpq reads it.
set -euo pipefail
secrets=${SECRETS:-/run/secrets}

make() {
  local role=$1 password
  password=$(cut -d: -f5- "$secrets/${role}_pgpass")
  [ -n "$password" ] || { echo "$secrets/${role}_pgpass holds no password" >&2; exit 1; }
  # By standard input: arguments can be seen by everybody on the machine.
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname postgres <<SQL
create role "$role" login password '${password//\'/\'\'}';
SQL
  shift
  for database in "$@"; do
    createdb --owner "$role" --maintenance-db postgres "$database"
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname postgres \
      --command "revoke all on database \"$database\" from public"
  done
}

export PGUSER=${POSTGRES_USER:-postgres}
make prefect prefect
make mlflow mlflow mlflow_users
