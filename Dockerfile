# The image of css-relay-exporter: a virtual environment on a slim Python, nothing else.
# It needs no root, no shell, no capability and no writable file system but the volume /data.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

# Dependencies in a layer of their own: it is built anew when the lock file changes, not with every source.
# The environment gets no pip: the image that runs has no use for an installer. What pip installs it compiles,
# because nothing can be compiled later on a read-only file system.
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
# Whatever is mounted on /data takes over this owner where the engine makes the volume. A number, not a name:
# runAsNonRoot in Kubernetes can't tell whose name it is.
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

# No proxy that the environment names may stand between, and -I keeps /data out of the modules' path.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-I", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:10314/-/healthy', timeout=4)"]

# SIGTERM reaches gunicorn's master, which answers what it has taken in before it ends: give it 30 s to stop.
STOPSIGNAL SIGTERM
ENTRYPOINT ["css-relay-exporter"]
CMD ["serve"]

# Last, since they differ with every commit.
ARG REVISION=unknown
ENV EXPORTER_REVISION=${REVISION}
LABEL org.opencontainers.image.title="css-relay-exporter" \
      org.opencontainers.image.description="Prometheus exporter for the relay-task callbacks of Tencent Cloud CSS" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
