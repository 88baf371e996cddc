#!/usr/bin/env bash
# openapi-python-client 0.29.1: a model with a field of its own name gives code that its own type hints contradict.
#
# A schema may have a property with its own name, such as a `Series` with the field `series`. The generator accepts it
# without a warning, and one would guess that the two names cannot meet: the class is `Series`, the field is `series`.
# In fact, the generated `from_dict` keeps the new object in a local variable named after the class in snake case, which
# is also the local variable of the field. The code runs, because the field's value is read before, but mypy rejects the
# package, although it is generated with type hints and marked as typed.
#
# The script generates a client for a document with such a schema, and one in which only the field has another name.
# It fails if the behaviour changes. In tocsin's description no schema has a field of its own name (docs/descriptions.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check openapi-python-client==0.29.1 mypy==1.18.2 ruff==0.14.5

document() {
    cat << JSON
{
  "openapi": "3.1.0",
  "info": {"title": "$1", "version": "1"},
  "paths": {"/series": {"get": {"operationId": "readSeries", "responses": {"200": {
    "description": "the series",
    "content": {"application/json": {"schema": {"\$ref": "#/components/schemas/Series"}}}
  }}}}},
  "components": {"schemas": {"Series": {
    "type": "object",
    "required": ["$2"],
    "properties": {"$2": {"type": "array", "items": {"type": "integer"}}}
  }}}
}
JSON
}

errors_of() { # NAME FIELD
    document "$1" "$2" > "$1.json"
    PATH="$folder/venv/bin:$PATH" venv/bin/openapi-python-client generate --path "$1.json" --output-path "$1" --meta none \
        > "$1.log" 2>&1
    if grep -qi warning "$1.log"; then echo "a warning"; fi
    venv/bin/mypy "$1" 2>&1 | grep -c 'error:' || true
}

own=$(errors_of own series)
other=$(errors_of other numbers)
runs=$(PYTHONPATH="$folder" venv/bin/python -c \
    'from own.models.series import Series; print(Series.from_dict({"series": [1, 2]}).series)')
printf 'openapi-python-client 0.29.1\nfield "series" of Series: mypy finds %s errors, and the code returns %s\n' "$own" "$runs"
printf 'field "numbers" of Series: mypy finds %s errors\n' "$other"
[[ $own == 3 && $other == 0 && $runs == '[1, 2]' ]]
