# The one-shot container `init` runs this before Airflow starts. A second time it changes nothing.
set -eu
airflow db migrate
airflow users create --role Admin --username admin --password "$ADMIN_PASSWORD" \
    --firstname Admin --lastname Admin --email admin@localhost
airflow pools set gpu "$GPUS" "One slot for each GPU, so that two tasks never share one"
