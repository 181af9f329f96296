"""Runs that several of the app's tests read, made once."""

import shutil

import pytest

from tests.app.runs import Asker, image_run, table_run, tables_alone, write_manifest


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """A run of a table."""
    return table_run(tmp_path_factory.mktemp("app") / "table")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A run of images."""
    return image_run(tmp_path_factory.mktemp("app") / "images")


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """A run without a model."""
    return tables_alone(tmp_path_factory.mktemp("app") / "tables")


@pytest.fixture(scope="session")
def live_table(table):
    """Asks the table's run with its model."""
    return Asker(table, live=True)


@pytest.fixture(scope="session")
def live_images(images):
    """Asks the images' run with its model."""
    return Asker(images, live=True)


@pytest.fixture
def asker(tables):
    """Asks the run without a model."""
    return Asker(tables)


@pytest.fixture
def copied(table, tmp_path):
    """A copy of the table's run, with its configuration's folder, to change."""
    shutil.copytree(table.parent, tmp_path / "copy")
    run = tmp_path / "copy" / "run"
    write_manifest(run, config_folder=str(tmp_path / "copy"))
    return run
