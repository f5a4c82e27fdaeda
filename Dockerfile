# One image for every role: `worker --role engine|delivery|sink`, and the command line.
FROM python:3.11-slim AS build
COPY requirements.lock .
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin tidings \
 && install -d -o tidings -g tidings /var/lib/tidings
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/app
COPY schemas schemas
COPY tables tables
COPY streams streams
COPY sinks sinks
COPY agents agents
COPY tidings tidings
COPY benchmarks benchmarks
COPY campaigns campaigns
COPY scripts/healthy.py scripts/healthy.py
# PYTHONPATH: our generic package names must win over any installed one (tidings/layout.py checks it at start).
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/srv/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TIDINGS_DATA_DIR=/var/lib/tidings
USER tidings
VOLUME /var/lib/tidings
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 CMD ["python", "scripts/healthy.py"]
ENTRYPOINT ["python", "-m", "tidings"]
CMD ["--help"]
