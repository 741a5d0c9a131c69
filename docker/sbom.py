"""Writes what an image holds as a CycloneDX 1.6 document: the Python packages, the model, the base's Debian packages.

    python docker/sbom.py --packages /opt/python --artifact /opt/artifact --out /opt/sbom.cdx.json

The same image gives the same bytes: no time of day, and a serial number made of the content.
"""

from __future__ import annotations

import argparse
import json
import platform
import uuid
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

_NAMESPACE = uuid.UUID("6f0a1f0e-5d0c-5a63-9d1b-3f2f4c1f8f5e")
_DPKG = Path("/var/lib/dpkg/status")


def main() -> None:
    """Write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--debian", type=Path, default=_DPKG)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    components = [
        interpreter(),
        *(package(found) for found in distributions(path=[str(arguments.packages)])),
        *models(arguments.artifact),
        *debian_packages(arguments.debian),
    ]
    arguments.out.write_text(document(components), encoding="utf-8")


def document(components: list[Component]) -> str:
    """Return the document's JSON, the same for the same components."""
    content = json.dumps(sorted(str(component.purl or component.bom_ref) for component in components))
    bom = Bom(components=components, serial_number=uuid.uuid5(_NAMESPACE, content))
    written: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    written.get("metadata", {}).pop("timestamp", None)
    return json.dumps(written, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def interpreter() -> Component:
    """Return the Python that compiles and runs all this."""
    purl = PackageURL("generic", name="python", version=platform.python_version())
    return Component(type=ComponentType.PLATFORM, name="python", version=purl.version, purl=purl, bom_ref=str(purl))


def package(found: Distribution) -> Component:
    """Return an installed Python package."""
    purl = PackageURL("pypi", name=found.name.lower().replace("_", "-"), version=found.version)
    licence = next((found.metadata[name] for name in ("License-Expression", "License") if name in found.metadata), "")
    return Component(
        type=ComponentType.LIBRARY,
        name=found.name,
        version=found.version,
        purl=purl,
        bom_ref=str(purl),
        licenses=[_licence(licence)] if licence and len(licence) < 100 else [],
    )


def models(artifact: Path) -> Iterator[Component]:
    """Yield the encoder and, where there is one, the cross-encoder."""
    for folder in (artifact, artifact / "reranker"):
        if (folder / "manifest.json").is_file():
            yield _model(json.loads((folder / "manifest.json").read_bytes()), folder)


def _model(manifest: dict[str, Any], folder: Path) -> Component:
    files = {name: facts for name, facts in manifest["files"].items() if (folder / name).is_file()}
    facts = {
        "space_id": manifest["space_id"],
        "kind": manifest["kind"],
        "manifest": manifest["digest"],
        **{f"sha256:{name}": values["sha256"] for name, values in files.items()},
    }
    licence = manifest["licence"]
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=manifest["model_id"],
        version=manifest["revision"],
        bom_ref=f"model:{manifest['space_id']}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=manifest["digest"])],
        licenses=[_licence(licence)] if licence else [],
        properties=[Property(name=f"embakery:{name}", value=value) for name, value in facts.items()],
    )


def debian_packages(status: Path) -> Iterator[Component]:
    """Yield what dpkg has installed; nothing where the base image is not Debian's."""
    if not status.is_file():
        return
    for paragraph in status.read_text(encoding="utf-8").split("\n\n"):
        fields: Message = Parser().parsestr(paragraph, headersonly=True)
        if fields["Status"] == "install ok installed":
            qualifiers = {"arch": fields["Architecture"]}
            purl = PackageURL("deb", "debian", fields["Package"], fields["Version"], qualifiers)
            yield Component(
                type=ComponentType.LIBRARY, name=fields["Package"], version=purl.version, purl=purl, bom_ref=str(purl)
            )


def _licence(text: str) -> License | Any:
    return LicenseFactory().make_from_string(text)


if __name__ == "__main__":
    main()
