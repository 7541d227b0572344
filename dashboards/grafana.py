"""Sends dashboards, and the data source that they read, to a Grafana."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from grafana_api.grafana_api import GrafanaClientError, GrafanaException
from grafana_api.grafana_face import GrafanaFace


class PushFailed(Exception):
    """Grafana was not reached, or refused. Says which, in words for the operator."""


class Grafana:
    """One Grafana server, by its URL and a service account's token."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise PushFailed(f"{url!r} is not a URL: {error}.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PushFailed(f"{url!r} is not a URL such as https://grafana.example.com.")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        prefix = parts.path.strip("/")
        self._url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._client = GrafanaFace(
            token, host, port, url_path_prefix=f"{prefix}/" if prefix else "", protocol=parts.scheme
        )

    def push(self, dashboards: list[dict[str, Any]], folder: str) -> list[str]:
        """Create or replace the dashboards, which their uids identify, in the folder of that title.

        Returns the dashboards' URLs. Raises PushFailed.
        """
        with self._explained():
            uid = self._folder(folder)
            sent = [self._client.dashboard.update_dashboard(payload(dashboard, uid)) for dashboard in dashboards]
            return [f"{self._url}{one['url']}" for one in sent]

    def add_source(self, prometheus: str) -> bool:
        """Make the Prometheus at this URL a data source; false where it is one already. Raises PushFailed."""
        source = data_source(prometheus)
        with self._explained():
            try:
                there = self._client.datasource.get_datasource_by_name(source["name"])
            except GrafanaClientError as error:
                if error.status_code != 404:
                    raise
                self._client.datasource.create_datasource(source)
                return True
        if there["url"] != prometheus:
            raise PushFailed(f"The data source {source['name']!r} is there and reads {there['url']}: change it there.")
        return False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except GrafanaException as error:
            raise PushFailed(_refusal(error, self._url)) from error
        except requests.JSONDecodeError as error:
            raise PushFailed(f"{self._url} answered, but not as Grafana's API does; is the URL right?") from error
        except requests.RequestException as error:
            raise PushFailed(f"{self._url} cannot be reached: {error}") from error
        except (KeyError, TypeError) as error:
            raise PushFailed(f"{self._url} answered in a form that is not Grafana's; is the URL right?") from error

    def _folder(self, title: str) -> str:
        """The uid of the folder, which is made where there is none."""
        for folder in self._client.folder.get_all_folders():
            if folder["title"] == title:
                return folder["uid"]
        return self._client.folder.create_folder(title)["uid"]


def data_source(prometheus: str) -> dict[str, Any]:
    """What Grafana's POST /api/datasources takes, and its provisioning."""
    return {"name": "Chatterbox", "uid": "chatterbox", "type": "prometheus", "access": "proxy", "url": prometheus}


def payload(dashboard: dict[str, Any], folder_uid: str) -> dict[str, Any]:
    """What Grafana's POST /api/dashboards/db takes."""
    return {"dashboard": dashboard, "folderUid": folder_uid, "overwrite": True}


def _refusal(error: GrafanaException, url: str) -> str:
    if error.status_code == 401:
        return f"{url} does not know the token (401)."
    if error.status_code == 403:
        return f"{url} forbids it: the token's account needs the Editor role (403)."
    return f"{url} refused: {error.message}"
