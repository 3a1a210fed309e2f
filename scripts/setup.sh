# Install the packages of a requirements file, and this project, into .venv, unless that is done already.
# Usage: setup.sh REQUIREMENTS STAMP [PYTHON]. Any failure ends with status 2.
#
# The environment is bound to this folder and this version of Python. It is made anew in a checkout that was copied or
# moved, where it would run the code of the other place, and after an upgrade of Python. Python of Debian and Ubuntu comes
# without ensurepip, so the pip at hand installs the pip of the environment.

requirements=$1 stamp=.venv/$2 python=${3:-python3}
unset MAKEFLAGS MAKELEVEL
# The user has set these for other environments.
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_REQUIRE_VIRTUALENV PIP_NO_DEPS PIP_PYTHON PIP_QUIET PIP_VERBOSE
# The environment belongs to this folder only, whoever makes it.
export PIP_ROOT_USER_ACTION=ignore

fail() {
    echo "set-up failed: $1" >&2
    exit 2
}

# Print the version and the machine of a Python; nothing if it does not work.
kind() {
    "$1" -I -S -c 'import os, sys; print(*sys.version_info[:2], os.uname().machine)' 2>/dev/null
}

pip() {
    .venv/bin/python -I -m pip --disable-pip-version-check "$@"
}

# Say how far pip is, whose output this reads: on a terminal in one line, else now and then in a line of its own.
progress() {
    total=$(grep -c '^[^ #].*==' "$requirements") count=0
    while read -r word package _; do
        case $word in
            Collecting | Processing) package=${package##*/} text=${package%%[=;]*} ;;
            Requirement) text="is here already" ;;
            Installing) text="unpacking" ;;
            *) continue ;;
        esac
        if [ "$word" != Installing ]; then count=$((count + 1)) text="package $count of $total: $text"; fi
        if [ -t 1 ]; then
            printf '\r\033[K  %s' "$text"
        elif [ "$word" = Installing ] || [ $((count % 40)) = 0 ]; then
            echo "  $text"
        fi
    done
    if [ -t 1 ]; then printf '\r\033[K'; fi
}

here=$(pwd -P)
for_what="$here $(kind .venv/bin/python)"
wanted=$for_what
if [ -n "${3:-}" ]; then wanted="$here $(kind "$python")"; fi
content=$(cat "$requirements" pyproject.toml "$0" | cksum)

if [ "$(cat .venv/made-for 2>/dev/null)" = "$wanted" ] && [ "$for_what" = "$wanted" ]; then
    if [ "$(cat "$stamp" 2>/dev/null)" = "$content" ]; then exit 0; fi
else
    case $(uname -s)-$(uname -m) in
        Linux-x86_64 | Linux-aarch64 | Linux-arm64 | Darwin-arm64) ;;
        Darwin-*) fail "TensorFlow 2.21 does not run on a Mac with an Intel processor; use Linux in a virtual machine or a container" ;;
        MINGW* | MSYS* | CYGWIN*) fail "Airflow does not run on Windows; install WSL (wsl --install) and run make there" ;;
        *) fail "$(uname -s) on $(uname -m) is not supported; use Linux on x86-64 or Arm, or macOS on Apple silicon" ;;
    esac
    "$python" -I -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null ||
        fail "$python is missing or is not Python 3.10 to 3.13, which TensorFlow has releases for; name another one with PYTHON=python3.11"
    if [ -e .venv ]; then
        echo "the virtual environment in .venv belongs to another folder or Python; making it anew"
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

case $requirements in
    requirements.txt) size=" (2.5 GB; some minutes the first time)" ;;
    *) size="" ;;
esac
echo "installing the packages of $requirements$size"
# The file names every package, so with --no-deps pip has nothing to choose. A pipe ends with the status of its end.
rm -f .venv/failed
{
    pip install --compile --no-deps --require-hashes --progress-bar off -r "$requirements" || echo "$?" >.venv/failed
} | progress
if [ -e .venv/failed ]; then fail "pip could not install $requirements"; fi
# With setuptools from the requirements, whose hash was checked, instead of the newest one. Editable is intended here.
PYTHONWARNINGS="ignore:Editable installation" pip --quiet install --no-deps --no-build-isolation --editable . ||
    fail "pip could not install this project"
# Write the cache of fonts now, so that the first run does not wait for it.
.venv/bin/python -I -c "import matplotlib.font_manager" || fail "matplotlib cannot be imported"
echo "$content" >"$stamp" || fail "$stamp cannot be written"
