# What the one-shot container `init` does before Airflow starts; doing it again changes nothing.
set -eu
airflow db migrate
airflow users create --role Admin --username admin --password "$ADMIN_PASSWORD" \
    --firstname Admin --lastname Admin --email admin@localhost
airflow pools set gpu "$GPUS" "One slot for each GPU, so that two tasks never share one"
