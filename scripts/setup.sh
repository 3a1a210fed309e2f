# Install the packages of a requirements file, and this project, into .venv; then make the stamp file.
# Usage: setup.sh PYTHON REQUIREMENTS STAMP. Any failure ends with status 2.
# Debian's and Ubuntu's Python comes without ensurepip, so a virtual environment gets its pip from the pip at hand.

python=$1 requirements=$2 stamp=$3
unset MAKEFLAGS MAKELEVEL

fail() {
    echo "set-up failed: $1" >&2
    exit 2
}

"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null ||
    fail "$python is not there or not Python 3.10 to 3.13; name another one with PYTHON=python3.11"

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "making a virtual environment in .venv"
    rm -rf .venv
    "$python" -m venv --without-pip .venv || fail "$python has no module venv"
    packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -m pip install --quiet --disable-pip-version-check --target "$packages" pip ||
        fail "$python has no pip (Debian, Ubuntu: apt install python3-pip), or it cannot reach PyPI"
fi

echo "installing $requirements (2.5 GB; some minutes the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --compile -r "$requirements" ||
    fail "pip could not install $requirements"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . ||
    fail "pip could not install this project"
# Or the first run's figures would wait for it.
.venv/bin/python -c "import matplotlib.font_manager" || fail "matplotlib cannot be imported"
touch "$stamp"
