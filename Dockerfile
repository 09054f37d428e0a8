# Cubes, chips and releases in containers: see docs/scaling.md. `program` runs gelos-lc, `notebook` JupyterLab.
# scripts/check_container.py runs what follows without a container engine.
FROM python:3.13-slim AS base
ARG UID=1000
# Reads of pixels bring their own GDAL settings; these are for notebooks and whatever else opens a file here.
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR GDAL_HTTP_MERGE_CONSECUTIVE_RANGES=YES \
    GDAL_HTTP_CONNECTTIMEOUT=15 GDAL_HTTP_TIMEOUT=120
WORKDIR /app
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock
RUN useradd --create-home --uid "$UID" gelos && \
    install -d -o gelos data data/external data/raw data/interim data/processed
COPY pyproject.toml hatch_build.py README.md LICENSE NOTICE ./
COPY cube cube
COPY chipping chipping
COPY release release
COPY configs configs
COPY scripts scripts
RUN pip install --no-deps --no-build-isolation -e .

FROM base AS notebook
COPY requirements-notebook.lock ./
RUN pip install --require-hashes -r requirements-notebook.lock
COPY notebooks notebooks
USER gelos
ENTRYPOINT ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser"]

FROM base AS program
USER gelos
ENTRYPOINT ["gelos-lc"]
CMD ["--help"]
