"""Which of our environment variables a child process sees: what it works with, and no secret.

A child that reads a stranger's files may be made to tell what it knows, so it is told little.
"""

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# By name; what is meant to be secret says so nearly always. TOKENIZERS_PARALLELISM is none.
SECRET = re.compile(
    r"TOKEN(?!IZER)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH|COOKIE|SIGNATURE|DATABASE_URL|WEBHOOK"
    r"|CONNECTION_STRING|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|(^|_)(KEY|PAT|DSN|PASS)$|_PWD$",
    re.IGNORECASE,
)
# Services that a child has no business with, whatever their variables are called.
SERVICES = re.compile(
    r"(PREFECT|MLFLOW|AWS|AZURE|ARM|GOOGLE|GCP|GCLOUD|CLOUDSDK|DATABRICKS|WANDB|OPENAI|ANTHROPIC"
    r"|GITHUB|GITLAB|CI|DOCKER|KUBE|VAULT|SSH|GPG|PG|MYSQL|REDIS|SMTP|SLACK|SENTRY)_",
    re.IGNORECASE,
)
# How a launcher (torchrun, mpirun, accelerate, a Kubernetes job) tells a process that it is one of
# several. To a child that works alone it would be an order to wait for others that never come.
LAUNCHER = re.compile(
    r"((LOCAL|NODE|GROUP|ROLE|CROSS)_)?(RANK|WORLD_SIZE)|ROLE_NAME|NNODES|MASTER_(ADDR|PORT)"
    r"|(TORCHELASTIC|OMPI|MPI|PMI|PMIX|MV2|ACCELERATE|FSDP)_\w+"
)
# scheme://user:password@host
PASSWORD_IN_URL = re.compile(r"://[^/\s@]+@")
PROXY = re.compile(r"(https?|all|no)_proxy", re.IGNORECASE)
# How the Hub is reached, its token and a mirror's password included; HF_HOME and the like say where
# what it gave lies.
NETWORK = re.compile(r"(HF|HUGGING_?FACE)_\w+|(SSL_CERT|REQUESTS_CA|CURL_CA)_\w+")
# Of the stores that fsspec reads, and its own settings of them (FSSPEC_S3_ANON=true).
CLOUD = re.compile(r"(AWS|GOOGLE|GCLOUD|CLOUDSDK|AZURE|FSSPEC)_")
# Without the Hub: what a library would fetch by itself, and the token that `hf auth login` keeps.
NO_HUB = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_TOKEN_PATH": os.devnull,
}
# All that a program needs which reads one file and writes another.
PLAIN = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|TZ|TMPDIR|TMP|TEMP|SYSTEMROOT|PYTHONPATH|PYTHONHOME"
    r"|VIRTUAL_ENV|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|NUMEXPR_NUM_THREADS|HF_(HOME|\w+_CACHE)"
    r"|(LC|OMP|GOMP|KMP|MKL|OPENBLAS|ATEN|GGML|CUDA|NVIDIA|HIP|ROCR|HSA|VK|XDG)_\w+"
)


def without_secrets(hub: bool) -> dict[str, str]:
    """Return our environment for a child that trains or measures, without passwords and tokens, and
    without what a launcher says of other processes.

    With `hub` it downloads, and keeps what the Hub and the proxy ask for; without, its libraries are
    offline.
    """
    variables = {
        name: value
        for name, value in os.environ.items()
        if not _secret(name, value) and not LAUNCHER.fullmatch(name)
    }
    return variables | (_way_to_the_hub() if hub else NO_HUB)


def plain(hub: bool = False) -> dict[str, str]:
    """Return the few variables that a program needs which has no use for network or account.

    With `hub` it downloads: the Hub's settings and token, certificates and the proxy are among them.
    """
    variables = {
        name: value
        for name, value in os.environ.items()
        if PLAIN.fullmatch(name) and not PASSWORD_IN_URL.search(value)
    }
    return variables | (_way_to_the_hub() if hub else NO_HUB)


def cloud() -> dict[str, str]:
    """Return what a program needs that downloads from a web server or a cloud's store: `plain`, with
    certificates, proxies and the clouds' credentials, and nothing of the Hub's."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if CLOUD.match(name) or PROXY.fullmatch(name)
    }
    certificates = {
        name: value
        for name, value in os.environ.items()
        if NETWORK.fullmatch(name) and not name.startswith(("HF_", "HUGGING"))
    }
    return plain() | certificates | variables


def python_path() -> str:
    """Return the PYTHONPATH by which a child finds this project, before what ours names."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))


def _way_to_the_hub() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if NETWORK.fullmatch(name) or PROXY.fullmatch(name)
    }


def _secret(name: str, value: str) -> bool:
    return bool(SECRET.search(name) or SERVICES.match(name) or PASSWORD_IN_URL.search(value))
