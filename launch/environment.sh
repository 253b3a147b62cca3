# Sourced by the other scripts: a virtual environment with this package and the extras named by the first argument.
# What an active environment lacks is installed there; without one .venv is made. PYTHON chooses its interpreter (3.11 to
# 3.13).
if [ -z "${VIRTUAL_ENV:-}" ]; then
  if [ ! -f .venv/bin/activate ]; then  # which is written last: what was interrupted is made again
    echo "making a virtual environment in .venv"
    "${PYTHON:-python3}" -m venv .venv
    pwd -P > .venv/t5x_code.checkout
  fi
  source .venv/bin/activate
fi
# An environment runs the code of one checkout: what another one installed there is of no use to this one.
checkout="$VIRTUAL_ENV/t5x_code.checkout"
installed="$(cat "$checkout" 2> /dev/null || true)"
if [ "$installed" != "$(pwd -P)" ]; then
  echo "$VIRTUAL_ENV: this checkout, $(pwd -P), takes the place of ${installed:-any other that is installed there}"
  rm -f "$VIRTUAL_ENV"/t5x_code.*.stamp
fi
# Installing is skipped while the extras and setup.py are those of the last time.
stamp="$VIRTUAL_ENV/t5x_code.$1.stamp"
if [ ! -f "$stamp" ] || [ setup.py -nt "$stamp" ]; then
  echo "installing t5x_code[$1] into $VIRTUAL_ENV (a few minutes the first time)"
  python -m pip install --quiet --disable-pip-version-check -e ".[$1]"
  pwd -P > "$checkout"
  touch "$stamp"
fi
