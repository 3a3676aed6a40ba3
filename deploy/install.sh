#!/bin/sh
# Builds the project's virtual environment. Called by `make install`; says in one sentence what is missing.
set -eu
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

fail() { echo "cxrfind: $1" >&2; exit 1; }

command -v "$PYTHON" >/dev/null 2>&1 || fail "no $PYTHON here: install Python 3.11 or later (Debian: apt-get install python3 python3-venv python3-dev)."
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || fail "$PYTHON is $("$PYTHON" -V 2>&1), but Python 3.11 or later is needed: name another one with PYTHON=python3.12."
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null \
    || fail "$PYTHON cannot make virtual environments: install its venv module (Debian: apt-get install python3-venv)."
command -v "${CXX:-c++}" >/dev/null 2>&1 \
    || fail "no C++ compiler here, and hnswlib is compiled from source: install one (Debian: apt-get install g++ python3-dev)."
"$PYTHON" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' \
    || fail "Python.h is missing: install the Python headers (Debian: apt-get install python3-dev)."
free_kb=$(df -Pk . | awk 'NR==2 {print $4}')
[ "$free_kb" -ge 4000000 ] || [ -e "$VENV/bin/cxrfind" ] || fail "$((free_kb / 1000)) MB free here, but the environment needs about 4 GB: free some disk space."

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
echo "cxrfind: installing into $VENV (a few minutes the first time) ..."
log="$VENV/install.log"
# HNSWLIB_NO_NATIVE: an index library built with -march=native dies with SIGILL on another CPU. storage/index/native.py
# chooses, at each start, among this build and the two below.
if ! HNSWLIB_NO_NATIVE=1 "$VENV/bin/python" -m pip install --quiet --no-binary hnswlib -e '.[training,dev]' >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    fail "installation failed; the whole output is in $log."
fi
hnswlib_build() {
    set -- "$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/$1" "$2" \
        "hnswlib==$("$VENV/bin/python" -c 'import importlib.metadata as m; print(m.version("hnswlib"))')"
    HNSWLIB_NO_NATIVE=1 CFLAGS="$2" "$VENV/bin/python" -m pip install --quiet --no-cache-dir --no-binary hnswlib --no-deps \
        --upgrade --target "$1" "$3" >>"$log" 2>&1 \
        || echo "cxrfind: hnswlib could not be built with $2 (see $log): searches will take longer." >&2
}
case $(uname -m) in x86_64)
    hnswlib_build hnswlib_avx512f -mavx512f
    hnswlib_build hnswlib_avx2 '-mavx2 -mfma' ;;
esac
echo "cxrfind: installed; $VENV/bin/cxrfind --help tells what it can do."
