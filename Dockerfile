# One image for every role: `worker --role engine|delivery|sink`, and the command line.
FROM python:3.11-slim AS build
COPY requirements.lock .
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock

# The core compiled; without it the image runs the same core as plain Python.
FROM python:3.11-slim AS compiled
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev
WORKDIR /srv/app
COPY requirements-dev.lock .
RUN python -m venv /opt/dev && /opt/dev/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements-dev.lock
COPY pyproject.toml .
COPY schemas schemas
COPY tables tables
COPY streams streams
COPY tidings tidings
COPY scripts/compile.py scripts/compile.py
RUN /opt/dev/bin/python scripts/compile.py && rm -rf .cache/compiled/mypy || mkdir -p .cache/compiled

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
COPY scripts/healthy.py scripts/compile.py scripts/
COPY --from=compiled /srv/app/.cache/compiled .cache/compiled
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
