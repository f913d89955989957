"""Requests to the API server over connections that stay open: kubectl takes longer than what is measured here."""

import base64
import functools
import http.client
import json
import ssl
import subprocess
import tempfile
from urllib.parse import urlencode, urlsplit


class Refused(Exception):
    """The API server said no; `status` is the HTTP status."""

    def __init__(self, method, path, status, body):
        super().__init__(f"{method} {path}: {status} {body.decode(errors='replace')[:500]}")
        self.status = status


@functools.cache
def server():
    """Address and TLS of the kubeconfig's API server."""
    shown = subprocess.run(
        ["kubectl", "config", "view", "--raw", "--minify", "--output=json"], check=True, capture_output=True
    )
    config = json.loads(shown.stdout)
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    # A client certificate is only taken from a file.
    with tempfile.NamedTemporaryFile() as file:
        file.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        file.flush()
        context.load_cert_chain(file.name)
    return urlsplit(cluster["server"]).netloc, context


class Connection:
    """One connection, for one thread at a time."""

    def __init__(self):
        address, context = server()
        self.http = http.client.HTTPSConnection(address, context=context)

    def call(self, method, path, body=None, content_type="application/json"):
        """The answer's object."""
        text = None if body is None else json.dumps(body)
        self.http.request(method, path, text, {"Content-Type": content_type, "Accept": "application/json"})
        answer = self.http.getresponse()
        received = answer.read()
        if answer.status >= 300:
            raise Refused(method, path, answer.status, received)
        return json.loads(received)

    def patch(self, path, change):
        return self.call("PATCH", path, change, "application/merge-patch+json")

    def delete(self, path, **options):
        """Deletes what may be gone already."""
        try:
            self.call("DELETE", path, options or None)
        except Refused as refused:
            if refused.status != 404:
                raise

    def watch(self, path, **query):
        """The events from what exists on, until the API server or `close` ends them."""
        self.http.request("GET", f"{path}?{urlencode({'watch': 'true', **query})}")
        answer = self.http.getresponse()
        if answer.status >= 300:
            raise Refused("WATCH", path, answer.status, answer.read())
        for line in answer:
            yield json.loads(line)

    def close(self):
        self.http.close()
