# The entry point of the containers. The file system is read-only except /tmp, so matplotlib's cache is copied there.
set -eu
cp -r /opt/mnist/matplotlib "$MPLCONFIGDIR"
exec "$@"
