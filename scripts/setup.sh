# Install the packages of a requirements file, and this project, into .venv, unless that is done already.
# Usage: setup.sh REQUIREMENTS STAMP [PYTHON]. Any failure ends with status 2.
#
# The environment belongs to this folder and this version of Python: in a checkout that was copied or moved, or after an
# upgrade of Python, its commands and its link to the code would be those of the other place, so it is made anew.
# Debian's and Ubuntu's Python comes without ensurepip, so a virtual environment gets its pip from the pip at hand.

requirements=$1 stamp=.venv/$2 python=${3:-python3}
unset MAKEFLAGS MAKELEVEL
# What the user has set for other environments must not reach this one.
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_REQUIRE_VIRTUALENV PIP_NO_DEPS PIP_PYTHON

fail() {
    echo "set-up failed: $1" >&2
    exit 2
}

# The version and the machine that a Python is for; nothing if it does not work.
kind() {
    "$1" -I -S -c 'import os, sys; print(*sys.version_info[:2], os.uname().machine)' 2>/dev/null
}

pip() {
    .venv/bin/python -I -m pip --quiet --disable-pip-version-check "$@"
}

here=$(pwd -P)
for_what="$here $(kind .venv/bin/python)"
wanted=$for_what
if [ -n "${3:-}" ]; then wanted="$here $(kind "$python")"; fi
content=$(cat "$requirements" pyproject.toml "$0" | cksum)

if [ "$(cat .venv/made-for 2>/dev/null)" = "$wanted" ] && [ "$for_what" = "$wanted" ]; then
    if [ "$(cat "$stamp" 2>/dev/null)" = "$content" ]; then exit 0; fi
else
    "$python" -I -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null ||
        fail "$python is not there or not Python 3.10 to 3.13; name another one with PYTHON=python3.11"
    if [ -e .venv ]; then
        echo "the virtual environment in .venv is not of this folder and Python; making it anew"
    else
        echo "making a virtual environment in .venv"
    fi
    rm -rf .venv || fail ".venv cannot be removed"
    "$python" -m venv --without-pip .venv || fail "$python has no module venv"
    packages=$(.venv/bin/python -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -m pip install --quiet --disable-pip-version-check --target "$packages" pip ||
        fail "$python has no pip (Debian, Ubuntu: apt install python3-pip), or it cannot reach PyPI"
    echo "$here $(kind .venv/bin/python)" >.venv/made-for || fail ".venv cannot be written to"
fi

echo "installing $requirements (2.5 GB; some minutes the first time)"
# The file names all packages there are to install: with --no-deps pip has nothing to choose.
pip install --compile --no-deps --require-hashes -r "$requirements" || fail "pip could not install $requirements"
# With the setuptools of the requirements, whose hash was checked, instead of the newest; it warns of what is meant here.
PYTHONWARNINGS="ignore:Editable installation" pip install --no-deps --no-build-isolation --editable . ||
    fail "pip could not install this project"
# Or the first run's figures would wait for it.
.venv/bin/python -I -c "import matplotlib.font_manager" || fail "matplotlib cannot be imported"
echo "$content" >"$stamp" || fail "$stamp cannot be written"
