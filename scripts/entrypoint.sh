# The containers' first command: what Airflow and matplotlib write beside their work goes to /tmp, all else is read-only.
set -eu
cp -r /opt/mnist/matplotlib "$MPLCONFIGDIR"
exec "$@"
