#!/bin/sh
# The DICOM peers that tests and benchmarks talk to: installs those that are missing where it may, else says how.
set -eu
missing=""
command -v storescp >/dev/null 2>&1 || missing="$missing dcmtk"
command -v Orthanc >/dev/null 2>&1 || missing="$missing orthanc"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "cxrfind: installing$missing ..."
    if apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends $missing >/dev/null; then exit 0; fi
fi
echo "cxrfind: what needs$missing is left out; to have it (Debian, as root): apt-get install$missing" >&2
