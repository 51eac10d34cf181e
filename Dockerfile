# The image of css-relay-exporter: a slim Python with a virtual environment.
# It needs no root, no shell, no capability, and no writable file system except the volume /data.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

# The dependencies have a layer of their own: it is built again only if the lock file changes.
# The environment has no pip, because a running exporter needs no installer. pip compiles the modules during the
# installation, because a read-only file system allows no compilation later.
COPY requirements.txt ./
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-deps --require-hashes --requirement requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY exporter exporter
RUN pip wheel --no-deps --wheel-dir /dist . \
    && pip --python /opt/venv/bin/python install --no-deps --no-index /dist/*.whl \
    && mkdir /data

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
# A volume that the engine creates for /data gets this owner. It is a number, because runAsNonRoot in Kubernetes does
# not accept a user name.
COPY --from=build --chown=65532:65532 /data /data

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CSS_RELAY_WEB_LISTEN_ADDRESS=0.0.0.0:10314 \
    CSS_RELAY_STORE_URL=sqlite:/data/css-relay.db

USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 8314 10314

# ProxyHandler({}): ignore proxies in the environment. -I: do not import modules from /data, the working directory.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-I", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:10314/-/healthy', timeout=4)"]

# On SIGTERM gunicorn's master answers all accepted callbacks before it ends. Allow 30 s for a stop.
STOPSIGNAL SIGTERM
ENTRYPOINT ["css-relay-exporter"]
CMD ["serve"]

# These lines are last because they differ with every commit.
ARG REVISION=unknown
ENV EXPORTER_REVISION=${REVISION}
LABEL org.opencontainers.image.title="css-relay-exporter" \
      org.opencontainers.image.description="Prometheus exporter for the relay-task callbacks of Tencent Cloud CSS" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
