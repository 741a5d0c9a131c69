"""What SAM makes of templates: a list of [template, parameters] on stdin, a list of CloudFormation templates on stdout.

Run by the Python of .venv-sam, which has the translator; see decision 6.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
logging.disable(logging.CRITICAL)

from samtranslator.parser.parser import Parser  # type: ignore[import-not-found]  # noqa: E402
from samtranslator.translator.translator import Translator  # type: ignore[import-not-found]  # noqa: E402

# Stands where `sam build` and `sam deploy` write the image's address.
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/embakery:0"


def transform(template: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
    """Translate one template."""
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"].setdefault("ImageUri", IMAGE)
    # No policy of AWS's own is named by our roles.
    translated: dict[str, Any] = Translator({}, Parser()).translate(template, parameters)
    return translated


if __name__ == "__main__":
    json.dump([transform(template, parameters) for template, parameters in json.load(sys.stdin)], sys.stdout)
