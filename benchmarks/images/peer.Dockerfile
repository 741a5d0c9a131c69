# A peer's function, as AWS's documentation makes an image that is not based on AWS's own: packages installed into a
# folder by a build stage, the runtime client as the entry point. Compiled beforehand, like ours: the file system is
# read-only later. Built by benchmarks/containers_images.py, which puts the context together.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS packages
ARG REQUIREMENTS
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_FIND_LINKS=/src/links
WORKDIR /src
COPY links links
COPY constraints.txt constraints.txt
COPY requirements benchmarks/requirements
RUN python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install --quiet --no-cache-dir --no-compile --target /opt/python \
        -r "benchmarks/requirements/${REQUIREMENTS}.txt" -c constraints.txt awslambdaric
# Some packages carry a file for a newer Python, which does not compile; nobody loads it.
RUN python3 -m compileall -qq --invalidation-mode unchecked-hash /opt/python || true

FROM ${BASE_IMAGE}
# The hub's client would look for a newer model, tokenizers would warn of threads, and the home is read-only.
ENV PYTHONPATH=/opt/python \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    TOKENIZERS_PARALLELISM=false \
    HOME=/tmp
COPY --from=packages /opt/python /opt/python
COPY model /opt/model
WORKDIR /var/task
COPY function.py .
RUN chmod -R a+rX /opt/model . && python3 -m compileall -q --invalidation-mode unchecked-hash .
ENTRYPOINT ["python3", "-m", "awslambdaric"]
CMD ["function.handler"]
