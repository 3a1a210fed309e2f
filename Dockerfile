# Airflow with this project, for docker-compose.yaml and Kubernetes. Two targets: `airflow`, and `gpu` with the CUDA
# libraries that TensorFlow was built for. The last layers hold the code: changing it rebuilds them alone, in seconds.

ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS packages
# Bytecode is compiled at install, as nobody can write it later: the processes run as a user that owns no code.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    AIRFLOW_HOME=/tmp/airflow \
    AIRFLOW_CONFIG=/opt/mnist/airflow.cfg \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/mnist/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/mnist/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__LOGGING__BASE_LOG_FOLDER=/opt/mnist/logs \
    MNIST_HOME=/opt/mnist/home \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONPATH=/opt/mnist/packages
# Of requirements-s3.txt and requirements-mlflow.txt, those to install: "s3", "mlflow" or "s3 mlflow".
ARG EXTRAS=
COPY requirements.txt requirements-stack.txt requirements-s3.txt requirements-mlflow.txt /tmp/requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet --compile --no-deps --require-hashes \
        -r /tmp/requirements/requirements.txt -r /tmp/requirements/requirements-stack.txt \
    && for extra in ${EXTRAS}; do \
        pip install --quiet --compile --no-deps --require-hashes -r "/tmp/requirements/requirements-${extra}.txt" || exit 1; \
    done
# An empty airflow.cfg, or Airflow would write one with secrets of its own. Volumes take over the folders' owner.
RUN useradd --uid 50000 --gid 0 --home-dir /tmp --no-create-home airflow \
    && mkdir -p /opt/mnist \
    && touch /opt/mnist/airflow.cfg \
    && install -d -o airflow -g 0 -m 0770 /opt/mnist/home /opt/mnist/logs \
    && MPLCONFIGDIR=/opt/mnist/matplotlib python -c "import matplotlib.font_manager"
WORKDIR /opt/mnist
USER airflow
ENTRYPOINT ["sh", "/opt/mnist/scripts/entrypoint.sh"]

FROM packages AS code
USER root
COPY pyproject.toml README.md LICENSE /tmp/project/
COPY mnist_tasks /tmp/project/mnist_tasks
RUN pip install --quiet --no-deps --no-build-isolation --compile --target /code/packages /tmp/project
COPY dags /code/dags
COPY plugins /code/plugins
COPY scripts /code/scripts
RUN python -m compileall -q /code/dags /code/plugins /code/scripts

FROM packages AS cuda
USER root
COPY requirements-gpu.txt /tmp/requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet --compile --no-deps --require-hashes -r /tmp/requirements/requirements-gpu.txt
USER airflow

FROM cuda AS gpu
ARG COMMIT
ENV MNIST_COMMIT=${COMMIT}
COPY --from=code /code /opt/mnist

FROM packages AS airflow
ARG COMMIT
ENV MNIST_COMMIT=${COMMIT}
COPY --from=code /code /opt/mnist
