# Sourced by the other scripts: a virtual environment with this package and the extras named by the first argument.
# An active environment is used as it is; else .venv is made. PYTHON chooses the interpreter (3.11 to 3.13).
if [ -z "${VIRTUAL_ENV:-}" ]; then
  if [ ! -x .venv/bin/python ]; then
    echo "making a virtual environment in .venv"
    "${PYTHON:-python3}" -m venv .venv
  fi
  source .venv/bin/activate
fi
# Installing is skipped while the extras and setup.py are those of the last time.
stamp="$VIRTUAL_ENV/t5x_code.$1.stamp"
if [ ! -f "$stamp" ] || [ setup.py -nt "$stamp" ]; then
  echo "installing t5x_code[$1] into $VIRTUAL_ENV (a few minutes the first time)"
  python -m pip install --quiet --disable-pip-version-check -e ".[$1]"
  touch "$stamp"
fi
