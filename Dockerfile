# Cubes, chips and releases in a container: docker build -t gelos-lc . && docker run -v $PWD/data:/app/data gelos-lc scripts/run.py -c configs/quickstart.yaml
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR
WORKDIR /app

COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY cube cube
COPY chipping chipping
COPY release release
COPY configs configs
COPY scripts scripts
RUN pip install --no-deps --no-build-isolation -e . && \
    useradd --create-home gelos && mkdir -p data && chown gelos data

USER gelos
VOLUME /app/data
ENTRYPOINT ["python"]
CMD ["scripts/run.py", "--help"]
