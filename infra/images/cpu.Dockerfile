# syntax=docker/dockerfile:1.7
# retune for a machine without a GPU: the servers, and workers that train small models.
#
#   docker build --file infra/images/cpu.Dockerfile --tag retune:cpu .
#
# PIP_EXTRA_INDEX_URL may name an index with torch's CPU build; without it the layer has the CUDA one,
# which is gigabytes larger. Whatever else is installed has its hash in the lock.

FROM python:3.11.13-slim-bookworm AS environment
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/retune
# What the environment is made of comes first: a change of code installs nothing anew.
COPY LICENSE MANIFEST.in README.md THIRD_PARTY_NOTICES.md pyproject.toml requirements.lock setup.py ./
COPY infra/install.sh infra/cuda.lock infra/no-dependencies.txt infra/torch.txt infra/
COPY infra/images/servers.txt infra/images/
COPY flows/installed flows/installed
RUN infra/install.sh python3 /opt/venv \
    && /opt/venv/bin/python -m pip install --no-deps --require-hashes --only-binary :all: \
        --requirement infra/images/servers.txt

FROM environment AS llamacpp
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY infra infra
COPY retune retune
# The build is named by all that decides it, so that a change of other code finds it in the cache.
RUN --mount=type=cache,target=/root/.cache/retune,sharing=locked \
    PATH="/opt/venv/bin:$PATH" python -m infra.llamacpp.build \
    && cp -a "$(/opt/venv/bin/python -m infra.llamacpp.build --where)" /opt/llama.cpp

FROM python:3.11.13-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 retune \
    && install --directory --owner retune --group retune --mode 0700 \
        /var/lib/retune /var/lib/prefect /home/retune/.cache
COPY --from=environment /opt/venv /opt/venv
COPY --from=llamacpp /opt/llama.cpp /opt/llama.cpp
COPY . /opt/retune
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RETUNE_HOME=/var/lib/retune \
    RETUNE_LLAMACPP=/opt/llama.cpp
WORKDIR /opt/retune
USER 1000:1000
ENTRYPOINT ["/opt/retune/infra/images/entrypoint.sh"]
CMD ["retune", "--help"]
# A worker's (`retune worker --healthcheck`); the servers' are in compose.yaml.
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/health', timeout=15)"]
