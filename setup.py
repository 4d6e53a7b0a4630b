"""What an installed retune holds; whatever else is to be said of the project is in pyproject.toml.

The repository's folders lie in one package, `retune_app`, whose own files are in flows/installed.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = ("demo", "expectations", "flows", "infra", "retune", "tasks")
APP = "retune_app"


class Build(build_py):
    """Adds the deployments, which lie in no package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file("prefect.yaml", str(Path(self.build_lib, APP, "prefect.yaml")))


inside = find_packages(
    include=[pattern for name in FOLDERS for pattern in (name, f"{name}.*")],
    exclude=["flows.installed"],
)
places = {APP: "flows/installed"} | {f"{APP}.{name}": name.replace(".", "/") for name in inside}
setup(
    packages=[*places],
    package_dir=places,
    package_data={"": ["*"]},  # C++ files, locks, whatever lies beside a module
    cmdclass={"build_py": Build},
)
